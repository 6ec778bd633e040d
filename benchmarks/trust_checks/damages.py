"""Ways to damage a file; a hard link is replaced, so that its other name is unaffected."""

import os
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path], object]


def instead(make: Damage) -> Damage:
    """Replace a file by something else."""

    def replace(path: Path) -> None:
        path.unlink(missing_ok=True)
        make(path)

    return replace


def write(content: bytes | str) -> Damage:
    data = content.encode() if isinstance(content, str) else content
    return instead(lambda path: path.write_bytes(data))


def change(function: Callable[[bytes], bytes]) -> Damage:
    return lambda path: write(function(path.read_bytes()))(path)


def cut(fraction: float) -> Damage:
    return change(lambda old: old[: int(len(old) * fraction)])


def flip(fraction: float) -> Damage:
    """Flip a bit at a fraction of the file."""

    def flipped(content: bytes) -> bytes:
        position = int(len(content) * fraction)
        return content[:position] + bytes([content[position] ^ 0x40]) + content[position + 1 :]

    return change(flipped)


def link(target: str) -> Damage:
    return instead(lambda path: path.symlink_to(target or path.name))


ANY_FILE: dict[str, Damage] = {
    "empty": write(""),
    "half": cut(0.5),
    "HTML": write("<!DOCTYPE html><title>404</title>"),
    "binary": write(bytes(range(256)) * 9),
    "brackets": write("[" * 100_000),
    "folder": instead(Path.mkdir),
    "FIFO": instead(os.mkfifo),
    "loop of links": link(""),
    "endless device": link("/dev/zero"),
}

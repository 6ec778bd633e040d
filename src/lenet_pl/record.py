"""What a run writes down about itself."""

import json
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from uuid import uuid4

PACKAGES = ("lenet-pl", "torch", "torchvision", "pytorch-lightning", "hydra-core", "omegaconf")


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Write ``result.json``, whole or not at all."""
    write_json(folder / "result.json", result)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write(path, (json.dumps(values, indent=2) + "\n").encode())


def write(path: Path, raw: bytes) -> None:
    """Write a file, whole or not at all, whoever else writes it at the same time."""
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        part.write_bytes(raw)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def is_job(folder: Path) -> bool:
    """Whether a run folder is that of a job of a sweep."""
    return "mode: MULTIRUN\n" in _mode(folder)


def _mode(folder: Path) -> str:
    """What Hydra has written of how a run was started; nothing where it has not."""
    file = folder / ".hydra" / "hydra.yaml"
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def is_single(folder: Path) -> bool:
    """Whether it is that of a run which Hydra started by itself."""
    return "mode: RUN\n" in _mode(folder)


def shown(folder: Path) -> Path:
    """The path as one would type it here."""
    folder = folder.absolute()
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def versions() -> dict[str, str]:
    """The installed versions of what a run depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git() -> dict[str, Any] | None:
    """Commit and cleanliness of the code's checkout; None where it is none."""
    here = Path(__file__).parent

    def ask(*words: str) -> str:
        command = ["git", "-C", str(here), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        ask("ls-files", "--error-unmatch", __file__)  # not some other project's repository
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None

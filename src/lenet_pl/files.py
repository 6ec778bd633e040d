"""Atomic file writes, bounded reads, and paths as they are shown and quoted."""

import csv
import errno
import io
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from hydra.core.hydra_config import HydraConfig


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it once the block succeeds.

    The content is on disk before the file is renamed, so neither a crash nor a second writer
    leaves a truncated file. An OSError names the file.
    """
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        error.filename = str(path)  # not the temporary one, or none if the disk is full
        raise
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file atomically."""
    with replacing(path) as part:
        part.write_bytes(data)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_bytes(path, (json.dumps(values, indent=2) + "\n").encode())


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file atomically."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def read_regular(path: Path, limit: int) -> bytes:
    """At most the first ``limit`` bytes of a file; OSError for a pipe, which could block."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with path.open("rb") as file:
        return file.read(limit)


def display_path(path: Path) -> Path:
    """Return the path relative to the user's folder if it lies inside, else the absolute path."""
    path = path.absolute()
    # hydra.job.chdir changes the current folder
    start = HydraConfig.get().runtime.cwd if HydraConfig.initialized() else Path.cwd()
    return path.relative_to(start) if path.is_relative_to(start) else path


def quoted(path: Path | str, always: bool = True) -> str:
    """A path as the value of an override, quoted for Hydra, ``always`` or where required."""
    text = path.as_posix() if isinstance(path, Path) else path
    plain = not always and re.fullmatch(r"[\w./:~+-]+", text)
    return text if plain else "'" + text.replace("'", r"\'") + "'"


def shell_override(key: str, path: Path) -> str:
    """``hydra.run.dir=PATH`` for Hydra, quoted where Hydra and the shell require it."""
    return shlex.quote(f"{key}={quoted(path, always=False)}")

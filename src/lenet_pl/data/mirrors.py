"""Files from web mirrors, going on where an earlier try broke off."""

import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from lenet_pl.data.download import File, install

TIMEOUT = 20  # seconds without an answer


def from_mirrors(urls: Sequence[str], folder: Path, files: Sequence[File]) -> str:
    """Ask web mirrors in order for ``<url><name>.gz``; returns the one that had them all."""
    reasons = []
    for url in urls:
        try:
            for file in files:
                part = folder / f"{file.name}.gz.part"
                _download(f"{url}{file.name}.gz", part)
                whole = install(folder, file, part.read_bytes())
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

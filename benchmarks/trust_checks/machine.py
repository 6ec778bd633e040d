"""Faults of the machine: full disks, deleted folders, closed outputs, odd names."""

import argparse
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from helpers.commands import ROOT, Done, Running

from trust_checks import base
from trust_checks.base import QUICK, Case, quoted, reference, require, require_same, result, run
from trust_checks.interruptions import continue_as_printed, interrupt

ITEMS = {
    "disk": "the disk is full, or the run folder deleted, at a random file-system change",
    "machine": "no place to write, closed outputs, encodings, missing folders, few open files",
    "names": "working and run folders with odd names: interrupted, resumed, tested",
}
WORDS = [*QUICK, "trainer.max_epochs=3"]
NAMES = [
    *("two words", "it's", 'a "quote"', "a=b,c", "数据", "[x]", "-x", "${x}", "a#b", "%d", "~", "é")
]


def cases(options: argparse.Namespace) -> Iterator[Case]:
    rng = random.Random(options.seed)
    for number in range(3 if options.quick else 15):
        yield Case("disk", "full", partial(disk_full, rng.random()))
        if number % 3 == 0:
            yield Case("disk", "run folder deleted", partial(folder_deleted, rng.random()))
    for check in MACHINE[::3] if options.quick else MACHINE:
        yield Case("machine", check.__doc__ or "", check)
    for name in NAMES[:2] if options.quick else NAMES:
        yield Case("names", name, partial(odd_name, name, rng.random()))


@contextmanager
def small_disk(folder: Path, options: str = "size=20m") -> Iterator[Path]:
    """Mount a file system in memory, which only root may."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        raise base.SkippedError("cannot mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(path: Path) -> None:
    """Leave no space on the disk of a file."""
    try:
        with path.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(2**20))
    except OSError:
        return


def disk_full(number: float, w: Path) -> None:
    """A disk that fills up before a random change ends the run in one line; it can be resumed.

    Optional files, such as the log, may be missing.
    """
    expected, rng = reference(WORDS), random.Random(number)
    with small_disk(w.parent / "disk") as disk:
        folder, filler = disk / "run", disk / "filler"
        action = partial(_fill, filler)
        change = rng.randint(1, expected.changes)
        hook = partial(base.at_change, folder, w.parent / "log", change, action)
        command = [*WORDS, quoted("hydra.run.dir", folder)]
        done = run(w, *command, hook=hook, status=(0, 1, 2))
        filler.unlink(missing_ok=True)
        if done.returncode:
            status = result(folder).get("status")
            require(status != "finished" or done.returncode == 0, "finished, but not status 0")
            base.complete(w, folder, command)
        require_same(folder, expected.folder)


def folder_deleted(number: float, w: Path) -> None:
    """A run folder that is deleted before a random change ends the run in one line."""
    changes = reference(WORDS).changes
    folder = w / "run"
    action = partial(shutil.rmtree, folder, ignore_errors=True)
    change = random.Random(number).randint(changes // 4, changes)
    hook = partial(base.at_change, folder, w.parent / "log", change, action)
    done = run(w, *WORDS, quoted("hydra.run.dir", folder), hook=hook, status=(0, 1))
    require(done.returncode == 1 or (folder / "result.json").exists(), "status 0, but no result")


def _trains(w: Path, **options: Any) -> None:
    """A run that must be unaffected equals the reference."""
    run(w, *WORDS, "hydra.run.dir=run", **options)
    require_same(w / "run", reference(WORDS).folder)


def read_only(w: Path) -> None:
    """Read-only folder."""
    with small_disk(w.parent / "disk", "ro") as disk:
        run(w, *WORDS, quoted("hydra.run.dir", disk / "run"), status=(2,))
        run(w, *WORDS, "hydra.run.dir=/proc/run", status=(2,))


def folder_without_cwd(w: Path) -> None:
    """Deleted working folder."""
    folder = w.parent / "run"
    command = [*WORDS, quoted("hydra.run.dir", folder)]
    run(w, *command, hook=partial(os.rmdir, w), status=(0, 2))


def full_stdout(w: Path) -> None:
    """Standard output to /dev/full."""
    run(w, *WORDS, "hydra.run.dir=run", hook=partial(_redirect, "/dev/full"), status=(0, 1))
    require(result(w / "run").get("status") in ("finished", "interrupted", "failed"), "no result")


def _redirect(path: str) -> None:
    os.dup2(os.open(path, os.O_WRONLY), 1)


def _shell(w: Path, line: str, **environment: str) -> Done:
    """Run a line of bash, in which TRAIN and TOOL stand for the commands."""
    main = "from lenet_pl.cli import main; main()"
    line = line.replace("TRAIN", f"{sys.executable} {ROOT / 'train.py'} {shlex.join(WORDS)}")
    line = line.replace("TOOL", f"{sys.executable} -c {shlex.quote(main)}")
    command = ["bash", "-c", f"set -o pipefail; {line}"]
    ended = subprocess.run(
        command, cwd=w, env=os.environ | environment, capture_output=True, errors="replace"
    )
    return Done(ended.returncode, ended.stdout, ended.stderr)


def closed_pipe(w: Path) -> None:
    """Output to head, which closes the pipe after three lines."""
    done = _shell(w, "TRAIN hydra.run.dir=run | head -3")
    base.check_answer(done, (0, 1))
    if result(w / "run").get("status") != "finished":
        require(result(w / "run").get("status") == "interrupted", "neither finished nor stopped")
        base.complete(w, w / "run", [*WORDS, "hydra.run.dir=run"])
    require_same(w / "run", reference(WORDS).folder)


def ascii_output(w: Path) -> None:
    """Output in ASCII, and in code page 932, as on a Japanese Windows."""
    for name in ("ascii", "cp932"):
        line = f"TRAIN hydra.run.dir={name} && TOOL test {name}"
        base.check_answer(_shell(w, line, PYTHONIOENCODING=name), (0,))
        require_same(w / name, reference(WORDS).folder)


def no_home(w: Path) -> None:
    """HOME and TMPDIR do not exist, and USER, LANG and PATH are not set."""
    environment = {"HOME": "/nonexistent", "TMPDIR": "/nonexistent"}
    _trains(w, environment=environment | dict.fromkeys(("USER", "LOGNAME", "LANG", "PATH")))


def few_files(w: Path) -> None:
    """24 open files."""
    _trains(w, hook=partial(resource.setrlimit, resource.RLIMIT_NOFILE, (24, 24)))


def closed_streams(w: Path) -> None:
    """Standard input and output are closed."""
    _trains(w, hook=partial(os.closerange, 0, 2))


def another_run(w: Path) -> None:
    """A second run in the same folder."""
    _trains(w)
    before = (w / "run" / "result.json").read_bytes()
    run(w, *WORDS, "hydra.run.dir=run", status=(2,))
    require((w / "run" / "result.json").read_bytes() == before, "the first run has changed")


MACHINE: list[Callable[[Path], None]] = [
    *(closed_pipe, full_stdout, read_only, ascii_output, few_files, folder_without_cwd),
    *(no_home, closed_streams, another_run),
]


def odd_name(name: str, moment: float, w: Path) -> None:
    """A run interrupted in an oddly named folder prints a command that completes it there."""
    cwd = w / name
    cwd.mkdir()
    send = partial(Running.send_signal, number=signal.SIGINT)
    _, done = interrupt(cwd, WORDS, cwd / name, moment, send)
    continue_as_printed(cwd, cwd / name, WORDS, done.stdout)
    run(cwd, "test", f"./{name}", program="lenet-pl")

"""Shared by the checks: starting commands, checking their output, comparing runs."""

import csv
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from helpers.commands import Done, Running

SMALL = ["data=mini", "data.val_size=100", "trainer.accelerator=cpu", "logger=none"]
QUICK = [*SMALL, "data.fraction=0.1", "data.batch_size=64", "optimizer.lr=0.05"]
# no mirror and no package index answers
OFFLINE = {f"{name}_proxy": "http://127.0.0.1:9" for name in ("http", "https")}
OFFLINE |= {"PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1"}
MEMORY = 8 * 2**30  # bytes of data of a process
LIMIT = 20  # seconds for a refusal
ENDED = 30  # seconds for all processes of a stopped run to end

Hook = Callable[[], object] | None


class FailedError(AssertionError):
    """The project does not keep a promise; the message says what it did instead."""


class SkippedError(Exception):
    """The machine lacks what a check needs."""


class Case(NamedTuple):
    """A case: its row in the table, its name, and its check, which gets an empty folder."""

    item: str
    name: str
    check: Callable[[Path], None]


class Reference(NamedTuple):
    """An uninterrupted run: its folder, its duration, and how often it changed a file."""

    folder: Path
    seconds: float
    changes: int


shared = Path()  # the folder that all workers share
_started: list[Running] = []


def use_folder(folder: Path) -> None:
    """Initialise a worker process."""
    global shared
    shared = folder / "shared"
    os.environ.update(OFFLINE)


def require(condition: object, message: str) -> None:
    if not condition:
        raise FailedError(message)


def wait_until(there: Callable[[], object], seconds: float, message: str) -> None:
    end = time.monotonic() + seconds
    while not there():
        require(time.monotonic() < end, message)
        time.sleep(0.02)


# --- commands


def start(
    cwd: Path,
    *words: str,
    program: str = "train.py",
    environment: Mapping[str, str | None] | None = None,
    hook: Hook = None,
) -> Running:
    """Start a command in a session of its own; the hook is called there first."""
    before = partial(_prepare, {**OFFLINE, **(environment or {})}, hook)
    running = Running(*words, cwd=cwd, program=program, before=before)
    _started.append(running)
    return running


def _prepare(environment: Mapping[str, str | None], hook: Hook) -> None:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    for name, value in environment.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    tempfile.tempdir = None  # the server may have chosen one already
    if hook:
        hook()


def finish(
    running: Running, status: Collection[int] = (0,), seconds: float = 120, lines: int = 1
) -> Done:
    """Wait for a command to end; raise FailedError if its status or output is wrong."""
    try:
        done = running.wait(seconds)
    except TimeoutError as error:
        raise FailedError(f"still running after {seconds} s") from error
    check_answer(done, status, lines)
    return done


def run(
    cwd: Path, *words: str, status: Collection[int] = (0,), seconds: float = 120, **options: Any
) -> Done:
    return finish(start(cwd, *words, **options), status, seconds)


def check_answer(done: Done, status: Collection[int], lines: int = 1) -> None:
    """Raise FailedError for another status, a traceback, or more than ``lines`` lines of errors."""
    answer = f"status {done.returncode}: {done.stderr.strip()[-300:]!r}"
    require(done.returncode in status, f"{answer}; expected {sorted(status)}")
    require("Traceback (most" not in done.stdout + done.stderr, f"traceback; {answer}")
    if done.returncode:
        # argparse prints the usage, and a download its name
        ignored = ("usage:", " ", "downloading ")
        errors = [line for line in done.stderr.splitlines() if not line.startswith(ignored)]
        least = 1 if done.returncode == 2 or not done.stdout else 0  # the summary may have it
        require(least <= len(errors) <= lines, f"{len(errors)} lines; {answer}")
        require(all("error:" in line and len(line) < 2000 for line in errors), answer)


def session(running: Running) -> list[int]:
    """The live processes of a command."""
    members = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, leader = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has just ended
            continue
        if int(leader) == running.process.pid and state != "Z":
            members.append(int(path.parent.name))
    return members


def require_ended(running: Running) -> None:
    left = partial(session, running)
    wait_until(lambda: not left(), ENDED, f"processes left after {ENDED} s")


def end_all() -> None:
    """Kill the processes that a check left behind."""
    for running in _started:
        for pid in session(running):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        running.process.join()
    _started.clear()


def at_change(folder: Path, log: Path, number: int, action: Callable[[], object]) -> None:
    """A hook that acts before a change in a folder: a file is opened to write, renamed or removed.

    Args:
        folder: the folder in which changes count.
        log: gets a byte per change.
        number: the change to act before, from 1; 0 never acts.
        action: what to do then.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        writes = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if not writes and event not in ("os.rename", "os.remove", "os.mkdir"):
            return
        if any(str(path).startswith(str(folder)) for path in arguments[:2]):
            count += 1
            os.write(descriptor, b".")
            if count == number:
                action()

    sys.addaudithook(hook)


# --- runs


def quoted(key: str, value: Path | str) -> str:
    """An override whose value may contain any characters."""
    return f"{key}='" + str(value).replace("'", r"\'") + "'"


def rows(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv, without the seconds."""
    path = folder / "metrics.csv"
    text = path.read_text().splitlines() if path.exists() else []
    return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(text)]


def result(folder: Path) -> dict[str, Any]:
    path = folder / "result.json"
    return json.loads(path.read_text()) if path.exists() else {}


def require_same(folder: Path, expected: Path) -> None:
    """Compare, bit for bit, everything that must not depend on interruptions."""
    one, other = _outcome(folder), _outcome(expected)
    different = [key for key in other if not _same(one[key], other[key])]
    require(not different, f"differs from the uninterrupted run: {', '.join(different)}")


def _outcome(folder: Path) -> dict[str, Any]:
    best, last = folder / "best.pth", folder / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True) if last.exists() else {}
    record = result(folder)
    keys = ("status", "metrics", "epochs", "best_epoch", "stopped_early")
    states = ("state_dict", "optimizer_states", "lr_schedulers")
    return {
        "metrics.csv": rows(folder),
        **{f"result.json: {key}": record.get(key) for key in keys},
        **{f"last.ckpt: {key}": state.get(key) for key in states},
        "best.pth": torch.load(best, weights_only=True) if best.exists() else None,
    }


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def complete(cwd: Path, folder: Path, command: list[str]) -> None:
    """Resume a run until it has finished; where ``resume`` refuses, repeat its command."""
    done = run(cwd, f"resume={folder}", status=(0, 2))
    if done.returncode == 2 and result(folder).get("status") != "finished":
        try:
            run(cwd, *command)
        except FailedError as error:
            raise FailedError(f"cannot be resumed ({done.stderr.strip()}): {error}") from error


def once(name: str, make: Callable[[Path], object]) -> Path:
    """A folder that one worker creates and all share; its file ``seconds`` has the time taken."""
    folder = shared / name
    shared.mkdir(parents=True, exist_ok=True)
    with FileLock(shared / f"{name}.lock"):
        if not (folder / "seconds").exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a failed attempt
            folder.mkdir()
            began = time.monotonic()
            make(folder)
            (folder / "seconds").write_text(str(time.monotonic() - began))
    return folder


def seconds_of(folder: Path) -> float:
    return float((folder / "seconds").read_text())


def reference(words: list[str]) -> Reference:
    """The uninterrupted run with these overrides."""

    def train(folder: Path) -> None:
        hook = partial(at_change, folder / "run", folder / "changes", 0, print)
        run(folder, *words, quoted("hydra.run.dir", folder / "run"), hook=hook)

    folder = once(f"{zlib.crc32(' '.join(words).encode()):08x}", train)
    return Reference(folder / "run", seconds_of(folder), (folder / "changes").stat().st_size)

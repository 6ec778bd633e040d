"""Runs and sweeps that are killed or stopped must continue as if never interrupted."""

import argparse
import json
import os
import random
import re
import shlex
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from helpers.commands import ROOT, Done, Running

from trust_checks import base
from trust_checks.base import QUICK, Case, quoted, reference, require, require_same, result, run

ITEMS = {
    "kills": "SIGKILL at a random moment or file-system change, over all of `conf/`; resumed",
    "signals": "SIGINT, SIGTERM or SIGUSR1 at a random moment; the printed command completes it",
    "ddp-signals": "SIGTERM to rank 0, rank 1 or both, or SIGINT to the group; resumed",
    "sweeps": "a sweep killed at a random moment, with basic and joblib launcher; repeated",
}
GROUPS = ("model", "loss", "optimizer", "scheduler", "augment", "callbacks", "classifier")
# what an option needs to be quick or to have an effect, and options that are not files
NEEDS = {
    "model=pretrained": ["model.name=shufflenet_v2_x0_5", "data.fraction=0.02"],
    "model=lstm": ["model.num_layers=2", "model.dropout=0.2"],
    "loss=mse": ["optimizer.lr=0.1"],
    "optimizer=muon": ["optimizer.lr=0.02"],
    "optimizer=adam": ["optimizer.lr=0.003"],
    "optimizer=adamw": ["optimizer.lr=0.003"],
}
BESIDE = {"loss": ["loss.label_smoothing=0.1"], "augment": ["augment=[affine,noise]"]}
DDP = ["trainer=ddp", "trainer.devices=2"]


def cases(options: argparse.Namespace) -> Iterator[Case]:
    rng, quick = random.Random(options.seed), options.quick
    for words in configurations(rng, 3 if quick else 22):
        for number in range(2 if quick else 5):
            # the two flags take all four combinations
            check = partial(killed, words, rng.random(), number % 2 == 0, number % 4 < 2)
            yield Case("kills", " ".join(words[len(QUICK) :]), check)
    for number in range(3 if quick else 21):
        kind = (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM)[number % 3]
        yield Case("signals", kind.name, partial(signalled, kind, rng.random()))
    for number in range(1 if quick else 20):
        target = ("rank 0", "rank 1", "both", "group")[number % 4]
        yield Case("ddp-signals", target, partial(ddp_signalled, target, rng.random()))
    for launcher in ["basic", "joblib"] * (1 if quick else 5):
        yield Case("sweeps", launcher, partial(sweep_killed, launcher, rng.random()))


def configurations(rng: random.Random, count: int) -> list[list[str]]:
    """Random options of all groups; if there are enough, each option at least once."""
    columns = []
    for group in GROUPS:
        names = sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))
        column = [f"{group}={name}" for name in names] + BESIDE.get(group, [])
        column += rng.choices(column, k=max(0, count - len(column)))
        columns.append(rng.sample(column, len(column)))
    drawn = []
    for options in zip(*columns, strict=False):
        words = list(options)
        if "callbacks=finetune" in words:
            words = ["model=pretrained", "model.freeze=true", *words[1:]]
        needs = [item for word in words for item in NEEDS.get(word, [])]
        drawn.append([*QUICK, *words, *needs, f"trainer.max_epochs={rng.choice([3, 4])}"])
    names = {option for column in columns for option in column}
    if count == len(columns[0]) and not names <= {word for words in drawn for word in words}:
        return configurations(rng, count)  # finetune has replaced the only row of a model
    return drawn[:count]


def killed(words: list[str], number: float, at_a_change: bool, elsewhere: bool, w: Path) -> None:
    """A run killed once or twice equals the uninterrupted one bit for bit.

    Args:
        words: the overrides.
        number: from 0 to 1, the seed.
        at_a_change: kill when a file changes, or within milliseconds; else at any moment.
        elsewhere: whether the run folder is on another file system than TMPDIR.
        w: the working folder.
    """
    rng, expected = random.Random(number), reference(words)
    memory = elsewhere and os.access("/dev/shm", os.W_OK)
    place = Path(tempfile.mkdtemp(prefix="trust-", dir="/dev/shm" if memory else w))
    folder = place / "run"
    attempt = command = [*words, quoted("hydra.run.dir", folder)]
    try:
        for _ in range(rng.choice([1, 1, 2])):
            hook = None
            if at_a_change:
                end = partial(_end, rng.choice([0, rng.expovariate(1000)]))
                change = rng.randint(1, expected.changes)
                hook = partial(base.at_change, folder, w.parent / "log", change, end)
            running = base.start(w, *attempt, hook=hook)
            if not at_a_change:
                running.process.join(rng.uniform(0.1, expected.seconds))
                if running.poll() is None:
                    running.send_signal(signal.SIGKILL)
            done = running.wait()
            if done.returncode >= 0:
                base.check_answer(done, (0, 2))  # finished before, or nothing to resume
            attempt = [f"resume={folder}"]
        base.complete(w, folder, command)
        require_same(folder, expected.folder)
    finally:
        shutil.rmtree(place)


def _end(delay: float) -> None:
    """End this process after some seconds by a signal that nothing handles."""
    if not delay:
        os.kill(os.getpid(), signal.SIGKILL)
    signal.setitimer(signal.ITIMER_PROF, delay)


def interrupt(
    cwd: Path, words: list[str], folder: Path, moment: float, send: Callable[[Running], None]
) -> tuple[Running, Done]:
    """Start a run, and interrupt it at a moment from 0, the start summary, to 1, the end."""
    command = [*words, quoted("hydra.run.dir", folder)]
    for _ in range(6):
        running = base.start(cwd, *command)
        log = folder / "train.log"
        running.wait_for(lambda log=log: log.exists() and "run folder" in log.read_text())
        running.process.join(moment * reference(words).seconds)
        if running.poll() is None:
            send(running)
        done = base.finish(running, status=(0, 1), seconds=base.ENDED)
        if done.returncode == 1:
            require(result(folder).get("status") == "interrupted", f"{folder}: {result(folder)}")
            return running, done
        shutil.rmtree(folder)  # it had finished, or was about to
        moment /= 2
    raise base.FailedError("ignores the signal")


def continue_as_printed(cwd: Path, folder: Path, words: list[str], stdout: str) -> None:
    """Run the command that an interrupted run has printed, as a shell splits it."""
    printed = re.findall(r"python train\.py (.*)", stdout)
    if printed or (folder / "checkpoints" / "last.ckpt").exists():
        require(printed, f"no command to continue with: {stdout[-200:]!r}")
        run(cwd, *shlex.split(printed[-1]))
    else:
        base.complete(cwd, folder, [*words, quoted("hydra.run.dir", folder)])
    require_same(folder, reference(words).folder)


def signalled(kind: signal.Signals, moment: float, w: Path) -> None:
    """A stopped run is recorded as interrupted, and the command that it prints completes it."""
    words = [*QUICK, "trainer.max_epochs=4"]
    send = partial(Running.send_signal, number=kind)
    _, done = interrupt(w, words, w / "run", moment, send)
    continue_as_printed(w, w / "run", words, done.stdout)


def second_rank(running: Running) -> int | None:
    """The process that rank 0 has launched."""
    for pid in base.session(running):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if pid != running.process.pid and b"train.py" in command:
            return pid
    return None


def ddp_signalled(target: str, moment: float, w: Path) -> None:
    """All processes of a stopped DDP run end soon; it can be resumed."""
    words = [*QUICK, "data.batch_size=32", *DDP, "trainer.max_epochs=12"]
    words += ["callbacks.early_stopping=null"]
    folder = w / "run"

    def send(running: Running) -> None:
        first = running.process.pid
        assert first is not None
        if target == "group":
            os.killpg(first, signal.SIGINT)
        if target in ("rank 1", "both"):
            base.wait_until(lambda: second_rank(running), 60, "rank 1 does not start")
            os.kill(second_rank(running) or first, signal.SIGTERM)
        if target in ("rank 0", "both"):
            os.kill(first, signal.SIGTERM)

    running, _ = interrupt(w, words, folder, moment, send)
    base.require_ended(running)
    last = folder / "checkpoints" / "last.ckpt"
    require(last.exists() or len(base.rows(folder)) < 2, "no last.ckpt after a finished epoch")
    base.complete(w, folder, [*words, quoted("hydra.run.dir", folder)])
    require_same(folder, reference(words).folder)


def sweep_killed(launcher: str, moment: float, w: Path) -> None:
    """A killed sweep leaves no worker; repeated, it skips finished jobs and completes the rest."""
    words = ["-m", *QUICK, "trainer.max_epochs=2", "hydra.sweep.dir=sweep"]
    words += ["optimizer.lr=0.03,0.05", "data.batch_size=32,64"]
    words += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    whole = base.once(f"sweep-{launcher}", lambda folder: run(folder, *words))
    running = base.start(w, *words)
    running.process.join(moment * base.seconds_of(whole))
    running.process.kill()  # does nothing if the sweep has ended
    running.wait()
    base.require_ended(running)
    finished = {
        job / "metrics.csv": (job / "metrics.csv").stat().st_mtime_ns
        for job in (w / "sweep").glob("[0-9]")
        if result(job).get("status") == "finished"
    }
    run(w, *words)
    repeated = [path for path, written in finished.items() if path.stat().st_mtime_ns != written]
    require(not repeated, f"finished jobs were repeated: {repeated}")
    require(_table(w) == _table(whole), "sweep.json differs from the uninterrupted sweep's")


def _table(folder: Path) -> dict[str, Any]:
    """The content of sweep.json, without times and folders."""
    content = json.loads((folder / "sweep" / "sweep.json").read_text())
    for part in (content, *content["jobs"]):
        for key in ("folder", "seconds"):
            part.pop(key, None)
    return dict(content)

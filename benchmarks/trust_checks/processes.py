"""Runs of several processes: on one machine, on two, and under Slurm."""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from helpers.commands import ROOT, Running

from trust_checks import base
from trust_checks.base import SMALL, Case, quoted, reference, require, require_same, run
from trust_checks.interruptions import DDP, second_rank

ITEMS = {
    "ddp": "two processes train like one: losses agree to 1e-5",
    "ddp-kills": "a rank is killed, and the other ends; resumed",
    "hosts": "two hosts in network namespaces, with torchrun, train like one process",
    "slurm": "tests/test_slurm.py: requeued, out of time, cancelled, on a one-node Slurm",
}
# a small learning rate, since differences by rounding grow with it
WORDS = [*SMALL, "data.fraction=0.2", "optimizer.lr=0.005", "trainer.max_epochs=3"]
ONE, HALF = "data.batch_size=64", "data.batch_size=32"


def cases(options: argparse.Namespace) -> Iterator[Case]:
    for model in ["lenet"] if options.quick else ["lenet", "mlp model.dropout=0", "lstm"]:
        yield Case("ddp", model, partial(ddp_equals_one, f"model={model}".split()))
    for number in range(1 if options.quick else 6):
        rank = (number + 1) % 2
        yield Case("ddp-kills", f"rank {rank}", partial(rank_killed, rank))
    if options.quick and not shutil.which("slurmctld"):
        return
    yield Case("hosts", "torchrun --nnodes 2", two_hosts)
    names = re.findall(r"^def (test_\w+)", (ROOT / "tests" / "test_slurm.py").read_text(), re.M)
    for name in [] if options.quick else names * 3:
        yield Case("slurm", name, partial(slurm_test, name))


def require_close(folder: Path, other: Path) -> None:
    """Losses must agree to 1e-5; accuracies may differ by images at the decision boundary."""
    one, two = base.rows(folder), base.rows(other)
    require(len(one) == len(two) > 0, f"{len(one)} and {len(two)} epochs")
    for row, expected in zip(one, two, strict=True):
        for key in ("train/loss", "val/loss"):
            difference = abs(float(row[key]) - float(expected[key]))
            require(difference <= 1e-5, f"{key} of epoch {row['epoch']} differs by {difference}")
    tests = [base.result(path)["metrics"]["test/loss"] for path in (folder, other)]
    require(abs(tests[0] - tests[1]) <= 1e-5, f"test/loss: {tests}")


def ddp_equals_one(model: list[str], w: Path) -> None:
    words = [*WORDS, *model]
    run(w, *words, HALF, *DDP, "hydra.run.dir=run")
    require_close(w / "run", reference([*words, ONE]).folder)


def rank_killed(rank: int, w: Path) -> None:
    """No process outlives a killed rank, and the run can be resumed."""
    words = [*WORDS[:-1], "trainer.max_epochs=30", "callbacks.early_stopping=null", HALF, *DDP]
    expected, folder = reference(words), w / "run"
    command = [*words, quoted("hydra.run.dir", folder)]
    running = base.start(w, *command)
    base.wait_until(lambda: base.rows(folder), 60, "no epoch")
    running.send_signal(signal.SIGKILL) if rank == 0 else _kill_second(running)
    base.require_ended(running)
    base.complete(w, folder, command)
    require_same(folder, expected.folder)


def _kill_second(running: Running) -> None:
    pid = second_rank(running)
    require(pid, "no second process")
    os.kill(pid or 0, signal.SIGKILL)


def _ip(*words: str) -> None:
    if subprocess.run(["ip", *words], capture_output=True).returncode:
        raise base.SkippedError("cannot make network namespaces")


def two_hosts(w: Path) -> None:
    """Each host has a network, a process and the shared run folder."""
    if os.geteuid() or not shutil.which("ip"):
        raise base.SkippedError("needs root and ip")
    names = [f"trust{os.getpid()}{end}" for end in "ab"]
    running = []
    try:
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", "veth0", "netns", names[0], "type", "veth", "peer", "veth0", "netns",
            names[1])  # fmt: skip
        for number, name in enumerate(names, start=1):
            _ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "veth0")
            _ip("-n", name, "link", "set", "veth0", "up")
        words = [*WORDS, HALF, "trainer=ddp", "trainer.devices=1", "+trainer.num_nodes=2"]
        for number, name in enumerate(names):
            command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run"]
            command += ["--nnodes=2", f"--node-rank={number}", "--nproc-per-node=1"]
            command += ["--master-addr=10.77.0.1", "--master-port=29500", str(ROOT / "train.py")]
            with (w / f"output{number}").open("w") as output:
                running.append(
                    subprocess.Popen(
                        [*command, *words, f"hydra.run.dir={w / 'run'}"],
                        cwd=w,
                        env=os.environ | {"GLOO_SOCKET_IFNAME": "veth0"},
                        stdout=output,
                        stderr=output,
                    )
                )
        for number, process in enumerate(running):
            status = process.wait(180)
            text = (w / f"output{number}").read_text()
            require(status == 0, f"host {number}: status {status}: {text[-500:]}")
    except subprocess.TimeoutExpired as error:
        raise base.FailedError("still running after 180 s") from error
    finally:
        for process in running:
            process.kill()
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
    require_close(w / "run", reference([*WORDS, ONE]).folder)


def slurm_test(name: str, w: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "--trust", "-p", "no:cacheprovider"]
    command += [f"{ROOT / 'tests' / 'test_slurm.py'}::{name}", f"--basetemp={w / 'pytest'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if " skipped" in done.stdout:
        raise base.SkippedError("Slurm is not installed, or not root")
    require(done.returncode == 0, done.stdout[-800:])

"""Runs under a real Slurm: requeued, out of time, cancelled. Needs root and slurm-wlm."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.commands import ROOT, Running
from helpers.runs import FAST, result, rows

pytestmark = [
    pytest.mark.trust,
    pytest.mark.skipif(
        not shutil.which("slurmctld") or os.geteuid() != 0, reason="needs Slurm and root"
    ),
]
WORDS = [*FAST, "logger=none", "data.fraction=0.2", "trainer.max_epochs=12"]
WORDS += ["callbacks.early_stopping=null"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A single-node Slurm cluster, which commands started by this process use."""
    folder = tmp_path_factory.mktemp("slurm")
    script = ROOT / "tests" / "helpers" / "slurm.sh"
    subprocess.run([script, folder], check=True, timeout=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        yield
        subprocess.run([script, folder, "stop"], check=True, timeout=60)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert Running(*WORDS, "hydra.run.dir=run", cwd=folder).wait().returncode == 0
    return folder / "run"


class Job:
    """``train.py`` in a batch job that may be requeued, in an empty folder."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        script = folder / "job.sh"
        train = " ".join([sys.executable, str(ROOT / "train.py"), *WORDS])
        script.write_text(f"#!/bin/bash\nsrun {train}\n")
        command = ["sbatch", "--parsable", "--requeue", "--open-mode=append", "--output=job.log"]
        self.number = _output([*command, *options, str(script)], folder).strip()

    @property
    def run(self) -> Path:
        """The run folder; there is one, however often the job starts."""
        folders = list(self.folder.glob("outputs/runs/*/*"))
        assert len(folders) == 1, folders
        assert re.fullmatch(rf"{self.number}-[0-9a-f]{{8}}", folders[0].name)
        assert folders[0].parent.name == "slurm"
        return folders[0]

    def state(self) -> str:
        return re.findall(r"JobState=(\w+)", _output(["scontrol", "show", "job", self.number]))[0]

    def restarts(self) -> int:
        shown = _output(["scontrol", "show", "job", self.number])
        return int(re.findall(r"Restarts=(\d+)", shown)[0])

    def log(self) -> str:
        path = self.folder / "job.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_for(self, there: Callable[[], object], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not there():
            assert time.monotonic() < end, f"{self.state()}: {self.log()[-2000:]}"
            time.sleep(0.1)

    def wait_for_epochs(self, number: int) -> None:
        tables = partial(self.folder.rglob, "metrics.csv")
        self.wait_for(lambda: any(len(rows(path.parent)) >= number for path in tables()))


def _output(command: list[str], cwd: Path | None = None) -> str:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def submit(slurm: None, tmp_path: Path) -> Iterator[Callable[..., Job]]:
    jobs = []

    def submit(*options: str) -> Job:
        jobs.append(Job(tmp_path, *options))
        return jobs[-1]

    yield submit
    for job in jobs:
        subprocess.run(["scancel", "--full", job.number], capture_output=True)


def seconds(run: Path) -> list[str]:
    """The duration of each epoch, which another run of it would not repeat."""
    lines = (run / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("seconds")
    return [line.split(",")[column] for line in lines[1:]]


def assert_resumed(job: Job, before: list[str], uninterrupted: Path) -> None:
    """The job has continued after its finished epochs, with the same numbers."""
    job.wait_for(lambda: job.state() in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"))
    assert job.state() == "COMPLETED", job.log()
    assert job.restarts() == 1
    assert seconds(job.run)[: len(before)] == before
    assert result(job.run)["status"] == "finished"
    assert result(job.run)["metrics"] == result(uninterrupted)["metrics"]
    assert rows(job.run) == rows(uninterrupted)
    weights, expected = (torch.load(path / "best.pth") for path in (job.run, uninterrupted))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert not list(job.folder.rglob("hpc_ckpt*"))


def test_requeued_job_continues(submit, uninterrupted):
    job = submit()
    job.wait_for_epochs(2)
    _output(["scontrol", "requeue", job.number])
    job.wait_for(lambda: job.state() != "RUNNING")
    before = seconds(job.run)
    assert 2 <= len(before) < 12
    assert_resumed(job, before, uninterrupted)


def test_job_out_of_time_is_requeued_and_continues(submit, uninterrupted):
    # every 30 s, Slurm sends what is due within 30 s, here after 50 to 80 s
    job = submit("--time=3", "--signal=USR1@100")
    job.wait_for_epochs(2)
    # stopped until then, the run is always far from its end
    pid = process(job)
    os.kill(pid, signal.SIGSTOP)
    assert job.restarts() == 0
    job.wait_for(lambda: signal_is_pending(pid))
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    job.wait_for(lambda: (job.run / "result.json").exists())
    assert result(job.run)["status"] == "interrupted"
    before = seconds(job.run)
    assert 2 <= len(before) < 12
    assert_resumed(job, before, uninterrupted)


def test_halving_sweep_prints_no_warnings(slurm, tmp_path):
    pytest.importorskip("lenet_pl.sweeps")  # here, since there can be one cluster at a time
    words = [*FAST, "logger=none", "data.fraction=0.2", "trainer.max_epochs=4", "-m"]
    words += ["hydra/sweeper=halving", "hydra.sweeper.eta=2", "hydra.sweeper.min_epochs=1"]
    words += ["optimizer.lr=0.05,1e-6", "hydra.sweep.dir=s", "hydra/launcher=submitit_slurm"]
    words += ["hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=null"]
    done = Running(*words, cwd=tmp_path).wait()
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not re.search("sacct|warning", done.stdout, re.IGNORECASE)
    ends = [(end["status"], end["epochs"]) for end in map(result, (tmp_path / "s").glob("[01]"))]
    assert sorted(ends) == [("finished", 4), ("pruned", 1)]


def process(job: Job) -> int:
    """The process of the run."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            program = (path / "exe").readlink()
            environment = (path / "environ").read_bytes().split(b"\0")
        except OSError:  # ended, or the kernel's
            continue
        if "python" in program.name and f"SLURM_JOB_ID={job.number}".encode() in environment:
            return int(path.name)
    raise AssertionError("no process of the job")


def signal_is_pending(pid: int) -> bool:
    """Whether a stopped process has received SIGUSR1, or has even been continued by Slurm."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    pending = int(re.findall(r"ShdPnd:\s*(\w+)", text)[0], 16)
    return bool(pending & 1 << signal.SIGUSR1 - 1) or "(stopped)" not in text


def test_cancelled_job_is_interrupted(submit):
    job = submit()
    job.wait_for_epochs(1)
    _output(["scancel", job.number])
    job.wait_for(lambda: job.state() == "CANCELLED")
    job.wait_for(lambda: (job.run / "result.json").exists(), 30)
    assert result(job.run)["status"] == "interrupted"
    assert (job.run / "checkpoints" / "last.ckpt").exists()
    assert job.restarts() == 0

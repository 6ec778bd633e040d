"""The lines that are printed while a sweep runs."""

import os
import re
from pathlib import Path

import pytest
from helpers.sweeps import write_job

from lenet_pl.sweeps.plan import Plan
from lenet_pl.sweeps.progress import Progress


def plan_of(folder: Path, names: str) -> Plan:
    jobs = {name: [f"optimizer.lr={name}"] for name in names}
    return Plan(folder, jobs, len(names), ("optimizer.lr",), {}, threads=1)


def test_jobs_are_counted_in_the_order_of_their_ends(tmp_path: Path, capsys) -> None:
    write_job(tmp_path, "0", ["optimizer.lr=0"])  # by an earlier start
    progress = Progress(plan_of(tmp_path, "0123"))
    for end, name in enumerate("312"):
        write_job(tmp_path, name, [f"optimizer.lr={name}"], acc=0.9 + int(name) / 100)
        os.utime(tmp_path / name / "result.json", (end, end))
        if end:  # two at once, the first time
            progress.update()
    progress.stop()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["job 3", "job 1", "job 2"]
    for line, count in zip(lines, ("2 of 4", "3 of 4", "4 of 4"), strict=True):
        assert f"·  {count} done" in line
    assert all("best so far 93.00 % (job 3)" in line for line in lines)
    assert "left" in lines[1]
    assert "left" not in lines[2]


def test_only_jobs_of_the_rung_are_counted(tmp_path: Path, capsys) -> None:
    progress = Progress(plan_of(tmp_path, "01"))
    for name in "01":
        write_job(tmp_path, name, [f"optimizer.lr={name}"], "paused")
    progress.update()
    result = tmp_path / "0" / "result.json"
    result.write_text(result.read_text().replace("paused", "pruned"))
    os.utime(result, (1, 1))
    progress.update()  # pruning is not reported as another end
    progress.begin(["1"], 4)
    progress.start("1", ["optimizer.lr=1"])
    write_job(tmp_path / "x", "1", ["optimizer.lr=1"])
    (tmp_path / "x" / "1" / "result.json").replace(tmp_path / "1" / "result.json")
    progress.update()
    printed = capsys.readouterr().out
    assert re.findall(r"(\d of \d) done", printed) == ["1 of 2", "2 of 2", "1 of 1"]
    assert "job 1  1 of 1  lr 1\n" in printed
    assert "pruned" not in printed


def test_damaged_results_of_other_jobs_are_skipped(tmp_path: Path, capsys) -> None:
    progress = Progress(plan_of(tmp_path, "01"))
    for name in "01":
        write_job(tmp_path, name, [f"optimizer.lr={name}"])
    (tmp_path / "1" / "result.json").write_text("{")
    progress.stop()
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("job 0 ")
    assert "1 of 2 done, best so far 90.00 % (job 0)" in line


def test_ties_go_to_the_smaller_loss(tmp_path: Path, capsys) -> None:
    progress = Progress(plan_of(tmp_path, "01"))
    for name, loss in (("1", 0.3), ("0", 0.2)):
        write_job(tmp_path, name, [f"optimizer.lr={name}"], loss=loss)
    progress.stop()
    assert "best so far 90.00 % (job 0)" in capsys.readouterr().out


def test_trials_of_an_earlier_start_count(tmp_path: Path, capsys) -> None:
    for name in ("trial_0", "trial_1"):
        write_job(tmp_path, name, ["optimizer.lr=0.1"])
    existing = {name: ["optimizer.lr=0.1"] for name in ("trial_0", "trial_1")}
    progress = Progress(Plan(tmp_path, {}, 4, ("optimizer.lr",), existing, threads=None))
    progress.start("trial_2", ["optimizer.lr=0.2"])
    write_job(tmp_path, "trial_2", ["optimizer.lr=0.2"])
    progress.stop()
    started, end = capsys.readouterr().out.splitlines()
    assert started == "job trial_2  lr 0.2"
    assert "3 of 4 done" in end


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_the_reason_is_printed(tmp_path: Path, capsys, status: str) -> None:
    progress = Progress(plan_of(tmp_path, "0"))
    write_job(tmp_path, "0", ["optimizer.lr=0"], status)
    progress.update()
    assert f"{status}: train/loss is nan in epoch 1" in capsys.readouterr().out

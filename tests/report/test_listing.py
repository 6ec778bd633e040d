"""``lenet-pl list``: runs, sweeps and damaged folders, each in one line."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.sweeps import write_job, write_plan

from lenet_pl.console import console
from lenet_pl.report.listing import list_folder, table


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Folders as they are after some work, from the oldest to the newest."""
    folder = tmp_path / "outputs"
    runs = folder / "runs" / "2026-11-26"
    write_job(runs, "1", ["optimizer.lr=0.1", "data=mini"], acc=0.97)
    write_job(runs, "2", ["optimizer.lr=0.01", "data=mini"], acc=0.95, monitor="val/loss", loss=0.2)
    write_job(runs, "3", ["data=mini"], None, acc=0.6)
    write_job(runs, "4", ["data=mini", "name=first"], acc=0.9)
    edit(runs / "4", name="first", metrics={"val/acc": 0.9, "val/loss": 0.3, "test/acc": 0.875})
    write_job(runs, "5", ["data=mini", "seed=1"], "failed")
    edit(runs / "5", error="train/loss is nan in epoch 3")
    write_job(runs, "6", ["data=mini"])
    (runs / "6" / "result.json").write_text("{")
    sweep = folder / "sweeps" / "7"
    for name, acc in (("0", 0.91), ("1", 0.93)):
        write_job(sweep, name, [f"optimizer.lr=0.{name}"], acc=acc)
    write_job(sweep, "2", ["optimizer.lr=0.2"], None, acc=0.99)
    write_plan(sweep, {name: [f"optimizer.lr=0.{name}"] for name in "0123"}, "python train.py")
    (sweep / "multirun.yaml").touch()
    for age, path in enumerate([*sorted(runs.glob("*/.hydra")), sweep / "multirun.yaml"]):
        os.utime(path, (age, age))
    return folder


def edit(run: Path, **values: object) -> None:
    path = run / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_line_for_each_run_and_sweep_the_newest_last(outputs, lenet_pl):
    status, printed, error = lenet_pl("list")
    assert (status, error) == (0, "")
    assert [re.split(r"  +", line.strip()) for line in printed.splitlines()[:6]] == [
        ["score", "test", "folder"],
        ["97.00 %", "outputs/runs/2026-11-26/1", "lr 0.1"],
        ["loss 0.2000", "outputs/runs/2026-11-26/2", "lr 0.01"],
        ["60.00 %", "outputs/runs/2026-11-26/3", "unfinished"],
        ["90.00 %", "87.50 %", "outputs/runs/2026-11-26/4", "first"],
        ["outputs/runs/2026-11-26/5", "failed: train/loss is nan in epoch 3"],
    ]
    damaged, sweep = printed.splitlines()[6:]
    assert "outputs/runs/2026-11-26/6  damaged: result.json: Expecting property name" in damaged
    assert re.split(r"  +", sweep.strip()) == [
        "93.00 %",
        "outputs/sweeps/7",
        "2 of 4 jobs, best job: lr 0.1",
    ]


def test_lines_fit_a_terminal_of_80_columns(outputs, lenet_pl, monkeypatch):
    monkeypatch.setattr(type(console), "is_terminal", True)
    _, printed, _ = lenet_pl("list")
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).rstrip() for line in printed.splitlines()]
    left = len("loss 0.2000  87.50 %  ")
    assert lines[4][left:] == "outputs/runs/2026-11-26/4  first"
    assert lines[5] == " " * left + "outputs/runs/2026-11-26/5"
    assert lines[6] == " " * left + "failed: train/loss is nan in epoch 3"
    assert lines[8].startswith(" " * left + "damaged: result.json: ")
    assert "…" in lines[8]
    assert max(map(len, lines)) <= 80


def test_a_sweep_that_is_complete(outputs):
    sweep = outputs / "sweeps" / "7"
    shutil.rmtree(sweep / "2")
    for name in "23":
        write_job(sweep, name, [f"optimizer.lr=0.{name}"], acc=0.95)
    [entry] = list_folder(sweep)
    assert entry["status"] == "finished"
    assert entry["jobs"] == {"total": 4, "ended": 4}
    assert table([entry])[1].split() == [
        "95.00",
        "%",
        str(sweep),
        "4",
        "jobs,",
        "best",
        "job:",
        "lr",
        "0.2",
    ]


def test_a_damaged_job_does_not_hide_the_others(outputs):
    sweep = outputs / "sweeps" / "7"
    (sweep / "0" / "result.json").write_text("{")
    (sweep / "1" / ".hydra" / "overrides.yaml").unlink()
    [entry] = list_folder(sweep)
    assert entry["status"] == "unfinished"
    assert entry["jobs"]["total"] == 4


def test_json(outputs, lenet_pl):
    _, printed, _ = lenet_pl("list", "--json")
    answer = json.loads(printed)
    assert answer[3] | {"folder": "", "overrides": []} == {
        **{"folder": "", "name": "first", "status": "finished", "error": None},
        **{"monitor": "val/acc", "score": 0.9, "test/acc": 0.875, "overrides": []},
        "description": "first",
    }
    assert answer[-2]["status"] == "damaged"
    assert answer[-1]["jobs"] == {"total": 4, "ended": 2}


def test_other_folders(tmp_path, lenet_pl):
    assert lenet_pl("list") == (2, "", "error: outputs: no such folder\n")
    assert lenet_pl("list", tmp_path) == (0, f"{tmp_path}: no runs\n", "")


def test_torch_is_not_imported(outputs):
    code = (
        "import sys; from lenet_pl.report import commands, listing; from pathlib import Path; "
        f"listing.list_folder(Path({str(outputs)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""``lenet-pl report`` on the command line: answers, and requests that cannot be met."""

import json
import shutil
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.usefixtures("undrawn")


def test_answers_for_people_and_programs(lenet_pl, tested):
    status, printed, _ = lenet_pl("report", tested)
    assert status == 0
    status, output, _ = lenet_pl("report", tested, "--json")
    assert status == 0
    answer = json.loads(output)
    result = json.loads((tested / "result.json").read_text())
    assert answer["path"] == str(tested / "report" / "index.html")
    assert (answer["split"], answer["accuracy"]) == ("test", result["metrics"]["test/acc"])
    for finding in answer["findings"]:
        assert list(finding) == ["title", "evidence", "advice", "overrides", "command"]
        for key in ("title", "evidence", "command"):
            assert finding[key] in printed
    assert printed.endswith(f"report  {answer['path']}\n")
    # two epochs are not enough, and the report says so
    assert f"lenet-pl train resume={tested} trainer.max_epochs=4" in printed


def test_two_runs_are_compared(lenet_pl, tested, untested):
    status, output, _ = lenet_pl("report", tested, untested, "--json")
    assert status == 0
    answer = json.loads(output)
    keys = ["path", "verdict", "runs", "best", "comparisons"]
    keys += ["both", "only_first", "only_second", "neither", "p"]
    assert list(answer) == keys
    assert "At least one of the runs was not tested" in Path(answer["path"]).read_text()
    status, printed, _ = lenet_pl("report", tested, untested)
    assert status == 0
    assert answer["verdict"] in " ".join(printed.split())


def damage(run: Path, part: str) -> None:
    if part == "metrics":
        (run / "metrics.csv").unlink()
    elif part == "epoch":
        shutil.rmtree(run / "checkpoints")
    elif part == "code":
        torch.save({"state_dict": Path.touch}, run / "checkpoints" / "best.ckpt")
    elif part == "data":
        state = torch.load(run / "checkpoints" / "best.ckpt")
        state["DigitsDataModule"]["digest"] = "0" * 64
        torch.save(state, run / "checkpoints" / "best.ckpt")
    elif part == "folder":
        (run / "report").touch()
    elif part == "all":
        shutil.rmtree(run)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("all", "no such folder"),
        ("epoch", "no finished epoch"),
        ("code", "contains code, which is not run"),
        ("metrics", "metrics.csv: missing or damaged"),
        ("data", "the data differs from the run's (digest): mini in data.root=None"),
        ("folder", "report: File exists"),
    ],
)
def test_damaged_runs_are_rejected_in_one_line(tested, tmp_path, lenet_pl, part, message):
    run = Path(shutil.copytree(tested, tmp_path / "copy"))
    shutil.rmtree(run / "report", ignore_errors=True)
    damage(run, part)
    status, _, error = lenet_pl("report", run)
    assert status == 2
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (run / "report" / "index.html").exists()


def test_paths_that_are_not_a_run(tested, tmp_path, lenet_pl):
    shutil.copy(tested / "best.pth", tmp_path / "weights.pth")
    for job in ("0", "1", "10"):
        (tmp_path / "sweep" / job / ".hydra").mkdir(parents=True)
    for name, message in (
        (
            "weights.pth",
            "bare weights without a run; test and predict take them with --model lenet",
        ),
        ("sweep", f"holds runs; name one, such as {tmp_path / 'sweep' / '0'}"),
        ("nowhere", "no such folder"),
    ):
        path = tmp_path / name
        assert lenet_pl("report", path) == (2, "", f"error: {path}: {message}\n")
    same = f"error: {tested}, {tested}/: name each run once\n"
    assert lenet_pl("report", tested, f"{tested}/") == (2, "", same)
    assert lenet_pl("report", *"1234567") == (2, "", "error: 7 runs: name up to 6\n")

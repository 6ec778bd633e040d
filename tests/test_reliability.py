"""A quick selection of ``benchmarks/trust.py`` passes, and its checks can fail."""

import json
import random
import shutil
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from helpers.commands import ROOT, Done


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from trust_checks import base

    return base


@pytest.mark.trust
def test_quick_selection_holds(tmp_path):
    script = [
        sys.executable,
        str(ROOT / "benchmarks" / "trust.py"),
        "--quick",
        "--json",
        "all.json",
    ]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    outcomes = json.loads((tmp_path / "all.json").read_text())
    assert len({outcome["item"] for outcome in outcomes}) > 10


@pytest.mark.parametrize(
    ("done", "message"),
    [
        (Done(0, "", ""), "expected"),
        (Done(2, "", ""), "0 lines"),
        (Done(2, "", "error: a\nerror: b\n"), "2 lines"),
        (Done(1, "", "error: a\nTraceback (most recent call last):\n"), "traceback"),
        (Done(2, "", "a\n"), "a"),
        (Done(-9, "", ""), "status -9"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_answer_fails(base, done, message):
    with pytest.raises(base.FailedError, match=message):
        base.check_answer(done, (1, 2))


def test_right_answer_holds(base):
    base.check_answer(Done(2, "", "error: seed=x: must be an integer\n"), (2,))
    base.check_answer(Done(1, "interrupted  stopped by SIGTERM\n", ""), (0, 1))


@pytest.mark.parametrize("change", ["best.pth", "metrics.csv", "last.ckpt", "result.json"])
def test_any_difference_between_runs_fails(base, trained, tmp_path, change):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    base.require_same(copy, trained)
    path = next(copy.rglob(change))
    if path.suffix in (".pth", ".ckpt"):
        state = torch.load(path, weights_only=True)
        weights = state.get("state_dict", state)
        first = next(iter(weights.values()))
        first.view(-1)[0] += 1e-6
        torch.save(state, path)
    else:
        path.write_text(path.read_text().replace("0.", "0.1", 1))
    with pytest.raises(base.FailedError, match=change):
        base.require_same(copy, trained)


def test_drawn_configurations_cover_all_options(base):
    from trust_checks.interruptions import GROUPS, configurations

    drawn = {word for words in configurations(random.Random(0), 22) for word in words}
    options = {f"{g}={path.stem}" for g in GROUPS for path in (ROOT / "conf" / g).glob("*.yaml")}
    assert options <= drawn

"""The benchmarks run, and their statistics are correct."""

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import ROOT


@pytest.fixture
def benchmark(tmp_path, monkeypatch):
    """Import a benchmark with the given arguments, in an empty folder."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.chdir(tmp_path)

    def load(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        return import_module(name)

    yield load
    for path in (ROOT / "benchmarks").glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_mean_and_interval(benchmark):
    mean, deviation, half_width = benchmark("accuracy").mean_and_interval([1, 2, 3, 4, 5])
    assert mean == 3
    assert deviation == pytest.approx(2.5**0.5)
    # Student's t with 4 degrees of freedom: 2.7764
    assert half_width == pytest.approx(2.7764 * 2.5**0.5 / 5**0.5, rel=1e-4)


def test_epochs_of_all_loops(benchmark, tmp_path, capsys):
    arguments = ["--data", "mini", "--rounds", "1", "--batch-sizes", "512", "data.fraction=0.2"]
    benchmark("epoch", *arguments, "trainer.accelerator=cpu").main()
    saved = (tmp_path / "outputs" / "benchmarks" / "epoch.md").read_text()
    assert saved in capsys.readouterr().out
    assert saved.startswith("`python benchmarks/epoch.py --data mini --rounds 1 ")
    loops = [line.split(" | ")[1] for line in saved.splitlines() if line.startswith("| 512")]
    assert loops == ["plain", "fast", "in memory"]
    assert "| 512 | in memory | " in saved
    assert "| 1.00 |" in saved


def test_a_failed_process_ends_the_benchmark_with_its_output(benchmark):
    with pytest.raises(SystemExit, match="no such seed"):
        benchmark("common").run_python("-c", "import sys; sys.exit('no such seed')")


def test_a_process_is_timed_on_the_given_threads(benchmark):
    check = "import os; assert os.environ['OMP_NUM_THREADS'] == '3'"
    assert benchmark("common").run_python("-c", check, threads=3) > 0


class Sweeps:
    """Stands in for ``run_python``: writes the folder of a sweep with two jobs."""

    def __init__(self):
        self.commands = []

    def __call__(self, *arguments):
        self.commands.append(arguments)
        folder = Path(arguments[-1].removeprefix("hydra.sweep.dir="))
        halving, joblib = (
            "hydra/" + x in arguments for x in ("sweeper=halving", "launcher=joblib")
        )
        best, epochs = ("1", (1, 4)) if halving else ("0", (4, 4))
        jobs = [
            {"job": name, "epochs": n, "varied": {"lr": name}, "val/acc": 0.5}
            for name, n in zip("01", epochs, strict=True)
        ]
        (folder / best).mkdir(parents=True)
        summary = {"jobs": jobs, "winner": {"jobs": [best]}}
        (folder / "sweep.json").write_text(json.dumps(summary))
        # of eight images, halving's winner classifies the last six correctly, the other one none
        label = np.arange(8)
        wrong = (label < 2) | (not halving)
        predictions = {"index": label + 9, "label": label, "prediction": label + wrong}
        np.savez(folder / best / "val_predictions.npz", **predictions)
        return 10.0 / (1 + halving) / (1 + joblib)


def test_sweeps_are_measured_once_and_compared(benchmark, tmp_path, monkeypatch, capsys):
    options = ["--folder", "kept", "--rounds", "2", "--epochs", "4", "--data", "mini"]
    parts = "full,halving,halving-joblib"
    module = benchmark("sweep", *options, "--only", parts, "optimizer.lr=0,1")
    sweeps = Sweeps()
    monkeypatch.setattr(module, "run_python", sweeps)
    module.main()
    printed = capsys.readouterr().out
    assert "| full | 10 | 10 to 10 | 8 | 8 to 8 |\n| halving | 5 | 5 to 5 | 5 | 5 to 5 |" in printed
    assert "| halving / full | 0.50 | 0.50 to 0.50 |\n| halving-joblib / full | 0.25 |" in printed
    # six images of which one winner classifies each correctly: 2 / 2 ** 6
    assert "| 1 | lr 0: 50.00% | lr 1: 50.00% | 0.03 | yes |" in printed
    assert "short" not in printed.partition("| sweep |")[2]
    assert len(sweeps.commands) == 6
    assert {"optimizer.lr=0,1", "trainer.max_epochs=4", "seed=1"} <= {*sweeps.commands[-1]}

    module = benchmark("sweep", *options, "--only", "full,short", "optimizer.lr=0,1")
    module.main()
    assert "| full | 10 | 10 to 10 | 8 | 8 to 8 |\n| short | 10 |" in capsys.readouterr().out
    assert len(sweeps.commands) == 8
    assert "trainer.max_epochs=5" in sweeps.commands[-1]

    (tmp_path / "kept" / "short-0" / "benchmark.json").unlink()  # as if it had been interrupted
    module.main()
    assert len(sweeps.commands) == 9


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.stem)
def test_the_docstring_shows_the_command(path):
    if path.stem in ("common", "by_hand"):  # imported by the others
        return
    assert f"    python benchmarks/{path.name} " in path.read_text()

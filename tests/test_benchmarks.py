"""The benchmarks run, and their statistics are the textbook's."""

import sys
from importlib import import_module

import pytest
from helpers.commands import ROOT


@pytest.fixture
def benchmark(tmp_path, monkeypatch):
    """A benchmark's module, in an empty folder."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.chdir(tmp_path)

    def load(name, *words):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
        return import_module(name)

    yield load
    for path in (ROOT / "benchmarks").glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_a_mean_and_its_interval(benchmark):
    mean, deviation, half = benchmark("accuracy").mean_and_interval([1, 2, 3, 4, 5])
    assert mean == 3 and deviation == pytest.approx(2.5**0.5)
    assert half == pytest.approx(2.7764 * 2.5**0.5 / 5**0.5, rel=1e-4)  # t of 4 degrees: 2.7764


def test_epochs_of_all_loops(benchmark, tmp_path, capsys):
    words = ["--data", "mini", "--rounds", "1", "--batch-sizes", "512", "data.fraction=0.2"]
    benchmark("epoch", *words, "trainer.accelerator=cpu").main()
    kept = (tmp_path / "outputs" / "benchmarks" / "epoch.md").read_text()
    assert kept in capsys.readouterr().out
    assert kept.startswith("`python benchmarks/epoch.py --data mini --rounds 1 ")
    loops = [line.split(" | ")[1] for line in kept.splitlines() if line.startswith("| 512")]
    assert loops == ["plain", "fast", "in memory"]
    assert "| 512 | in memory | " in kept and "| 1.00 |" in kept


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.stem)
def test_the_command_stands_in_the_docstring(path):
    if path.stem in ("table", "by_hand"):  # what they share
        return
    assert f"    python benchmarks/{path.name} " in path.read_text()

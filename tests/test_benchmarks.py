"""The benchmarks run, and their statistics are correct."""

import sys
from importlib import import_module

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


def test_pauses_between_jobs(benchmark, tmp_path):
    for job, start in (("0", 10), ("1", 20)):
        folder = tmp_path / job
        folder.mkdir()
        (folder / "result.json").touch()
        (folder / "metrics.csv").write_text("epoch,seconds\n1,1.5\n")
        (folder / "train.log").write_text(
            f"2026-11-25 12:00:{start},500 INFO a table\nof two lines\n"
            f"2026-11-25 12:00:{start + 2},000 INFO epoch 1/1  train 0.1\n"
            f"2026-11-25 12:00:{start + 3},250 INFO the summary\n"
        )
    # the second job's first step is at 22.0 - 1.5, the first job's end at 13.25
    assert benchmark("sweep").pauses(tmp_path) == pytest.approx([7.25])


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.stem)
def test_the_docstring_shows_the_command(path):
    if path.stem in ("common", "by_hand"):  # imported by the others
        return
    assert f"    python benchmarks/{path.name} " in path.read_text()

"""``lenet-pl sweep``."""

import json
import sys
from pathlib import Path

import pytest

from lenet_pl import cli


def sweep(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run ``lenet-pl sweep``; returns the exit status."""
    monkeypatch.setattr(sys, "argv", ["lenet-pl", "sweep", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_it_prints_json_and_draws_the_figure(grid: Path, monkeypatch, capsys) -> None:
    assert sweep(monkeypatch, str(grid), "--json") == 1  # a job failed
    assert json.loads(capsys.readouterr().out)["winner"]["jobs"] == ["10"]
    assert (grid / "sweep.png").is_file()


def test_a_folder_without_a_sweep_is_rejected(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (str(tmp_path), str(tmp_path / "nowhere"), "latest"):
        assert sweep(monkeypatch, name) == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ")
        assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_single_runs_is_rejected(grid: Path, monkeypatch, capsys) -> None:
    (grid / "2" / ".hydra" / "hydra.yaml").write_text("hydra:\n  mode: RUN\n")
    assert sweep(monkeypatch, str(grid)) == 2
    assert "holds single runs, not the jobs of a sweep" in capsys.readouterr().err

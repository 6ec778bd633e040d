"""The model in CONTRIBUTING.md trains as it is printed there."""

import re

from helpers.commands import ROOT
from helpers.imports import imports
from helpers.runs import result

import lenet_pl.models
from lenet_pl.training import train


def test_the_model_example_trains(composed, tmp_path, monkeypatch):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    files = dict(re.findall(r"`([\w/]+\.\w+)`:\n\n```\w+\n(.*?)```", text, re.DOTALL))
    assert list(files) == ["src/lenet_pl/models/tiny.py", "conf/model/tiny.yaml"]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(content)
    models = tmp_path / "src" / "lenet_pl" / "models"
    assert set(imports(models / "tiny.py")) <= {"torch"}
    monkeypatch.setattr(lenet_pl.models, "__path__", [*lenet_pl.models.__path__, str(models)])
    search_path = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
    assert "python train.py model=tiny data=mini optimizer.lr=0.05" in text
    overrides = ["model=tiny", "data=mini", "optimizer.lr=0.05", "trainer=debug"]
    train(composed(search_path, *overrides))
    assert result(tmp_path / "run")["parameters"] == 26 * 16 + (25 * 16 + 1) * 32 + 33 * 10

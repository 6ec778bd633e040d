"""The examples in CONTRIBUTING.md work as they are printed there."""

import inspect
import json
import re
import shlex
from ast import literal_eval
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import ROOT, Running
from helpers.imports import imports
from helpers.runs import FAST, result, rows

import lenet_pl.models
from lenet_pl import classifier, metrics, rules
from lenet_pl.rules import MONITORED
from lenet_pl.training import train

pytestmark = pytest.mark.slow

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
QUICK = ["trainer.accelerator=cpu", "trainer.max_epochs=2", "callbacks.early_stopping=null"]


def write_files(section: str, folder: Path) -> list[str]:
    """Write the files printed in a section, and return their names."""
    _, _, text = TEXT.partition(f"\n## {section}\n")
    text = text.partition("\n## ")[0]
    files = dict(re.findall(r"`([\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", text, re.DOTALL))
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return list(files)


def commands(start: str) -> list[list[str]]:
    """The commands in CONTRIBUTING.md that begin with these words, without them."""
    return [
        shlex.split(line, comments=True)
        for line in re.findall(rf"^{re.escape(start)} (.*)", TEXT, re.M)
    ]


def test_the_model_example_trains(composed, tmp_path, monkeypatch):
    names = ["src/lenet_pl/models/tiny.py", "conf/model/tiny.yaml"]
    assert write_files("Your own model", tmp_path) == names
    models = tmp_path / "src" / "lenet_pl" / "models"
    assert set(imports(models / "tiny.py")) <= {"torch"}
    monkeypatch.setattr(lenet_pl.models, "__path__", [*lenet_pl.models.__path__, str(models)])
    [rule] = re.findall(r'^    ("Tiny": .*),$', TEXT, re.MULTILINE)
    arguments = inspect.signature(import_module("lenet_pl.models.tiny").Tiny).parameters
    assert eval(f"{{{rule}}}", vars(rules))["Tiny"].keys() == arguments.keys()
    search_path = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
    overrides = ["model=tiny", "data=mini", "optimizer.lr=0.05"]
    assert overrides in commands("python train.py")
    train(composed(search_path, *overrides, "trainer=debug"))
    assert result(tmp_path / "run")["parameters"] == 26 * 16 + (25 * 16 + 1) * 32 + 33 * 10


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    """A folder with the data set of the example, and a run on it."""
    folder = tmp_path_factory.mktemp("shapes")
    assert write_files("Your own data", folder) == ["mine.py", "my_conf/data/shapes.yaml"]
    row, column = np.ogrid[:28, :28]
    size = np.arange(5, 12).reshape(-1, 1, 1)
    distances = np.hypot(row - 14, column - 14), np.maximum(abs(row - 14), abs(column - 14))
    images = np.concatenate([d[None] < size for d in distances] * 20).astype(np.uint8) * 255
    labels = np.tile(np.repeat(np.arange(2), 7), 20)
    np.savez(folder / "shapes.npz", images=images, labels=labels)
    single, _ = commands("lenet-pl train")[:2]
    done = lenet_pl_command(folder, "train", *single, *QUICK)
    assert "data        Shapes\n" in done
    return folder


def lenet_pl_command(folder: Path, *words: str) -> str:
    done = Running(*words, cwd=folder, program="lenet-pl").wait()
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_your_own_data_trains_and_reports(shapes):
    [file] = shapes.glob("outputs/runs/*/*/result.json")
    data = result(file.parent)["data"]
    assert (data["name"], data["source"]) == ("Shapes", "Shapes")
    assert data["counts"] == {"train": 196, "val": 56, "test": 28}
    out = lenet_pl_command(shapes, "report", "latest", "--json")
    commands = [finding["command"] for finding in json.loads(out)["findings"]]
    assert all("'hydra.searchpath=[file://my_conf]'" in x for x in commands if x)
    assert "Shapes" in (file.parent / "report" / "index.html").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ["test", "latest"],
        ["export", "latest", "--format", "torch"],
        ["predict", "latest", "one.png"],
    ],
    ids=lambda words: words[0],
)
def test_commands_use_your_own_data(shapes, words):
    from PIL import Image

    Image.fromarray(np.load(shapes / "shapes.npz")["images"][0]).save(shapes / "one.png")
    lenet_pl_command(shapes, *words)


def test_your_own_data_resumes_and_sweeps(shapes):
    [file] = shapes.glob("outputs/runs/*/*/result.json")
    search_path, run = "hydra.searchpath=[file://my_conf]", file.parent.relative_to(shapes)
    lenet_pl_command(shapes, "train", search_path, f"from={run}", "hydra.run.dir=again")
    assert result(shapes / "again")["repeats"]["same"]
    out = lenet_pl_command(shapes, "train", f"resume={run}", "trainer.max_epochs=3", search_path)
    assert f"lenet-pl train '{search_path}' resume={run} trainer.max_epochs=6" in out
    _, sweep = commands("lenet-pl train")[:2]
    lenet_pl_command(shapes, "train", *sweep, *QUICK, "hydra.sweep.dir=sweep")
    assert [result(shapes / "sweep" / n)["status"] for n in "012"] == ["finished"] * 3
    summary = lenet_pl_command(shapes, "sweep", "sweep")
    assert f"train again  lenet-pl train '{search_path}' " in summary


def test_your_own_loss_callback_and_logger(tmp_path, composed, monkeypatch):
    names = ["losses.py", "my_conf/loss/focal.yaml"]
    names += ["my_conf/callbacks/timer.yaml", "my_conf/logger/comet.yaml"]
    assert write_files("Your own loss, callback, logger", tmp_path) == names
    words = commands("lenet-pl train")[2]
    assert words[-2:] == ["loss=focal", "callbacks=timer"]
    lenet_pl_command(tmp_path, "train", *words, *QUICK, "trainer.limit_train_batches=2")
    monkeypatch.chdir(tmp_path)
    cfg = composed(
        "hydra.searchpath=[file://my_conf]", "callbacks=[ema,timer]", "logger=[csv,comet]"
    )
    assert {"checkpoint", "average", "timer"} <= set(cfg.callbacks)
    assert set(cfg.logger) == {"csv", "comet"}


def test_your_own_experiment(tmp_path):
    assert write_files("Your own experiment", tmp_path) == ["my_conf/experiment/shapes.yaml"]
    words = commands("lenet-pl train")[3]
    assert "experiment=shapes" in words
    lenet_pl_command(tmp_path, "train", *words, *QUICK, "hydra.run.dir=run")
    config = (tmp_path / "run" / ".hydra" / "config.yaml").read_text()
    assert "batch_size: 16" in config
    assert result(tmp_path / "run")["parameters"] == 535_818  # of the MLP


@pytest.mark.parametrize("words", commands("lenet-pl new"), ids=" ".join)
def test_a_project_of_your_own(tmp_path, words):
    (tmp_path / "here").mkdir()
    lenet_pl_command(tmp_path / "here", "new", *words)
    [file] = tmp_path.glob("**/train.py")
    assert file.parent == tmp_path / ("work" if "../work" in words else "here/my-digits")


def test_another_metric_takes_two_lines(composed, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    metric, direction = re.findall(r'^ +("(?:val/)?top2_acc": .*,)$', TEXT, re.MULTILINE)
    source = Path(metrics.__file__).read_text()
    [place] = [line for line in source.splitlines() if '"balanced_acc":' in line]
    changed: dict = {"__name__": "changed"}
    exec(source.replace(place, f"        {metric}\n{place}"), changed)
    monkeypatch.setattr(classifier, "epoch_metrics", changed["epoch_metrics"])
    for name, mode in literal_eval(f"{{{direction}}}").items():
        monkeypatch.setitem(MONITORED, name, mode)
    overrides = ["callbacks.checkpoint.monitor=val/top2_acc", "data.fraction=0.1"]
    answer = train(composed(*FAST, *overrides, "trainer.max_epochs=2", "logger=none"))
    table, record = rows(tmp_path / "run"), result(tmp_path / "run")
    assert record["best_epoch"] == max(table, key=lambda row: row["val/top2_acc"])["epoch"]
    assert answer == record["metrics"]["val/top2_acc"] > record["metrics"]["val/acc"]
    assert "test/top2_acc" in record["metrics"]
    assert "val/top2_acc" in caplog.text  # in the line of each epoch
    assert "top2 accuracy" in caplog.text  # in the summary

"""Readers of damaged and hostile run folders."""

import io
import json
import os
import pickle
import shutil
import sys
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from lenet_pl.errors import ConfigError
from lenet_pl.records import (
    WEIGHTS,
    hydra_mode,
    read_checkpoint,
    read_metrics,
    read_overrides,
    read_result,
    read_tensors,
    read_val_predictions,
    search_path,
)
from lenet_pl.rules import BOOL, FINITE, NATURAL, STRING, invalid, with_schema
from lenet_pl.runs import open_run, resume_arguments
from lenet_pl.trust import parse_override

ALIASES = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)
READERS: dict[str, Callable[[Path], Any]] = {
    "result.json": read_result,
    "metrics.csv": read_metrics,
    ".hydra/overrides.yaml": read_overrides,
    ".hydra/hydra.yaml": hydra_mode,
}


class Trap:
    """Creates a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("sprung",)


@pytest.fixture(scope="module")
def original(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, with only the files that the tests read."""
    return Path(shutil.copytree(trained, tmp_path_factory.mktemp("original") / "run"))


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    """A copy of it, to damage."""
    folder = Path(shutil.copytree(original, tmp_path / "run"))
    (folder / ".hydra" / "overrides.yaml").write_text("[data=mini]")
    return folder


def change(values: Any, key: str, value: Any) -> None:
    """Set a value by its key, or delete it if the value is ``...``."""
    *parents, last = key.split("/")
    for parent in parents:
        values = values[parent]
    if value is ...:
        del values[last]
    else:
        values[last] = value


def open_whole(run: Path) -> None:
    """Open a run, and build what tools build."""
    opened = open_run(str(run))
    opened.network()
    opened.loss()
    opened.setting("trainer.precision")
    opened.data()


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The error of a file that is refused quickly, and runs and imports nothing."""
    monkeypatch.chdir(tmp_path)

    def read(path: Path, reader: Callable[[Path], object] = open_whole) -> str:
        start = time.monotonic()
        with pytest.raises(ConfigError) as caught:
            reader(path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600
        assert time.monotonic() - start < 5
        assert not Path("sprung").exists()
        assert "antigravity" not in sys.modules
        return str(caught.value)

    return read


@pytest.mark.parametrize(
    ("value", "schema", "message"),
    [
        (
            {"a": 1, "b": "x", "c": None},
            {"a": NATURAL, "b": STRING, "c?": NATURAL, "d?": BOOL},
            None,
        ),
        ({"a": 1}, {"a": NATURAL, "b": STRING}, "b=null: must be text"),
        ({"a": True}, {"a": NATURAL}, "a=true: must be an integer from 0"),
        ({"a": -1}, {"a": NATURAL}, "a=-1: must be an integer from 0"),
        ({"a": float("nan")}, {"a": FINITE}, "a=nan: must be a finite number"),
        ({"a": 10**400}, {"*": FINITE}, "a=10000"),
        ({"a": [1, "x"]}, {"a": [FINITE]}, "a[1]=x: must be a finite number"),
        ({"a": {"b": 1}}, {"a?": {"b": STRING}}, "a.b=1: must be text"),
        ([], {"*": NATURAL}, "content=[]: must be a mapping"),
        ({}, [NATURAL], "content={}: must be a list"),
    ],
)
def test_schemas(value, schema, message):
    found = invalid(with_schema(value, schema))
    assert found is None if message is None else found.startswith(message)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("result.json", "[" * 100_000, "recursion"),
        ("result.json", "[1]", "content=[1]: must be a mapping"),
        ("result.json", '{"status": "finished"}', "epochs=null: must be an integer"),
        ("metrics.csv", "epoch,lr,seconds\n1,fast,1\n", "could not convert"),
        ("metrics.csv", "epoch,lr,seconds\n1,1,1,1\n", "float"),
        ("metrics.csv", "epoch,lr,seconds\n2,1,1\n", "must count the rows from 1"),
        ("metrics.csv", "epoch,lr,seconds\n1,inf,1\n", "[0].lr=inf: must be a finite number"),
        ("metrics.csv", '"' + "x" * 200_000, "field larger than"),
        (".hydra/overrides.yaml", "[1, 2]", "[0]=1: must be text"),
        (".hydra/overrides.yaml", ALIASES, "has aliases"),
        (".hydra/overrides.yaml", "[" * 100_000, "nest"),
        (".hydra/hydra.yaml", "x" * 300_000, "300,000 bytes, more than"),
    ],
)
def test_text_files(run, file, content, reason):
    (run / file).write_text(content)
    with pytest.raises(ConfigError) as caught:
        READERS[file](run)
    assert str(caught.value).startswith(f"damaged run folder: {run / file}: ")
    assert reason in str(caught.value)


def test_files_that_may_be_missing(tmp_path):
    assert (read_result(tmp_path), read_metrics(tmp_path), hydra_mode(tmp_path)) == ({}, [], "")
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "hydra.yaml").touch()  # before Hydra writes into it
    assert hydra_mode(tmp_path) == ""
    with pytest.raises(ConfigError, match="not a run folder"):
        read_overrides(tmp_path)


def test_search_path_is_quoted_for_hydra(tmp_path):
    (tmp_path / ".hydra").mkdir()
    folders = ["file://conf", "file:///it's mine, [x]/conf"]
    content = {"hydra": {"mode": "RUN", "searchpath": folders}}
    (tmp_path / ".hydra" / "hydra.yaml").write_text(json.dumps(content))
    [override] = search_path(tmp_path)
    assert override == r"hydra.searchpath=[file://conf,'file:///it\'s mine, [x]/conf']"
    assert parse_override(override).value() == folders


@pytest.mark.parametrize("file", ["result.json", ".hydra/config.yaml", "checkpoints/best.ckpt"])
def test_pipes_devices_and_folders_are_not_opened(refused, run, file):
    for replace in (os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")):
        path = run / file
        path.rmdir() if path.is_dir() else path.unlink()
        replace(path)
        assert refused(run) == f"damaged run folder: {path}: not a regular file"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize("file", [".hydra/config.yaml", "metrics.csv", "checkpoints/best.ckpt"])
def test_a_resumed_run_writes_regular_files_only(run, file, make):
    path = run / file
    path.unlink()
    make(path)
    with pytest.raises(ConfigError, match=rf"{path}: not a regular file"):
        resume_arguments([f"resume={run}"])


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("epochs", "3", "epochs=3: must be"),
        ("metrics", [1], "metrics=[1]: must be a mapping"),
        ("metrics", {"val/acc": float("nan")}, "metrics.val/acc=nan: must be"),
        ("data", 5, "data=5: must be a mapping"),
        ("git", {"commit": 5, "dirty": True}, "git.commit=5: must be text"),
        ("versions/torch", {}, "versions.torch={}: must be text"),
        ("seconds", 5, "seconds=5: must be a mapping"),
    ],
)
def test_results(refused, run, key, value, reason):
    content = json.loads((run / "result.json").read_text())
    change(content, key, value)
    (run / "result.json").write_text(json.dumps(content))
    assert reason in refused(run)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("data", ..., "data=null: must be a mapping"),
        ("data/batch_size", "x", "data.batch_size=x: must be an integer"),
        ("data/eval_batch_size", -1, "data.eval_batch_size=-1: must be an integer"),
        ("data/source", "${model}", "data.source=${model}: must be a mapping"),
        ("data/source/_target_", "antigravity.X", "not allowed in a run folder"),
        ("model", "${model}", "model=${model}: must be a mapping"),
        ("model/num_classes", "x", "model.num_classes=x: must be null or an integer"),
        ("model/num_classes", 7, "model.num_classes=7: "),
        ("model/_target_", "antigravity.X", "not allowed in a run folder"),
        ("loss/_target_", "os.mkdir", "not allowed in a run folder"),
        ("trainer/precision", "${nope}", "nope"),
        ("trainer", 5, "trainer=5: must be a mapping"),
    ],
)
def test_configurations(refused, run, key, value, reason):
    file = run / ".hydra" / "config.yaml"
    content = OmegaConf.to_container(OmegaConf.load(file))
    change(content, key, value)
    OmegaConf.save(OmegaConf.create(content), file)
    assert reason in refused(run)


def test_yaml_that_takes_forever(refused, run):
    file = run / ".hydra" / "config.yaml"
    for text in (ALIASES + file.read_text(), "a: " + "[" * 100_000, "!!python/name:os.mkdir x"):
        file.write_text(text)
        assert "config.yaml: " in refused(run)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("DigitsDataModule/classes", ["a"], "does not fit the run's model"),
        ("DigitsDataModule/shape", [1, 28], "DigitsDataModule.shape=[1, 28]: must be a list of 3"),
        ("DigitsDataModule/shape", [1, 28, 30], "model.size=null: the images are not square"),
        ("state_dict/mean", torch.ones(3), "does not fit the run's model"),
        ("DigitsDataModule/classes", 5, "DigitsDataModule.classes=5: must be a list"),
        ("DigitsDataModule/classes", ..., "DigitsDataModule.classes=null: must be a list"),
        ("epoch", "x", "epoch=x: must be an integer"),
        ("epoch", 1, "callbacks: do not match epoch 2"),
        ("settings", [], "settings=[]: must be a mapping"),
        ("settings/model", torch.zeros(1), "not JSON serializable"),
        ("optimizer_states", ..., "optimizer_states=null: must be a list"),
        ("callbacks", ..., "callbacks=null: must be a mapping"),
        ("callbacks/EpochHistory/rows", [{"epoch": "x"}], "callbacks.EpochHistory.rows[0]"),
        ("state_dict/net.fc2.bias", 5, "state_dict.net.fc2.bias=5: must be a tensor"),
        ("state_dict/net.fc2.bias", torch.zeros(1).expand(10**12), "does not fit"),
        ("state_dict/net.fc2.bias", torch.full((10,), torch.nan), "net.fc2.bias has NaN"),
    ],
)
def test_checkpoints(refused, run, key, value, reason):
    file = run / "checkpoints" / "best.ckpt"
    state = torch.load(file, weights_only=True)
    change(state, key, value)
    torch.save(state, file)
    assert reason in refused(run)


def flipped(content: bytes) -> bytes:
    return content[:150_000] + bytes([content[150_000] ^ 4]) + content[150_001:]


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("checkpoints/best.ckpt", read_checkpoint),
        ("best.pth", partial(read_tensors, schema=WEIGHTS)),
    ],
)
def test_files_that_torch_did_not_write(refused, run, tmp_path, name, reader):
    file = run / name
    good = file.read_bytes()
    compressed = tmp_path / "compressed"
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(compressed, "w", 8) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    contents = [b"", b"text", good[:1000], flipped(good), compressed.read_bytes()]
    contents += [pickle.dumps(value) for value in (Trap(), 5, {1: torch.zeros(1)}, [])]
    for content in contents:
        file.write_bytes(content)
        assert str(file) in refused(file, reader)


def test_the_error_of_a_damaged_last_checkpoint_says_what_to_do(lenet_pl, run):
    file = run / "checkpoints" / "last.ckpt"
    before = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(before | {"status": "interrupted"}))
    file.write_bytes(flipped(file.read_bytes()))
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    status, _, message = lenet_pl("train", f"resume={run}")
    assert status == 2
    assert (
        "which is not run; once it is deleted, resume= starts the run from the beginning" in message
    )
    assert files == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_link_that_leads_nowhere_is_damage(tmp_path):
    (tmp_path / "result.json").symlink_to("result.json")
    with pytest.raises(ConfigError, match=r"damaged run folder: .*not a regular file"):
        read_result(tmp_path)


PREDICTIONS: dict[str, np.ndarray] = {
    "index": np.array([4, 0, 7]),
    "label": np.array([1, 2, 3]),
    "prediction": np.array([1, 2, 0]),
    "confidence": np.array([0.5, 1, 0.25], np.float32),
}


def test_predictions_are_read_as_written(tmp_path):
    assert read_val_predictions(tmp_path) is None
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "val_predictions.npz", **PREDICTIONS)
        found = read_val_predictions(tmp_path)
        assert list(found) == list(PREDICTIONS)
        assert all(np.array_equal(found[name], array) for name, array in PREDICTIONS.items())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"index": np.array([4, 0, 4])}, "index: lists an image twice"),
        ({"index": np.array([4, 0, -1])}, "index: is empty or out of range"),
        ({"label": np.array([1, 2])}, "the arrays differ in length"),
        ({name: array[:0] for name, array in PREDICTIONS.items()}, "index: is empty or out of"),
        ({"label": np.array([[1, 2, 3]])}, "not a valid file"),
        ({"label": np.array(1)}, "not a valid file"),
        ({"label": np.array([1, 2, 3], np.int32)}, "not a valid file"),
        ({"label": np.array([1, 2, 3], ">i8")}, "not a valid file"),
        ({"label": np.array([1.0, 2.0, 3.0])}, "not a valid file"),
        ({"label": np.array([Trap()] * 3)}, "not a valid file"),
        ({"label": None}, "not a valid file"),
        ({"label": np.zeros(2**23, int)}, "not a valid file"),  # 64 MiB from 64 KiB
        ({"confidence": np.array([0.5, 1.5, 0.5], np.float32)}, "confidence: is empty or out"),
        ({"confidence": np.array([0.5, np.nan, 0.5], np.float32)}, "confidence: is empty or out"),
    ],
)
def test_damaged_predictions(tmp_path, monkeypatch, changes, reason):
    monkeypatch.chdir(tmp_path)
    arrays = {k: array for k, array in (PREDICTIONS | changes).items() if array is not None}
    np.savez_compressed(tmp_path / "val_predictions.npz", **arrays)
    with pytest.raises(ConfigError, match=f"damaged run folder: .*val_predictions.npz: {reason}"):
        read_val_predictions(tmp_path)
    assert not Path("sprung").exists()


def test_files_that_numpy_did_not_write(tmp_path):
    path = tmp_path / "val_predictions.npz"
    np.savez(path, **PREDICTIONS)
    good = path.read_bytes()
    damaged = good[:300] + bytes([good[300] ^ 4]) + good[301:]
    contents = [b"", b"text", good[:-30], damaged]
    for shape, compression in (
        (b"(3,)", zipfile.ZIP_BZIP2),
        (b"(9**16,)", 0),
        (b"(9999999999,)", 0),
    ):
        file = io.BytesIO()
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(file, "w", compression) as target:
            for name in source.namelist():
                before = b"(3,), }" + b" " * (len(shape) - 4)
                target.writestr(name, source.read(name).replace(before, shape + b", }"))
        contents.append(file.getvalue())
    for content in contents:
        assert content != good
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="not a valid file of predictions"):
            read_val_predictions(tmp_path)
    path.write_bytes(good + bytes(2**23))
    with pytest.raises(ConfigError, match="more than the limit"):
        read_val_predictions(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="not a regular file"):
        read_val_predictions(tmp_path)

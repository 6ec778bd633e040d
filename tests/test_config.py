"""Invalid configurations: one line that names the key and the choices, nothing left behind."""

import re
from pathlib import Path

import pytest
import torch
from helpers.runs import FAST

from lenet_pl.config import check, check_types, flatten, suggest
from lenet_pl.data import mnist
from lenet_pl.errors import ConfigError, UserError
from lenet_pl.rules import show
from lenet_pl.training import build, train


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.val_size=70000", "data.val_size=70000: of 6,000 training images 1 to 5,999 can"),
        ("trainer.accelerator=abacus", "trainer: .*invalid accelerator name: .*abacus"),
        ("model.num_classes=7", "model.num_classes=7: the data has 10 classes"),
        ("optimizer={lr: 0.1, momentum: 0, nesterov: true}", "optimizer: Nesterov momentum req"),
        (
            "trainer.limit_train_batches=0.001",
            "is less than one of the 157 train batches; use a la",
        ),
        ("trainer.limit_val_batches=0.05", "limit_val_batches=0.05: is less than one of the 2 val"),
        ("trainer.limit_test_batches=0.05", "limit_test_batches=0.05: is less than one of the 2 t"),
        ("trainer.overfit_batches=0.0001", "overfit_batches=0.0001: is less than one of the 157"),
        ("+callbacks.x._target_=builtins.int", "callbacks.x._target_=builtins.int: must be a Cal"),
        ("+logger.x._target_=builtins.int", "logger.x._target_=builtins.int: must be a Logger"),
        (
            "trainer.strategy={_target_: pytorch_lightning.strategies.DDPStrategy, "
            "start_method: spawn}",
            "trainer.strategy: trains in child processes, whose result is lost; choose ddp",
        ),
        ("+model.num_clases=3", "model: .*unexpected keyword argument 'num_clases'"),
    ],
)
def test_parts_that_cannot_be_built_are_rejected(composed, tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        build(composed("data=mini", override))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU"
)
def test_missing_gpu(command, tmp_path):
    done = command("data=mini", "trainer=gpu")
    assert done.returncode == 2
    assert done.stderr == "error: trainer: No supported gpu backend found!\n"
    assert list(tmp_path.iterdir()) == []


def test_data_folder_that_cannot_be_written(command, tmp_path):
    (tmp_path / "file").touch()
    done = command("data.root=file/data")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: data.root=file/data: cannot write there (Not a directory")
    assert "data=mini" in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_no_network_and_no_files(composed, tmp_path, monkeypatch):
    def unplugged(folder: Path, files: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(mnist.MNIST, "providers", (unplugged, unplugged))
    with pytest.raises(UserError) as caught:
        build(composed(f"data.root={tmp_path / 'data'}"))
    message = str(caught.value)
    for file in mnist.MNIST.files:
        assert file.name in message
    for text in ("data.root=", "no route to host", str(tmp_path / "data/MNIST/raw"), "data=mini"):
        assert text in message
    assert not list((tmp_path / "data").rglob("*ubyte*"))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04"])
def test_file_that_is_no_checkpoint(composed, tmp_path, content):
    path = tmp_path / "some.ckpt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"not a valid torch\.save file, or contains code"):
        build(composed("data=mini", f"ckpt_path={path}"))


def test_code_in_a_checkpoint_is_not_run(composed, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"state_dict": Trap()}, tmp_path / "trap.ckpt")
    with pytest.raises(ConfigError, match="contains code, which is not run"):
        build(composed("data=mini", f"ckpt_path={tmp_path / 'trap.ckpt'}"))
    assert not (tmp_path / "sprung").exists()


def test_checkpoint_that_does_not_fit(composed, checkpoint):
    changed = torch.load(checkpoint)
    changed["state_dict"]["net.fc9.weight"] = changed["state_dict"].pop("net.fc1.weight")
    torch.save(changed, checkpoint.with_name("other.ckpt"))
    start = [*FAST, f"ckpt_path={checkpoint}"]
    for overrides, message in [
        ([f"ckpt_path={checkpoint.with_name('other.ckpt')}"], "weights belong to another model"),
        (["data.split_seed=7"], "was trained on other images"),
        (["data.val_size=900"], "was trained on other images"),
        (["optimizer.lr=0.01"], r"optimizer.lr=0.01: ckpt_path=.* was trained with 0.05"),
    ]:
        with pytest.raises(ConfigError, match=message):
            build(composed(*start, *overrides))
    build(composed(*start))


@pytest.mark.parametrize(
    ("version", "writer"),
    [(None, "another project or a version before 0.2"), ("1.7.3", "lenet-pl 1.7.3")],
)
def test_checkpoint_of_another_version(composed, checkpoint, version, writer):
    state = torch.load(checkpoint)
    del state["lenet-pl_version"], state["DigitsDataModule"]["shape"]  # versions differ in content
    torch.save(state | ({"lenet-pl_version": version} if version else {}), checkpoint)
    message = (
        rf"^\S+last.ckpt: written by {writer}; lenet-pl 0\.2\.\d+ cannot open it; train again$"
    )
    with pytest.raises(ConfigError, match=message) as caught:
        build(composed(*FAST, f"ckpt_path={checkpoint}"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "callbacks.early_stopping=off",
        "callbacks.early_stopping=true",
        "callbacks.checkpoint=false",
        "logger.tensorboard=false",
        "+augment.affine={degrees: 5}",
        "+logger.csv=1",
    ],
)
def test_parts_are_complete_or_null(composed, override):
    key = override.partition("=")[0].lstrip("+")
    with pytest.raises(ConfigError, match=rf"{key}=.*: must be null, which leaves it out, or a"):
        check(composed("data=mini", override))
    check(composed("data=mini", "seed=1" if override.startswith("+") else f"{key}=null"))


def test_leftovers_of_a_replaced_option(composed):
    with pytest.raises(ConfigError, match=r"scheduler: .*scheduler.warmup is still set; add ~sch"):
        check(composed("experiment=fast", "scheduler=none"))
    with pytest.raises(ConfigError, match=r"augment.affine=.*: must be null, which leaves it out"):
        check(composed("experiment=fast", "augment=none"))
    check(composed("experiment=fast", "scheduler=none", "~scheduler.warmup"))
    check(composed("experiment=fast", "augment=none", "augment.affine=null"))


class Typed:
    def __init__(self, hidden: int, sizes: list[int] | None, rate: float, bias: bool) -> None: ...


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("hidden", "abc", "int"),
        ("hidden", True, "int"),
        ("sizes", [1, "x"], "list[int] | None"),
        ("rate", "fast", "float"),
        ("bias", "no", "bool"),
    ],
)
def test_arguments_have_the_types_of_their_hints(key, value, expected):
    valid = {"_target_": f"{__name__}.Typed", "hidden": 3, "sizes": None, "rate": 1, "bias": True}
    check_types({"parts": [valid, valid | {"sizes": [1, 2]}]}, "model")
    with pytest.raises(
        ConfigError, match=re.escape(f"model.{key}={show(value)}: must be {expected}")
    ):
        check_types(valid | {key: value}, "model")


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("callbacks.earlystopping", "did you mean callbacks.early_stopping?"),
        ("callbacks.checkpoint.mod", "did you mean callbacks.checkpoint.mode?"),
        ("optimizer.patience", "did you mean callbacks.early_stopping.patience?"),
        ("momentun", "did you mean optimizer.momentum?"),
        ("scheduler.warmup", "choose from scheduler=cosine, scheduler=none, scheduler=onecycle, "),
        ("optimizer.x", "choose from lr, momentum, weight_decay, nesterov"),
    ],
)
def test_similar_keys_are_suggested(composed, key, suggestion):
    assert suggest(key, composed()).startswith(suggestion)


def test_keys_that_are_referred_to_are_free(composed):
    for reference in ("${mine}", "${oc.select:mine,1}"):
        check(composed("data=mini", "+mine=1", f"seed='{reference}'"))
    check(composed("data=mini", "+mine=1"))  # hydra.run.dir may refer to it
    check(composed("data=mini", "+lr=1", "optimizer.lr='${lr}'"))
    with pytest.raises(ConfigError, match=r"lr: nothing reads this key; did you mean optimizer"):
        check(composed("data=mini", "+lr=1"))


@pytest.mark.parametrize(
    "name", ["metrics.csv", "result.json", "report", "_base", "a/b", "三" * 41, "<b>"]
)
def test_names_that_are_refused(composed, name):
    with pytest.raises(ConfigError, match=r"^name=.*: must be null or text: up to 120 bytes"):
        check(composed(f"name='{name}'"))


def test_names_that_are_accepted(composed):
    for name in ("baseline", "lr 0.01", "基线"):
        check(composed(f"name='{name}'"))


def test_flatten():
    nested = {"a": {"b": 1, "c": {"d": [1, {"e": 2}]}}, "f": {}, "g": None}
    assert flatten(nested) == {"a.b": 1, "a.c.d": [1, {"e": 2}], "f": {}, "g": None}


def test_run_is_refused_while_another_trains_there(composed, tmp_path):
    from lenet_pl.runs import lock_run

    with lock_run(tmp_path / "run"):
        with pytest.raises(ConfigError, match=r"hydra.run.dir=.*run: a run is in progress there$"):
            train(composed(*FAST))
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_rank_of_another_program(composed, tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "0")
    build(composed("data=mini", "trainer.accelerator=cpu"))
    monkeypatch.setenv(name, "3")
    with pytest.raises(ConfigError, match=rf"{name}=3: .*, but the run has one device; unset it"):
        build(composed("data=mini", "trainer.accelerator=cpu"))
    assert list(tmp_path.iterdir()) == []

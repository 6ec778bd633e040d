"""Many optimizer steps per Lightning step give the same numbers."""

import json
from pathlib import Path

import pytest
import torch
from helpers.runs import FAST, result, rows

from lenet_pl import fast
from lenet_pl.callbacks.history import EpochHistory
from lenet_pl.classifier import Classifier
from lenet_pl.errors import ConfigError
from lenet_pl.models.lenet import LeNet
from lenet_pl.training import build, train

# 14 batches of 64 and a smaller one
FEW = [*FAST, "logger=none", "data.fraction=0.19", "trainer.max_epochs=3", "test=false"]
FEW += ["data.eval_batch_size=200", "trainer.limit_val_batches=1", "callbacks.early_stopping=null"]

CONFIGURATIONS = [
    "",
    "classifier.steps_per_execution=1",
    "classifier.steps_per_execution=4 scheduler=onecycle trainer.gradient_clip_val=0.5",
    "classifier.steps_per_execution=1000 scheduler=cosine optimizer=adamw callbacks=ema",
    "classifier.steps_per_execution=5 callbacks=swa callbacks.average.start=0.4 augment=affine",
    "scheduler=plateau scheduler.patience=0 optimizer.lr=0.3 loss=mse",
    "trainer.precision=bf16-mixed classifier.decay_biases=false optimizer.weight_decay=0.1",
    "trainer.limit_train_batches=0.5 trainer.gradient_clip_val=0.1 "
    "trainer.gradient_clip_algorithm=value",
    "trainer.overfit_batches=2",
    "trainer.detect_anomaly=true",
    "model=pretrained model.name=shufflenet_v2_x0_5 model.freeze=true trainer.max_epochs=2 "
    "trainer.limit_train_batches=3 trainer.limit_val_batches=1 data.eval_batch_size=64 "
    "callbacks=[finetune,ema]",
]


def equal(a: object, b: object) -> bool:
    """Whether two checkpoints are equal, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def last(run: Path) -> dict:
    """The last checkpoint, without paths and durations."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    callbacks = checkpoint["callbacks"]
    for row in callbacks["EpochHistory"]["rows"]:
        row.pop("seconds")
    callbacks["BestAndLast"].pop("best_model_path")
    return checkpoint


@pytest.mark.parametrize("overrides", CONFIGURATIONS)
def test_equal_to_the_plain_classifier_bit_for_bit(composed, train_once, tmp_path, overrides):
    steps = [override for override in overrides.split() if "steps_per" in override]
    overrides = [*FEW, *(override for override in overrides.split() if override not in steps)]
    run, expected = tmp_path / "run", train_once(*overrides)
    train(composed(*overrides, "classifier=fast", *steps))
    assert rows(run) == rows(expected)
    # weights, optimizer, schedule, averages, counters of steps and batches
    assert equal(last(run), last(expected))
    fast, plain = result(run), result(expected)
    for key in ("metrics", "epochs", "best_epoch"):
        assert fast[key] == plain[key]


# the learning rates of a CUDA graph have 32 bits, so these are powers of two
CAPTURED = [
    "classifier.steps_per_execution=4",
    "optimizer.nesterov=true trainer.gradient_clip_val=0.5 augment=[affine,erasing]",
    "optimizer=adamw scheduler=onecycle classifier.decay_biases=false",
    "optimizer=muon scheduler=cosine trainer.precision=bf16-mixed",
    "model=lstm optimizer=adam optimizer.lr=0.0009765625 scheduler=plateau scheduler.patience=0",
    "model=mlp loss=mse augment=noise data.augment_until=0.5",
    "model=pretrained model.name=shufflenet_v2_x0_5 model.freeze=true trainer.max_epochs=2 "
    "trainer.limit_train_batches=4 trainer.limit_val_batches=1 callbacks=finetune",
]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")


@pytest.mark.parametrize("overrides", CAPTURED)
def test_captured_steps_without_a_graph(composed, tmp_path, monkeypatch, overrides):
    """All but the graph itself: the loop, the optimizer's options, tensors as learning rates."""
    overrides = [*FEW, "classifier=fast", "optimizer.lr=0.015625", *overrides.split()]
    train(composed(*overrides))
    monkeypatch.setattr(fast, "is_capturable", lambda _: True)
    calls = []
    monkeypatch.setattr(fast, "capture", lambda update, _: calls.append(update) or update)
    train(composed(*overrides, f"run_dir={tmp_path / 'captured'}"))
    assert len(calls) == result(tmp_path / "run")["epochs"]  # one graph per epoch
    for row, expected in zip(rows(tmp_path / "captured"), rows(tmp_path / "run"), strict=True):
        assert row == pytest.approx(expected, rel=1e-4)
    plain, captured = last(tmp_path / "run"), last(tmp_path / "captured")
    for key in ("loops", "global_step"):
        assert captured[key] == plain[key]
    groups, expected = (x["optimizer_states"][0]["param_groups"] for x in (captured, plain))
    assert groups == expected


@needs_cuda
@pytest.mark.parametrize("overrides", CAPTURED)
def test_graph_equals_its_steps_bit_for_bit(composed, tmp_path, monkeypatch, overrides):
    overrides = [*FEW, "classifier=fast", "trainer.accelerator=gpu", *overrides.split()]
    overrides.append("trainer.deterministic=true")
    train(composed(*overrides))
    monkeypatch.setattr(fast, "capture", lambda update, _: update)
    train(composed(*overrides, f"run_dir={tmp_path / 'steps'}"))
    assert rows(tmp_path / "run") == rows(tmp_path / "steps")
    assert equal(last(tmp_path / "run"), last(tmp_path / "steps"))


@needs_cuda
def test_network_that_cannot_be_captured(composed, monkeypatch):
    forward = LeNet.forward
    monkeypatch.setattr(LeNet, "forward", lambda net, x: forward(net, x) * (x.sum().item() > 0))
    with pytest.raises(RuntimeError, match="cannot capture a CUDA graph; choose classifier=plain"):
        train(composed(*FEW, "classifier=fast", "trainer.accelerator=gpu"))


def test_hooks_run_once_per_execution(composed):
    overrides = ["classifier=fast", "classifier.steps_per_execution=6", "callbacks=none"]
    cfg = composed(*FEW[:-1], *overrides)
    Path(cfg.run_dir).mkdir()
    parts, steps = build(cfg), []
    parts.history.on_train_batch_end = lambda trainer, *_: steps.append(trainer.global_step)
    parts.trainer.fit(parts.classifier, parts.data)
    assert steps == [6, 12, 15, 21, 27, 30, 36, 42, 45]
    assert parts.trainer.estimated_stepping_batches == parts.trainer.global_step == 45


@pytest.mark.parametrize("first", ["plain", "fast"])
@pytest.mark.parametrize("second", ["plain", "fast"])
def test_interrupted_run_resumes_with_either_classifier(
    composed, train_once, tmp_path, monkeypatch, first, second
):
    overrides = [*FEW, "scheduler=onecycle", "callbacks=ema", "augment=noise"]
    steps = {"plain": [], "fast": ["classifier.steps_per_execution=4"]}
    expected = train_once(*overrides)
    step = Classifier.training_step

    def power_cut(self, batch, batch_idx):
        if self.trainer.current_epoch == 1 and batch_idx == 0:
            power_cut.batches += 1
        if power_cut.batches == 7:
            raise RuntimeError("power cut")
        return step(self, batch, batch_idx)

    power_cut.batches = 0
    cut = f"run_dir={tmp_path / 'cut'}"
    with monkeypatch.context() as patch:
        if first == "fast":
            patch.setattr(Classifier, "training_step", power_cut)
        else:
            patch.setattr(EpochHistory, "on_train_epoch_start", _fail_in_the_second_epoch)
        with pytest.raises(RuntimeError, match="power cut"):
            train(composed(*overrides, f"classifier={first}", *steps[first], cut))
    assert len(rows(tmp_path / "cut")) == 1
    resumed = f"ckpt_path={tmp_path / 'cut' / 'checkpoints' / 'last.ckpt'}"
    train(composed(*overrides, f"classifier={second}", *steps[second], cut, resumed))
    assert rows(tmp_path / "cut") == rows(expected)
    assert equal(last(tmp_path / "cut"), last(expected))


def _fail_in_the_second_epoch(self, trainer, pl_module):
    if trainer.current_epoch == 1:
        raise RuntimeError("power cut")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "trainer.accumulate_grad_batches=2",
            r"=2: must be 1 with classifier=fast; choose",
        ),
        ("trainer.devices=2", r"trainer.devices=2: must be 1 with classifier=fast; choose classif"),
        ("trainer.precision=64-true", r"=64-true: must be 32-true or bf16-mixed with class"),
        ("+trainer.val_check_interval=0.5", r"val_check_interval=0.5: must be 1.0 with classif"),
        ("trainer.strategy=ddp", r"trainer.strategy=DDPStrategy: must be auto with cla"),
        ("optimizer=lbfgs", r"optimizer: LBFGS requires a closure; choose classifier=plain"),
    ],
)
def test_unsupported_settings_are_rejected(composed, override, message):
    overrides = [override]
    if override == "optimizer=lbfgs":
        overrides = ["optimizer._target_=torch.optim.LBFGS", "~optimizer.momentum"]
        overrides += ["~optimizer.nesterov", "~optimizer.weight_decay"]
    with pytest.raises(ConfigError, match=message):
        build(composed(*FEW, "classifier=fast", *overrides))


def test_epoch_of_a_single_batch(composed, tmp_path):
    train(composed(*FEW, "classifier=fast", "data.batch_size=5000"))
    assert len(rows(tmp_path / "run")) == 3
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "finished"

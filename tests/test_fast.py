"""Many optimizer steps to one of Lightning's, and the same numbers."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from helpers.runs import FAST, result, rows

from lenet_pl import fast
from lenet_pl.callbacks.history import EpochHistory
from lenet_pl.classifier import Classifier
from lenet_pl.errors import ConfigError
from lenet_pl.fast import FastClassifier
from lenet_pl.training import build, train

# 14 batches of 64 and one of what is left over
FEW = [*FAST, "logger=none", "data.fraction=0.19", "trainer.max_epochs=3", "test=false"]
FEW += ["data.eval_batch_size=1000", "callbacks.early_stopping=null"]

DIFFERENT = [
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


def same(ours: object, theirs: object) -> bool:
    """Whether two checkpoints hold the same, tensors to the bit."""
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs


def last(run: Path) -> dict:
    """The last checkpoint, without what tells where and how long."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    callbacks = checkpoint["callbacks"]
    for row in callbacks["EpochHistory"]["rows"]:
        row.pop("seconds")
    for key in ("dirpath", "best_model_path", "kth_best_model_path", "best_k_models"):
        callbacks["BestAndLastCheckpoint"].pop(key)
    return checkpoint


@pytest.mark.parametrize("words", DIFFERENT)
def test_the_same_to_the_bit(composed, tmp_path, words):
    steps = [word for word in words.split() if "steps_per" in word]
    words = [*FEW, *(word for word in words.split() if word not in steps)]
    train(composed(*words, f"run_dir={tmp_path / 'plain'}"))
    train(composed(*words, "classifier=fast", *steps, f"run_dir={tmp_path / 'fast'}"))
    assert rows(tmp_path / "fast") == rows(tmp_path / "plain")
    # weights, optimizer, schedule, averages, counters of steps and batches
    assert same(last(tmp_path / "fast"), last(tmp_path / "plain"))
    ours, theirs = (result(tmp_path / name) for name in ("fast", "plain"))
    for key in ("metrics", "epochs", "best_epoch"):
        assert ours[key] == theirs[key]


def test_lightning_is_asked_once_for_many_steps(composed):
    words = ["classifier=fast", "classifier.steps_per_execution=6", "callbacks=none"]
    cfg = composed(*FEW[:-1], *words)
    Path(cfg.run_dir).mkdir()
    parts, seen = build(cfg), []
    parts.history.on_train_batch_end = lambda trainer, *_: seen.append(trainer.global_step)
    parts.trainer.fit(parts.classifier, parts.data)
    assert seen == [6, 12, 15, 21, 27, 30, 36, 42, 45]
    assert parts.trainer.estimated_stepping_batches == parts.trainer.global_step == 45


@pytest.mark.parametrize("first", ["plain", "fast"])
@pytest.mark.parametrize("then", ["plain", "fast"])
def test_a_run_cut_off_goes_on_with_either(composed, tmp_path, monkeypatch, first, then):
    words = [*FEW, "scheduler=onecycle", "callbacks=ema", "augment=noise"]
    steps = {"plain": [], "fast": ["classifier.steps_per_execution=4"]}
    train(composed(*words))
    step = Classifier.training_step

    def power_cut(self, batch, batch_idx):
        if self.trainer.current_epoch == 1 and batch_idx == 0:
            power_cut.batches += 1
        if power_cut.batches == 7:
            raise RuntimeError("power cut")
        return step(self, batch, batch_idx)

    power_cut.batches = 0
    cut = f"run_dir={tmp_path / 'cut'}"
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        if first == "fast":
            patch.setattr(Classifier, "training_step", power_cut)
        else:
            patch.setattr(EpochHistory, "on_train_epoch_start", _cut_before_the_second)
        train(composed(*words, f"classifier={first}", *steps[first], cut))
    assert len(rows(tmp_path / "cut")) == 1
    again = f"ckpt_path={tmp_path / 'cut' / 'checkpoints' / 'last.ckpt'}"
    train(composed(*words, f"classifier={then}", *steps[then], cut, again))
    assert rows(tmp_path / "cut") == rows(tmp_path / "run")
    assert same(last(tmp_path / "cut"), last(tmp_path / "run"))


def _cut_before_the_second(self, trainer, pl_module):
    if trainer.current_epoch == 1:
        raise RuntimeError("power cut")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("trainer.accumulate_grad_batches=2", r"=2: must be 1 with classifier=fast; classifier=pl"),
        ("trainer.devices=2", r"trainer.devices=2: must be 1 with classifier=fast; classif"),
        ("trainer.precision=64-true", r"=64-true: must be 32-true or bf16-mixed with class"),
        ("+trainer.val_check_interval=4", r"val_check_interval=4: must be 1.0 with classif"),
        ("trainer.strategy=ddp", r"trainer.strategy=DDPStrategy: must be auto with cla"),
        ("optimizer=lbfgs", r"optimizer: LBFGS evaluates the loss itself; add classifier=plain"),
    ],
)
def test_what_only_lightning_does(composed, word, told):
    words = [word]
    if word == "optimizer=lbfgs":
        words = ["optimizer._target_=torch.optim.LBFGS", "~optimizer.momentum"]
        words += ["~optimizer.nesterov", "~optimizer.weight_decay"]
    with pytest.raises(ConfigError, match=told):
        build(composed(*FEW, "classifier=fast", *words))


def test_a_graph_is_captured_of_fresh_nodes(composed, monkeypatch):
    # what a step before has tied the parameters to is bound to that step's stream
    cfg = composed(*FEW[:-1], "classifier=fast", "callbacks=none", "classifier.cuda_graph=true")
    Path(cfg.run_dir).mkdir()
    parts, seen = build(cfg), []
    weight = parts.classifier.net.fc1.weight

    def node():
        return weight.view_as(weight).grad_fn.next_functions[0][0]

    step = Classifier.training_step

    def tag(self, batch, batch_idx):
        node_of_this_step = node()
        seen.append("old" in node_of_this_step.metadata)
        node_of_this_step.metadata["old"] = True
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", tag)
    monkeypatch.setattr(FastClassifier, "captures", property(lambda self: True))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: nullcontext())
    monkeypatch.setattr(Graph, "replay", lambda self: None)
    parts.trainer.fit(parts.classifier, parts.data)
    assert len(seen) > 1 and not any(seen)


class Graph:
    """In place of a CUDA graph on the CPU: a replay does again what was captured."""

    def replay(self) -> None:
        for parameter in self.replayed.parameters:
            parameter.grad = None
        self.replayed.passes(self.classifier)
        for kept, parameter in zip(self.replayed.gradients, self.replayed.parameters, strict=True):
            if kept is not None:
                kept.copy_(parameter.grad)


def test_a_graph_is_replayed_with_each_batch(composed, tmp_path, monkeypatch):
    words = [*FEW, "scheduler=onecycle", "trainer.gradient_clip_val=0.5", "callbacks=ema"]
    train(composed(*words, f"run_dir={tmp_path / 'plain'}"))
    passes, captured = fast.Replay.passes, []

    def note(self, classifier):
        if self.graph not in captured:
            captured.append(self.graph)
            self.graph.replayed, self.graph.classifier = self, classifier
        passes(self, classifier)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: nullcontext())
    monkeypatch.setattr(fast.Replay, "passes", note)
    monkeypatch.setattr(FastClassifier, "captures", property(lambda self: self.cuda_graph))
    train(composed(*words, "classifier=fast", "classifier.cuda_graph=true"))
    assert len(captured) == 1  # for three epochs, each with a last batch that is smaller
    assert rows(tmp_path / "run") == rows(tmp_path / "plain")
    assert same(last(tmp_path / "run"), last(tmp_path / "plain"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_graph_trains_as_kernels_do(composed, tmp_path):
    words = [*FEW, "trainer.accelerator=gpu", "classifier=fast", "scheduler=onecycle"]
    for name in ("true", "false"):
        train(composed(*words, f"classifier.cuda_graph={name}", f"run_dir={tmp_path / name}"))
    ours, theirs = (rows(tmp_path / name)[-1] for name in ("true", "false"))
    assert ours == pytest.approx(theirs, rel=0.02)


def test_an_epoch_of_no_more_than_one_batch(composed, tmp_path):
    train(composed(*FEW, "classifier=fast", "data.batch_size=5000"))
    assert len(rows(tmp_path / "run")) == 3
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "finished"

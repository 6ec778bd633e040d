"""Options of the configuration groups: they learn, they resume, and invalid ones are refused."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.commands import ROOT
from helpers.runs import FAST, either, rows
from pytorch_lightning import seed_everything
from torch.testing import assert_close

from lenet_pl.callbacks.history import EpochHistory
from lenet_pl.errors import ConfigError, UserError
from lenet_pl.models.lenet import LeNet
from lenet_pl.training import build, train

SHORT = [*FAST, "logger=none", "test=false"]
FEW_IMAGES = ["trainer.limit_val_batches=1", "data.eval_batch_size=64"]
NO_STOPPING = "callbacks.early_stopping=null"

# minimum validation accuracy after two epochs of the shipped digits, below that of seeds 0 to 4
ACCURACY = {
    "model=mlp optimizer=adam optimizer.lr=0.002": 0.90,  # 0.935 to 0.945
    "model=lstm optimizer=adam optimizer.lr=0.005": 0.89,  # 0.923 to 0.942
    "loss=mse optimizer.lr=0.2 optimizer.nesterov=true": 0.92,  # 0.944 to 0.954
    "loss.label_smoothing=0.1 scheduler=cosine optimizer=adamw optimizer.lr=0.003 "
    "classifier.decay_biases=false": 0.93,  # 0.950 to 0.957
    "optimizer=muon optimizer.lr=0.02 scheduler=cosine classifier=fast": 0.95,  # 0.970 to 0.978
    "scheduler=onecycle callbacks=ema": 0.84,  # 0.894 to 0.944
    "scheduler=plateau callbacks=swa callbacks.average.start=0.5": 0.93,  # 0.956 to 0.967
    "trainer.precision=bf16-mixed trainer.accumulate_grad_batches=2 "
    "trainer.gradient_clip_val=1": 0.70,  # 0.797 to 0.876
}


@pytest.mark.slow
@pytest.mark.parametrize("overrides", ACCURACY)
def test_options_learn(composed, overrides):
    # an override given twice is an error
    defaults = [part for part in [*SHORT, NO_STOPPING] if part.split("=")[0] not in overrides]
    accuracy = train(composed(*defaults, *overrides.split(), "trainer.max_epochs=2"))
    assert accuracy is not None
    assert accuracy >= ACCURACY[overrides]


@either
def test_gradients_are_clipped(composed):
    overrides = ["trainer.limit_train_batches=5", "trainer.max_epochs=1", "callbacks=none"]
    overrides += ["trainer.gradient_clip_val=0.001", "optimizer.momentum=0"]
    cfg = composed(*SHORT, *overrides)
    Path(cfg.run_dir).mkdir()
    parts = build(cfg)
    before = [p.detach().clone() for p in parts.classifier.net.parameters()]
    parts.trainer.fit(parts.classifier, parts.data)
    after = parts.classifier.net.parameters()
    squares = [(new - old).square().sum() for new, old in zip(after, before, strict=True)]
    assert 0 < sum(squares).sqrt() <= 5 * 0.05 * 0.001 * 1.001


@either
def test_mixed_precision_has_logits_of_16_bits_and_exact_accuracy(composed):
    overrides = ["trainer.limit_train_batches=5", "trainer.max_epochs=1", "callbacks=none"]
    cfg = composed(*SHORT, *overrides, "trainer.precision=bf16-mixed")
    Path(cfg.run_dir).mkdir()
    parts = build(cfg)
    parts.trainer.fit(parts.classifier, parts.data)
    logits, labels = parts.classifier.outputs["val"]
    assert logits.dtype == torch.float32
    assert torch.equal(logits, logits.bfloat16().float())
    assert parts.classifier.net.conv1.weight.dtype == torch.float32
    [row] = parts.history.rows
    assert row["val/acc"] == (logits.argmax(1) == labels).sum().item() / 1000


RESUMED = [
    "scheduler=cosine optimizer=adamw callbacks=ema augment=affine",
    "scheduler=onecycle callbacks=swa callbacks.average.start=0.4 loss.label_smoothing=0.1",
    "scheduler=plateau scheduler.patience=0 optimizer.lr=0.3 callbacks=default loss=cross_entropy",
    "model=mlp optimizer=adam loss=mse augment=[noise,erasing,elastic,flip] classifier=fast",
    "model=lstm model.num_layers=2 model.dropout=0.2 optimizer=muon classifier=plain augment=none",
    "model=pretrained model.name=mobilenet_v3_small model.freeze=true "  # has dropout
    "callbacks=[finetune,ema] scheduler=cosine classifier.decay_biases=false",
    "model=lenet optimizer=sgd scheduler=none",
]


@pytest.mark.parametrize(
    "group", ["model", "loss", "augment", "optimizer", "scheduler", "callbacks", "classifier"]
)
def test_every_option_is_resumed(group):
    chosen = re.findall(rf"(?:^| ){group}=(\S+)", " ".join(RESUMED))
    resumed = {option for options in chosen for option in options.strip("[]").split(",")}
    options = {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}
    without_checkpoints = {"none"} if group == "callbacks" else set()
    assert resumed == options - without_checkpoints


@pytest.mark.slow
@pytest.mark.parametrize("overrides", RESUMED)
def test_a_resumed_run_equals_an_uninterrupted_one(composed, tmp_path, monkeypatch, overrides):
    defaults = [*SHORT, *FEW_IMAGES, "trainer.limit_train_batches=3", "trainer.max_epochs=4"]
    overrides = [*defaults, *overrides.split(), NO_STOPPING]
    train(composed(*overrides))
    start = EpochHistory.on_train_epoch_start

    def power_cut(self, trainer, pl_module):
        start(self, trainer, pl_module)
        if trainer.current_epoch == 2:
            raise RuntimeError("power cut")

    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(EpochHistory, "on_train_epoch_start", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            train(composed(*overrides, f"run_dir={cut}"))
    assert len(rows(cut)) == 2
    last = f"ckpt_path={cut / 'checkpoints' / 'last.ckpt'}"
    train(composed(*overrides, f"run_dir={cut}", last))
    assert rows(cut) == rows(tmp_path / "run")
    ends = [torch.load(folder / "checkpoints" / "last.ckpt") for folder in (cut, tmp_path / "run")]
    for key in ("state_dict", "current_model_state", "optimizer_states"):
        assert_close(*(end.get(key) for end in ends), rtol=0, atol=0)


def test_every_random_number_depends_on_the_epoch_only(composed, tmp_path):
    """A user's layer may use any of the global generators."""
    draws = []

    class Draws(LeNet):
        def forward(self, x):
            if self.training:
                draws.append((torch.rand(1).item(), np.random.rand(), random.random()))
            return super().forward(x)

    for seed in (3, 4):
        cfg = composed(*SHORT, "trainer.limit_train_batches=1", "trainer.max_epochs=2", "seed=3")
        Path(cfg.run_dir).mkdir(exist_ok=True)
        parts = build(cfg)
        parts.classifier.net = Draws(10)
        seed_everything(seed)
        parts.trainer.fit(parts.classifier, parts.data)
    assert draws[:2] == draws[2:]
    assert len({*sum(draws[:2], ())}) == 6


ONE_CYCLE = ["scheduler=onecycle", "trainer.limit_train_batches=1", "trainer.max_epochs=3"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (ONE_CYCLE, "scheduler.warmup=0.3: must cover more than one of the run's 3 steps"),
        (
            ["scheduler=cosine", *ONE_CYCLE[1:], "scheduler.warmup=0.9"],
            "scheduler.warmup=0.9: leaves none of the run's 3 steps for the decay",
        ),
        (["scheduler=cosine", "scheduler.warmup=1.5"], "scheduler.warmup=1.5: must be a number"),
        (
            ["scheduler=plateau", "scheduler.monitor=train/loss"],
            "scheduler.monitor=train/loss: must be a validation metric",
        ),
        (
            ["scheduler=plateau", "+trainer.check_val_every_n_epoch=2"],
            "trainer.check_val_every_n_epoch=2: must be 1",
        ),
        (
            ["model=pretrained", "model.name=resnet81"],
            "model.name=resnet81: not a torchvision classifier; choose from resnet18, ",
        ),
        (["callbacks=finetune"], "callbacks.finetune: nothing is frozen; add model.freeze=true"),
        (["callbacks=finetune", "trainer.max_epochs=1"], "callbacks.finetune.unfreeze_epoch=2: "),
        (["model=mlp", "model.hidden=[10,0]"], r"model.hidden=\[10, 0\]: must be a list"),
        (["optimizer=adam", "optimizer.betas=[1,0]"], r"optimizer.betas=\[1, 0\]: must be a list"),
    ],
)
def test_invalid_options_are_refused(composed, tmp_path, overrides, message):
    cfg = composed("data=mini", *overrides)
    with pytest.raises(UserError, match=message):
        build(cfg)
    assert list(tmp_path.iterdir()) == []


def test_a_run_resumes_only_with_its_own_options(composed, tmp_path):
    overrides = [*SHORT, *FEW_IMAGES, NO_STOPPING, "scheduler=onecycle"]
    overrides += ["trainer.limit_train_batches=8"]
    train(composed(*overrides, "trainer.max_epochs=1"))
    last = f"ckpt_path={tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}"
    for changed, message in [
        (["trainer.max_epochs=2"], r"trainer.max_epochs=2: the schedule of .* ends after 8 steps"),
        (["callbacks=ema"], r"callbacks.average=WeightAverage: ckpt_path=.* with None"),
        (["scheduler.warmup=0.5"], r"scheduler.warmup=0.5: ckpt_path=.* was trained with 0.3"),
        (["scheduler=none"], r"scheduler=None: ckpt_path=.* was trained with one_cycle"),
        (["optimizer.lr=0.04"], r"optimizer.lr=0.04: ckpt_path=.* was trained with 0.05"),
        (["optimizer=adam", "optimizer.lr=0.05"], r"optimizer=Adam: ckpt_path=.* with SGD"),
        (["data.batch_size=32"], r"data.batch_size=32: ckpt_path=.* was trained with 64"),
        (["seed=3"], r"seed=3: ckpt_path=.* was trained with 0"),
        (["loss=mse"], r"loss=OneHotMSE: ckpt_path=.* was trained with CrossEntropyLoss"),
        (["loss.label_smoothing=0.1"], r"loss.label_smoothing=0.1: ckpt_path=.* with 0.0"),
        (["augment=affine"], r"augment.affine=Affine: ckpt_path=.* was trained with None"),
        (["trainer.gradient_clip_val=1"], r"trainer.gradient_clip_val=1: .* trained with None"),
        (["trainer.accumulate_grad_batches=2"], r"accumulate_grad_batches=2: .* trained with 1"),
        (["trainer.precision=bf16-mixed"], r"trainer.precision=bf16-mixed: .* with 32-true"),
        (["classifier.decay_biases=false"], r"classifier.decay_biases=False: .* with True"),
    ]:
        with pytest.raises(ConfigError, match=message):
            build(composed(*overrides, "trainer.max_epochs=1", *changed, last))

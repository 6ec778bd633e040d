"""Unfreezing layers during training."""

import pytest
import torch
from helpers.runs import FAST

from lenet_pl.errors import ConfigError
from lenet_pl.training import build, train


def test_layers_are_unfrozen_at_their_epoch(composed, tmp_path):
    overrides = [*FAST, "logger=none", "model=pretrained", "model.name=shufflenet_v2_x0_5"]
    overrides += ["model.freeze=true", "callbacks=finetune", "callbacks.early_stopping=null"]
    overrides += ["trainer.limit_train_batches=2", "trainer.limit_val_batches=1"]
    overrides += ["data.eval_batch_size=64", "trainer.max_epochs=2"]
    train(composed(*overrides, "callbacks.finetune.lr_factor=0.5"))
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    head, body = checkpoint["optimizer_states"][0]["param_groups"]
    assert (head["lr"], body["lr"]) == (0.05, 0.025)
    assert len(head["params"]) == 2
    # two batches of the second epoch, in which batch norms follow the data again
    assert checkpoint["state_dict"]["net.backbone.conv1.1.num_batches_tracked"] == 2
    with pytest.raises(ConfigError, match=r"lr_factor=0.1: ckpt_path=.* was trained with 0.5"):
        build(composed(*overrides, f"ckpt_path={path}"))
    overrides += [f"ckpt_path={path}", "model.freeze=false", "callbacks=default"]
    with pytest.raises(ConfigError, match=r"freeze=False: ckpt_path=.* was trained with True"):
        build(composed(*overrides))

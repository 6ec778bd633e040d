"""Random combinations of the groups run a batch."""

import random

import pytest
from helpers.commands import ROOT
from helpers.runs import result

from lenet_pl.config import check
from lenet_pl.training import train

CONF = ROOT / "conf"
OPTIONS = {
    group: sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    for group in ("model", "loss", "optimizer", "scheduler", "augment", "callbacks")
}
# what an option requires of the others; and the smallest classifier of torchvision
SMALLEST = ["model=pretrained", "model.name=shufflenet_v2_x0_5"]
REQUIRES = {"callbacks=finetune": [*SMALLEST, "model.freeze=true"], "model=pretrained": SMALLEST}
SMALL = ["data=mini", "data.batch_size=8", "data.eval_batch_size=8", "trainer.accelerator=cpu"]


def draw_combinations(count: int) -> list[list[str]]:
    """Random options of all groups, each option at least once."""
    rng = random.Random(0)
    columns = []
    for group, names in OPTIONS.items():
        column = [f"{group}={name}" for name in names] + [
            f"{group}={rng.choice(names)}" for _ in range(count - len(names))
        ]
        rng.shuffle(column)
        columns.append(column)
    return [list(row) for row in zip(*columns, strict=True)]


@pytest.mark.parametrize("options", draw_combinations(30), ids=" ".join)
def test_batch_of_a_random_combination(composed, tmp_path, options):
    required = [item for option in options for item in REQUIRES.get(option, [])]
    cfg = composed(*SMALL, *options, *required, "trainer.fast_dev_run=true", "logger=none")
    check(cfg)
    train(cfg)
    assert result(tmp_path / "run")["status"] == "finished"


def test_callback_options_are_merged(composed):
    cfg = composed("callbacks=[ema,finetune]")
    assert {"checkpoint", "early_stopping", "average", "finetune"} <= set(cfg.callbacks)

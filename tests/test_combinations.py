"""Whatever is chosen goes together."""

import random

import pytest
from helpers.commands import ROOT
from helpers.runs import result

from lenet_pl.config import check
from lenet_pl.training import train

CONF = ROOT / "conf"
CHOICES = {
    group: sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    for group in ("model", "loss", "optimizer", "scheduler", "augment", "callbacks")
}
# what a choice asks of the others; and the smallest classifier of torchvision
SMALLEST = ["model=pretrained", "model.name=shufflenet_v2_x0_5"]
NEEDS = {"callbacks=finetune": [*SMALLEST, "model.freeze=true"], "model=pretrained": SMALLEST}
SMALL = ["data=mini", "data.batch_size=8", "data.eval_batch_size=8", "trainer.accelerator=cpu"]


def drawn(count: int) -> list[list[str]]:
    """Random choices from all groups, each choice at least once."""
    draw = random.Random(0)
    columns = []
    for group, names in CHOICES.items():
        column = [f"{group}={name}" for name in names] + [
            f"{group}={draw.choice(names)}" for _ in range(count - len(names))
        ]
        draw.shuffle(column)
        columns.append(column)
    return [list(row) for row in zip(*columns, strict=True)]


@pytest.mark.parametrize("words", drawn(30), ids=" ".join)
def test_a_batch_of_a_random_combination(composed, tmp_path, words):
    needs = [word for chosen in words for word in NEEDS.get(chosen, [])]
    cfg = composed(*SMALL, *words, *needs, "trainer.fast_dev_run=true", "logger=none")
    check(cfg)
    train(cfg)
    assert result(tmp_path / "run")["status"] == "finished"


def test_callbacks_add_up(composed):
    cfg = composed("callbacks=[ema,finetune]")
    assert {"checkpoint", "early_stopping", "average", "finetune"} <= set(cfg.callbacks)

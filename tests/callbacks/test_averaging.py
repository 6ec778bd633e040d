"""Averages of the weights."""

import pytest
import torch
from helpers.runs import FAST, either, result, rows

from lenet_pl.callbacks.averaging import update_average
from lenet_pl.data.mnist import Mini
from lenet_pl.models.lenet import LeNet
from lenet_pl.training import train


def average(values: list[float], decay: float | None) -> float:
    mean = torch.tensor([values[0]])
    for count, value in enumerate(values[1:], start=1):
        update_average([mean], [torch.tensor([value])], torch.tensor(count), decay)
    return mean.item()


def test_average_by_hand():
    assert average([1.0, 2.0, 6.0], None) == pytest.approx(3.0)
    assert average([1.0, 2.0], 0.9) == pytest.approx(1.0 + (1 - 2 / 11) * (2.0 - 1.0))
    assert average([1.0, 2.0], 0.1) == pytest.approx(1.9)
    assert average([0.1307] * 500, 0.9) == torch.tensor(0.1307).item()


@either
@pytest.mark.parametrize("option", ["ema", "swa"])
def test_the_average_is_validated_saved_and_tested(composed, tmp_path, option):
    overrides = [*FAST, "logger=none", f"callbacks={option}", "callbacks.early_stopping=null"]
    train(composed(*overrides, "trainer.max_epochs=4", "trainer.limit_train_batches=20"))
    run = tmp_path / "run"
    outcome, best = result(run), torch.load(run / "best.pth")
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    current = checkpoint["current_model_state"]["net.fc1.weight"]
    assert not torch.equal(best["fc1.weight"], current)
    assert torch.equal(best["fc1.weight"], checkpoint["state_dict"]["net.fc1.weight"])
    net, test = LeNet().eval(), Mini().load().test
    net.load_state_dict(best)
    pixels = (test.images / 255 - outcome["data"]["mean"]) / outcome["data"]["std"]
    with torch.no_grad():
        correct = (net(pixels).argmax(1) == test.labels).sum().item()
    assert outcome["metrics"]["test/acc"] == correct / 1000
    assert outcome["metrics"]["val/acc"] == max(row["val/acc"] for row in rows(run))
    assert checkpoint["state_dict"]["mean"].item() == torch.tensor(outcome["data"]["mean"]).item()


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_a_run_resumed_after_its_last_epoch_has_the_same_figures(composed, tmp_path, average):
    overrides = [*FAST, "logger=none", f"callbacks={average}", "trainer.limit_train_batches=4"]
    overrides += ["trainer.max_epochs=2", "callbacks.average.start=0.5"]
    train(composed(*overrides))
    expected = result(tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    train(composed(*overrides, f"ckpt_path={path}"))
    assert result(tmp_path / "run")["metrics"] == expected["metrics"]

"""How good a run's best weights are on the test set."""

from pathlib import Path

import torch

from lenet_pl.analysis.evaluate import wilson
from lenet_pl.run import open_run


def final_test(folder: Path) -> dict[str, float]:
    """``test/acc``, its 95 % interval and ``test/loss`` of a run's best weights.

    Raises:
        ConfigError: if the run folder does not hold them.
        DataError: if the data cannot be had.
    """
    run = open_run(str(folder))
    data = run.data()
    test = data.splits["test"]
    net = run.network()
    with torch.no_grad():
        batches = test.images.split(data.eval_batch_size)
        logits = torch.cat([net(images) for images in batches])
        loss = run.loss()(logits, test.labels).item()
    correct = int((logits.argmax(1) == test.labels).sum())
    low, high = wilson(correct, len(test))
    return {
        "test/loss": loss,
        "test/acc": correct / len(test),
        "test/acc_low": low,
        "test/acc_high": high,
    }

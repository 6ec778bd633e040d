"""The one look of a sweep at the test set."""

import json
from pathlib import Path

import torch

from lenet_pl.analysis.evaluate import wilson
from lenet_pl.analysis.sweep import Setting
from lenet_pl.record import write_result
from lenet_pl.run import open_run


def examine(setting: Setting) -> bool:
    """Test the best weights of a setting's jobs; the figures go into their ``result.json``.

    What has been tested already is not tested again.

    Returns:
        Whether there was something to test.

    Raises:
        ConfigError, DataError: as :func:`final_test` does.
    """
    untested = [job for job in setting.jobs if "test/acc" not in job.metrics]
    for job in untested:
        result = json.loads((job.folder / "result.json").read_text(encoding="utf-8"))
        result["metrics"] |= final_test(job.folder)
        write_result(job.folder, result)
    return bool(untested)


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

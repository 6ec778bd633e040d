"""The one look of a sweep at the test set."""

import json
from pathlib import Path

from lenet_pl.errors import DataError
from lenet_pl.evaluation.evaluate import score
from lenet_pl.evaluation.loading import open_model
from lenet_pl.files import write_json
from lenet_pl.sweeps.results import Setting


def examine(setting: Setting) -> bool:
    """Test the best weights of a setting's jobs; the figures go into their ``result.json``.

    What has been tested already is not tested again. All of them are tested, or none.

    Returns:
        Whether there was something to test.

    Raises:
        ConfigError, DataError: as :func:`final_test` does.
    """
    untested = [job for job in setting.jobs if "test/acc" not in job.metrics]
    figures = [final_test(job.folder) for job in untested]
    for job, metrics in zip(untested, figures, strict=True):
        result = json.loads((job.folder / "result.json").read_text(encoding="utf-8"))
        result["metrics"] |= metrics
        write_json(job.folder / "result.json", result)
    return bool(untested)


def final_test(folder: Path) -> dict[str, float]:
    """``test/acc``, its 95 % interval and ``test/loss`` of a run's best weights.

    Raises:
        ConfigError: if the run folder does not hold them.
        DataError: if the data cannot be had, or are not those of the run.
    """
    subject = open_model(str(folder))
    assert subject.run is not None
    data = subject.run.data()
    before, now = subject.run.state["DigitsDataModule"], data.state_dict()
    if any(before[key] != now[key] for key in ("digest", "split_digest")):
        raise DataError(f"{data.source.name} has changed since {folder} was trained on it")
    test = data.splits["test"]
    if not len(test):
        raise DataError(f"{data.source.name} has no test images")
    tested = score(subject, test.images, test.labels)
    return {
        "test/loss": tested.loss,
        "test/acc": tested.accuracy,
        "test/acc_low": tested.low,
        "test/acc_high": tested.high,
    }

"""find=lr: the suggestion, what is written, and what is refused."""

import re
import shlex
from math import inf, nan

import pytest
from helpers.runs import FAST

from lenet_pl.errors import ConfigError
from lenet_pl.finder import find_lr, suggestion, unbiased

RATES = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
SEARCH = ["find=lr", "find.num_training=150", "data=mini", "trainer.accelerator=cpu"]
KEYS = {"min_lr": 1e-5, "max_lr": 10.0, "num_training": 150, "early_stop_threshold": 4.0}


def test_suggestion_is_a_tenth_of_the_rate_with_the_lowest_loss():
    assert suggestion(RATES, [2.3, 2.2, 1.0, 0.5, 2.5]) == pytest.approx(0.01)
    assert suggestion(RATES, [2.3, 2.2, 1.0, inf, nan]) == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([nan] * 5, "the loss does not fall"),
        ([2.3, 2.25, 2.2, 2.3, 9.0], "the loss does not fall"),
        ([2.3, 2.4, 3.0, 5.0, inf], "the loss does not fall"),
        ([2.3, 2.2, 1.0, 0.5, 0.4], "find.max_lr=1: the loss has not risen again"),
        ([2.3, 2.2, 1.0, 0.5, 0.51], "find.max_lr=1: the loss has not risen again"),
    ],
)
def test_no_suggestion_without_a_clear_minimum(losses, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        suggestion(RATES, losses)


def test_bias_of_the_moving_average_is_corrected():
    losses, mean, biased = [2.0, 1.0, 4.0], 0.0, []
    for step, loss in enumerate(losses, start=1):  # as in Lightning's _LRCallback
        mean = 0.98 * mean + 0.02 * loss
        biased.append(mean / (1 - 0.98 ** (step + 1)))
    assert biased[0] < 1.02
    weights = [0.98**2, 0.98, 1]
    expected = [2.0, 2.96 / 1.98, sum(map(float.__mul__, losses, map(float, weights))) / 2.9404]
    assert unbiased(biased) == pytest.approx(expected)


def test_command_prints_the_override_and_leaves_only_the_figure(command, tmp_path):
    overrides = ["classifier=fast", "optimizer=adam", "optimizer.lr=0.5", "name='b c'"]
    (tmp_path / "empty").mkdir()
    folder = tmp_path / "run"
    runs = [command(*SEARCH, *overrides, f"hydra.run.dir={folder}") for _ in range(2)]
    assert [(run.returncode, run.stderr) for run in runs] == [(0, "")] * 2
    assert runs[0].stdout == runs[1].stdout
    lr, figure, train = (line[16:] for line in runs[0].stdout.splitlines())
    value = float(lr.partition(",")[0])
    assert 0.0003 < value < 0.02
    assert figure == "run/learning_rate.png"
    kept = ["data=mini", "trainer.accelerator=cpu", *(x for x in overrides if ".lr=" not in x)]
    assert shlex.split(train) == ["python", "train.py", *kept, f"optimizer.lr={value:.2g}"]
    assert [path.name for path in folder.rglob("*")] == ["learning_rate.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "run"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["find.min_lr=1", "find.max_lr=0.1"], "find.min_lr=1: must be below find.max_lr"),
        (["find.num_training=9"], "find.num_training=9: must be an integer from 100"),
        (["trainer=debug"], "trainer.fast_dev_run=true: cannot be combined with find=lr"),
        (["-m", "seed=0,1"], "find=lr: cannot be used in a sweep; remove -m or sweep="),
    ],
)
def test_refused_in_one_line(command, tmp_path, overrides, message):
    done = command("find=lr", "data=mini", *overrides)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.strategy=ddp"], "trainer.strategy: must be auto"),
        (["repeat=somewhere"], "repeat=somewhere: cannot be combined"),
        (["trainer.accumulate_grad_batches=4"], "accumulate_grad_batches=4: must be 1"),
    ],
)
def test_runs_that_cannot_be_searched(composed, overrides, message):
    cfg = composed(*FAST, "find=lr", *overrides)
    with pytest.raises(ConfigError, match=message):
        find_lr(cfg, [], **KEYS)

"""Successive halving: train all settings of a grid for a few epochs, and only the best further.

Source: K. Jamieson, A. Talwalkar, "Non-stochastic best arm identification and hyperparameter
optimization", AISTATS 2016, figure 3.

Optuna's pruners and Ray Tune's schedulers decide while trials run: each trial reports every epoch
to a database or a cluster, and which trials are pruned depends on the order in which they run.
Here, a job pauses at a rung, and resumes from its checkpoint if it is promoted. Jobs do not
communicate, so this works with every launcher, and the same command always prunes the same jobs.
"""

from collections import defaultdict
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from lenet_pl.errors import ConfigError
from lenet_pl.files import quoted, write_json
from lenet_pl.records import override_key, read_metrics
from lenet_pl.rules import gain
from lenet_pl.sweeps.results import best_row, ended, readable_result

if TYPE_CHECKING:  # Hydra imports the sweeper before it needs the plan
    from hydra_plugins.lenet_pl_halving import HalvingSweeper
    from lenet_pl.sweeps.plan import Plan


def rung_epochs(eta: int, min_epochs: int, max_epochs: int) -> list[int]:
    """The epochs after which settings are compared: 2 and 6 for the arguments 3, 2 and 20.

    There is no rung above ``max_epochs / eta``: pruning there would save little.
    """
    rungs, epochs = [], min_epochs
    while epochs * eta <= max_epochs:
        rungs.append(epochs)
        epochs *= eta
    return rungs


def halve(sweeper: "HalvingSweeper") -> None:
    """Train the jobs of the plan rung by rung, and mark those that are not promoted as pruned."""
    from lenet_pl.sweeps.hydra_callback import SweepCallback

    assert sweeper.hydra_context is not None
    callbacks = sweeper.hydra_context.callbacks.callbacks
    callback = next((x for x in callbacks if isinstance(x, SweepCallback)), None)
    if callback is None:
        raise ConfigError("hydra/sweeper=halving: requires conf/hydra/hooks/sweep.yaml")
    assert sweeper.launcher is not None
    plan, settings = callback.plan, _settings(callback.plan)
    failed: set[str] = set()
    for epochs in (*plan.rungs, None):
        if not settings or (epochs and len(settings) == 1):
            continue
        promoted = {*chain(*settings)} - failed
        names = [name for name in plan.jobs if name in promoted]
        left = [n for n in names if not ended(readable_result(plan.folder / n), epochs)]
        if left:  # else they got there in an earlier start
            callback.begin(names, epochs)
        jobs, size = [_overrides(plan, n, epochs) for n in left], sweeper.max_batch_size
        for batch in sweeper.split_overrides_to_chunks(jobs, size or len(jobs) or 1):
            sweeper.launcher.launch(batch, 0)
        callback.progress.update()
        failed |= {n for n in left if not ended(readable_result(plan.folder / n), epochs)}
        if epochs:
            settings = _ranked(plan, settings, epochs)[: max(1, len(settings) // sweeper.eta)]
            _prune(plan, except_for=settings)


def _settings(plan: "Plan") -> list[list[str]]:
    """The names of the jobs of each setting, which differ only in the seed."""
    settings = defaultdict(list)
    for name, overrides in plan.jobs.items():
        settings[tuple(x for x in overrides if override_key(x) != "seed")].append(name)
    return list(settings.values())


def _overrides(plan: "Plan", name: str, epochs: int | None) -> list[str]:
    """The overrides of a job that pauses after ``epochs``; it has the same folder at every rung."""
    pause = f"pause_after={'null' if epochs is None else epochs}"
    return [*plan.jobs[name], pause, f"hydra.sweep.subdir={quoted(Path(name))}"]


def _ranked(plan: "Plan", settings: list[list[str]], epochs: int) -> list[list[str]]:
    """Rank the settings by the best epoch up to a rung: mean metric over seeds, then mean loss.

    Settings of which some jobs have failed come last; those of which all have are left out. Epochs
    after the rung are ignored, so that a sweep that is started again makes the same decisions.
    """
    scored = []
    for names in settings:
        left = [n for n in names if ended(readable_result(plan.folder / n), epochs)]
        best = (best_row(read_metrics(plan.folder / n)[:epochs], plan.monitor) for n in left)
        if rows := [row for row in best if row]:
            mean, loss = (fmean(row[key] for row in rows) for key in (plan.monitor, "val/loss"))
            scored.append((len(names) - len(rows), -gain(plan.monitor, mean), loss, names))
    return [names for *_, names in sorted(scored)]


def _prune(plan: "Plan", except_for: list[list[str]]) -> None:
    for name in plan.jobs.keys() - set(chain(*except_for)):
        result = readable_result(plan.folder / name)
        if result.get("status") == "paused":
            write_json(plan.folder / name / "result.json", result | {"status": "pruned"})

"""Successive halving: train all settings of a grid for a few epochs, and only the best further.

Source: K. Jamieson, A. Talwalkar, "Non-stochastic best arm identification and hyperparameter
optimization", AISTATS 2016, figure 3.

A job pauses at a rung, and resumes from its checkpoint if it is promoted. Unlike with Optuna's
pruners or Ray Tune's schedulers, jobs do not communicate: this works with every launcher, and the
same command always prunes the same jobs.
"""

from collections import defaultdict
from itertools import chain
from pathlib import Path

from hydra_plugins.lenet_pl_halving import HalvingSweeper
from lenet_pl.errors import ConfigError
from lenet_pl.files import quoted, write_json
from lenet_pl.records import read_metrics
from lenet_pl.runs import best_row
from lenet_pl.sweeps.hydra_callback import SweepCallback
from lenet_pl.sweeps.plan import Plan
from lenet_pl.sweeps.progress import print_line
from lenet_pl.sweeps.results import ended, job_names, rank, readable_result, setting_key


def halve(sweeper: HalvingSweeper) -> None:
    """Train the jobs of the plan rung by rung, and mark those that are not promoted as pruned."""
    assert sweeper.hydra_context is not None
    assert sweeper.launcher is not None
    callbacks = sweeper.hydra_context.callbacks.callbacks
    callback = next((x for x in callbacks if isinstance(x, SweepCallback)), None)
    if callback is None:
        raise ConfigError("hydra/sweeper=halving: requires conf/hydra/hooks/sweep.yaml")
    plan = callback.plan
    groups = defaultdict(list)
    for name, overrides in plan.jobs.items():
        groups[setting_key(overrides)].append(name)
    settings, failed = list(groups.values()), set[str]()
    for epochs in (*plan.rungs, None):
        if not settings or (epochs and len(settings) == 1):
            continue
        promoted = {*chain(*settings)} - failed
        names = [name for name in plan.jobs if name in promoted]
        left = [name for name in names if not ended(plan.folder / name, epochs)]
        if left:  # else they got there in an earlier start
            these = "all jobs" if len(names) == plan.total else job_names(names)
            print_line(f"training {these} to {f'epoch {epochs}' if epochs else 'the end'}")
            callback.progress.begin(names, epochs)
            pause = f"pause_after={epochs or 'null'}"
            # a job has the same folder at every rung
            jobs = [[*plan.jobs[x], pause, f"hydra.sweep.subdir={quoted(Path(x))}"] for x in left]
            for batch in sweeper.split_overrides_to_chunks(jobs, sweeper.max_batch_size):
                sweeper.launcher.launch(batch, 0)
        callback.progress.update()
        failed |= {name for name in left if not ended(plan.folder / name, epochs)}
        if epochs:
            settings = _ranked(plan, settings, epochs)[: max(1, len(settings) // sweeper.eta)]
            _prune(plan, except_for=settings)


def _ranked(plan: Plan, settings: list[list[str]], epochs: int) -> list[list[str]]:
    """Rank the settings by the best epoch up to a rung: mean metric over seeds, then mean loss.

    Settings of which some jobs have failed come last; those of which all have are left out. Epochs
    after the rung are ignored, so that a sweep that is started again makes the same decisions.
    """
    scored = []
    for names in settings:
        there = [plan.folder / name for name in names if ended(plan.folder / name, epochs)]
        best = (best_row(read_metrics(folder)[:epochs], plan.monitor) for folder in there)
        if rows := [row for row in best if row]:
            scored.append((len(names) - len(rows), rank(plan.monitor, rows), names))
    return [names for *_, names in sorted(scored)]


def _prune(plan: Plan, except_for: list[list[str]]) -> None:
    for name in plan.jobs.keys() - set(chain(*except_for)):
        result = readable_result(plan.folder / name)
        if result.get("status") == "paused":
            write_json(plan.folder / name / "result.json", result | {"status": "pruned"})

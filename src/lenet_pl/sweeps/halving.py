"""Successive halving: train all settings of a grid for a few epochs, and only the best further.

Source: K. Jamieson, A. Talwalkar, "Non-stochastic best arm identification and hyperparameter
optimization", AISTATS 2016, figure 3.

Optuna's pruners and Ray Tune's schedulers need a database or a cluster, and prune depending on the
order in which trials run. Here, a job pauses at a rung, and resumes from its checkpoint if it is
promoted. Jobs do not communicate, so this works with every launcher, and the same command always
prunes the same jobs.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from lenet_pl.errors import ConfigError
from lenet_pl.files import quoted, write_json
from lenet_pl.records import read_metrics
from lenet_pl.rules import COUNT, METRIC, Checks, Rule, integer, invalid, one_of, optional
from lenet_pl.runs import best_row
from lenet_pl.sweeps.results import ended, job_names, rank, readable_result, setting_key

# keys that determine the rungs, and the images and metric that settings are ranked by
COMPARABLE = (
    *("trainer.max_epochs", "trainer.min_epochs", "trainer.fast_dev_run"),
    *("data.source", "data.root", "data.split", "data.val_size", "data.split_seed"),
    "trainer.limit_val_batches",
)

if TYPE_CHECKING:  # Hydra imports the sweeper before it needs the plan
    from hydra_plugins.lenet_pl_halving import HalvingSweeper
    from lenet_pl.sweeps.plan import Plan


def rung_epochs(eta: int, min_epochs: int, max_epochs: int) -> tuple[int, ...]:
    """The epochs after which settings are compared: 2 and 6 for the arguments 3, 2 and 20.

    There is no rung above ``max_epochs / eta``: pruning there would save little.
    """
    if min_epochs * eta > max_epochs:
        return ()
    return min_epochs, *rung_epochs(eta, min_epochs * eta, max_epochs)


def check_halving(sweeper: DictConfig, configs: Sequence[DictConfig]) -> tuple[int, ...]:
    """Check that the jobs can be compared at the rungs and resumed after them; return the rungs."""
    for key in COMPARABLE:
        if len({str(OmegaConf.select(cfg, key)) for cfg in configs}) > 1:
            raise ConfigError(f"{key}: must be the same in all jobs of hydra/sweeper=halving")
    if reason := invalid(_checks(sweeper, configs[0])):
        raise ConfigError(f"{reason} for hydra/sweeper=halving")
    return rung_epochs(sweeper.eta, sweeper.min_epochs, configs[0].trainer.max_epochs)


def _checks(sweeper: DictConfig, cfg: DictConfig) -> Checks:
    yield "hydra.sweeper.eta", sweeper.eta, integer(2)
    yield "hydra.sweeper.min_epochs", sweeper.min_epochs, COUNT
    yield "hydra.sweeper.max_batch_size", sweeper.max_batch_size, optional(COUNT)
    first = sweeper.min_epochs
    rules: dict[str, Rule] = {
        "trainer.fast_dev_run": one_of(False),
        "trainer.max_epochs": integer(sweeper.eta * first),
        "trainer.min_epochs": optional(integer(0, first)),  # else it could not pause
        "callbacks.checkpoint.monitor": METRIC,  # else there is no best epoch
    }
    for key, rule in rules.items():
        yield key, OmegaConf.select(cfg, key), rule


def halve(sweeper: "HalvingSweeper") -> None:
    """Train the jobs of the plan rung by rung, and mark those that are not promoted as pruned."""
    from lenet_pl.sweeps.hydra_callback import SweepCallback
    from lenet_pl.sweeps.progress import print_line

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
            jobs = [_overrides(plan, name, epochs) for name in left]
            size = sweeper.max_batch_size or len(jobs)
            for batch in sweeper.split_overrides_to_chunks(jobs, size):
                sweeper.launcher.launch(batch, 0)
        callback.progress.update()
        failed |= {name for name in left if not ended(plan.folder / name, epochs)}
        if epochs:
            settings = _ranked(plan, settings, epochs)[: max(1, len(settings) // sweeper.eta)]
            _prune(plan, except_for=settings)


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
        there = [plan.folder / name for name in names if ended(plan.folder / name, epochs)]
        best = (best_row(read_metrics(folder)[:epochs], plan.monitor) for folder in there)
        if rows := [row for row in best if row]:
            scored.append((len(names) - len(rows), rank(plan.monitor, rows), names))
    return [names for *_, names in sorted(scored)]


def _prune(plan: "Plan", except_for: list[list[str]]) -> None:
    for name in plan.jobs.keys() - set(chain(*except_for)):
        result = readable_result(plan.folder / name)
        if result.get("status") == "paused":
            write_json(plan.folder / name / "result.json", result | {"status": "pruned"})

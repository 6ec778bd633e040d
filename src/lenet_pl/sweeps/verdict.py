"""The verdict on a sweep: what its results show, and what to run next."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from statistics import fmean
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from lenet_pl.config import check_values
from lenet_pl.errors import ConfigError
from lenet_pl.records import (
    checking,
    override_key,
    read_config,
    read_metrics,
    read_result,
    read_val_predictions,
)
from lenet_pl.rules import gain
from lenet_pl.sweeps.results import (
    Job,
    SeedGroup,
    SweepResults,
    best_row,
    is_number,
    job_names,
    override_values,
    parameter_overrides,
    readable,
    setting_values,
    short_names,
    typed,
)

if TYPE_CHECKING:
    import numpy as np

LEVEL = 0.05  # significance level
SEEDS = ("0", "1", "2", "3", "4")  # of the next sweep if settings are undecided
OTHER_IMAGES = "validated on different images"


@dataclass(frozen=True)
class Verdict:
    """What the results of a sweep show."""

    sentences: list[str]
    p_values: list[float | None]  # of each other setting against the winner, best first
    next_sweep: list[str]  # overrides; empty if there is nothing to suggest


def judge(sweep: SweepResults) -> Verdict | None:
    """Compare the finished jobs; None if there is no winner."""
    if not sweep.winner:
        return None
    own = {job.name: read_outcomes(job) for job in sweep.winner.jobs}
    results = [_compare(sweep, own, group) for group in sweep.groups[1:]]
    p_values = [None if isinstance(result, str) else result for result in results]
    others = zip(sweep.groups[1:], p_values, strict=True)
    undecided = [group for group, p in others if p is not None and p >= LEVEL]
    beyond, edge_sentences = _edges(sweep)
    pruned = next((job for job in sweep.jobs if job.status == "pruned"), None)  # the last one
    if pruned and not undecided and not sweep.has_seeds:
        undecided = [SeedGroup((pruned,))]  # it has not trained to its end
    sentences = [
        *_lead(sweep, own, results),
        *_significance(sweep, p_values),
        *_not_compared(sweep, results),
        *(_pruned(sweep, own, pruned) if pruned else ()),
        *edge_sentences,
        *_divergence(sweep),
        *_devices(sweep),
    ]
    return Verdict(sentences, p_values, _next_sweep(sweep, beyond, undecided))


# comparisons

Outcomes = Mapping[str, "np.ndarray | None"]  # by job


def read_outcomes(job: Job) -> "np.ndarray | None":
    """Read which validation images a job classifies correctly.

    Returns int64 ``[3, N]``, sorted by index: index, label, and 1 for a correct prediction. None
    if ``val_predictions.npz`` is missing, damaged or does not match the validation accuracy.
    """
    import numpy as np

    with suppress(ConfigError):
        if arrays := read_val_predictions(job.folder):
            correct = arrays["prediction"] == arrays["label"]
            if abs(correct.mean() - job.metrics["val/acc"]) * len(correct) <= 0.5:
                rows = np.stack([arrays["index"], arrays["label"], correct])
                return rows[:, arrays["index"].argsort()]
    return None


def _compare(sweep: SweepResults, own: Outcomes, group: SeedGroup) -> float | str:
    """The p-value of a setting against the winner, or the reason why there is none.

    With several seeds, from a paired t-test of the monitored metric for the common seeds; otherwise
    from McNemar's test on the predictions of the two jobs, which compares accuracies only.
    """
    import numpy as np
    from torch import from_numpy

    from lenet_pl.metrics import mcnemar, paired_t_test  # imports torch

    winner = sweep.groups[0]
    pairs = [(winner.jobs[0], group.jobs[0])]
    if sweep.has_seeds:
        first, second = ({job.values.get("seed"): job for job in g.jobs} for g in (winner, group))
        pairs = [(first[seed], second[seed]) for seed in first if seed in second]
    outcomes = [(own[job.name], read_outcomes(other)) for job, other in pairs]
    known = [(a, b) for a, b in outcomes if a is not None and b is not None]
    if not all(np.array_equal(a[:2], b[:2]) for a, b in known):
        return OTHER_IMAGES
    if sweep.has_seeds:
        if len(pairs) < 2:
            return "fewer than two seeds in common"
        ours, theirs = (
            [gain(sweep.monitor, job.metrics[sweep.monitor]) for job in jobs]
            for jobs in zip(*pairs, strict=True)
        )
        if fmean(ours) < fmean(theirs):
            return "better than the winner for the seeds in common"
        p_value = paired_t_test(ours, theirs)
        return "the same difference for every seed" if p_value is None else p_value
    if sweep.monitor != "val/acc":
        return f"McNemar's test compares accuracies, not {sweep.monitor}"
    if not known:
        missing = winner if own[winner.jobs[0].name] is None else group
        return f"job {missing.names[0]} has no valid val_predictions.npz"
    [(a, b)] = known
    return mcnemar(from_numpy(a[2] == 1), from_numpy(b[2] == 1))


def _lead(sweep: SweepResults, own: Outcomes, results: Sequence[float | str]) -> Iterator[str]:
    if not results or results[0] == OTHER_IMAGES:
        return
    winner, second, *_ = sweep.groups
    lead, first = abs(winner.mean() - second.mean()), own[winner.jobs[0].name]
    accuracy = sweep.monitor == "val/acc"
    name = f"{job_names(second.names)} ({setting_values(sweep, second)})"
    if lead < 1e-12:
        yield f"The winner is as {'accurate' if accuracy else 'good'} as {name}."
    elif not accuracy:
        yield f"The winner leads {name} by {lead:.4f} in {sweep.monitor}."
    elif first is None or isinstance(results[0], str):
        yield f"The winner leads {name} by {100 * lead:.2f} percentage points."
    else:
        images = first.shape[1]
        count = f"{lead * images:,.{int(sweep.has_seeds)}f} of {images:,} validation images"
        yield f"The winner leads {name} by {count}{' on average' if sweep.has_seeds else ''}."


def _significance(sweep: SweepResults, p_values: Sequence[float | None]) -> Iterator[str]:
    test, seeds = "exact McNemar test", ", one seed each"
    if sweep.has_seeds:
        test, seeds = "paired t-test", ""
    others = zip(sweep.groups[1:], p_values, strict=True)
    undecided = [
        name for group, p in others if p is not None and p >= LEVEL for name in group.names
    ]
    if undecided:
        jobs = job_names(undecided)
        yield f"Not significantly worse than the winner ({test}, p >= {LEVEL}{seeds}): {jobs}."
    elif p_values and None not in p_values:
        yield f"All other settings are significantly worse ({test}, p < {LEVEL}{seeds})."


def _not_compared(sweep: SweepResults, results: Sequence[float | str]) -> Iterator[str]:
    reasons: dict[str, list[str]] = defaultdict(list)
    for group, reason in zip(sweep.groups[1:], results, strict=True):
        if isinstance(reason, str):
            reasons[reason] += group.names
    for reason, names in reasons.items():
        yield f"No significance test: {job_names(names)} ({reason})."


def _pruned(sweep: SweepResults, own: Outcomes, last: Job) -> Iterator[str]:
    """Say how close the last decision was that pruned a job."""
    count = sweep.counts["pruned"]
    yield f"{count} job{'s were' if count > 1 else ' was'} pruned, and not compared."
    winner = sweep.groups[0].jobs[0]
    rows, outcomes = read_metrics(winner.folder)[: last.epochs], own[winner.name]
    row = best_row(rows, "val/acc") if sweep.monitor == "val/acc" else {}
    if row and outcomes is not None and not sweep.has_seeds:
        behind = (row["val/acc"] - last.metrics["val/acc"]) * outcomes.shape[1]
        name = f"job {last.name} ({setting_values(sweep, SeedGroup((last,)))})"
        close = f"{behind:.0f} images behind at epoch {last.epochs}"
        yield f"The last to be pruned was {name}, {close}."


# other findings


def _divergence(sweep: SweepResults) -> Iterator[str]:
    """Name the jobs whose last validation accuracy is less than half of their best."""
    names = []
    for job in sweep.jobs:
        accuracies = [row["val/acc"] for row in read_metrics(job.folder) if "val/acc" in row]
        if accuracies and accuracies[-1] < max(accuracies) / 2:
            names.append(job.name)
    if names:
        yield f"Diverged (last accuracy less than half of the best): {job_names(names)}."


def _devices(sweep: SweepResults) -> Iterator[str]:
    devices: dict[str, list[str]] = defaultdict(list)
    for job in sweep.jobs:
        if job.scored and (device := read_result(job.folder).get("device")):
            devices[device].append(job.name)
    if len(devices) > 1:
        parts = "; ".join(f"{device}: {job_names(names)}" for device, names in devices.items())
        yield f"Trained on several devices, so the last digits may differ ({parts})."
    elif devices:
        yield f"Trained on {next(iter(devices))}."


def _edges(sweep: SweepResults) -> tuple[dict[str, list[str]], list[str]]:
    """If the winner lies at an edge: values on both sides of it, by key, and sentences."""
    winner, names = sweep.groups[0], short_names(sweep.varied)
    beyond: dict[str, list[str]] = {}
    sentences = []
    for key, values in numeric_grid(sweep).items():
        value = typed(winner.values[key])
        if value not in (values[0], values[-1]):
            continue
        end = "largest" if value == values[-1] else "smallest"
        name = f"{names[key]} {readable(winner.values[key])}"
        text = f"The winner's {name} is the {end} of {len(values)} values"
        further = next_value(values, up=value == values[-1])
        if further is not None and _valid(winner, key, further):
            # with the neighbour, the winner of the next sweep may lie inside its grid
            neighbour = values[-2] if value == values[-1] else values[1]
            beyond[key] = [f"{x:.15g}" for x in (neighbour, further)]
            text += f"; the next value is {beyond[key][1]}"
        sentences.append(f"{text}.")
    return beyond, sentences


def numeric_grid(sweep: SweepResults) -> dict[str, list[float]]:
    """The values of each numeric parameter, ascending; empty unless the grid is complete."""
    columns = {key: {job.values.get(key) for job in sweep.jobs} for key in sweep.parameters}
    settings = {tuple(job.values.get(key) for key in columns) for job in sweep.jobs}
    if not sweep.complete or len(settings) < prod(map(len, columns.values())):  # or it is a search
        return {}
    grid = {key: {*map(typed, column)} for key, column in columns.items()}
    return {
        key: sorted(values)
        for key, values in grid.items()
        if len(values) > 1 and all(map(is_number, values)) and not key.endswith("seed")
    }


def next_value(values: Sequence[float], up: bool) -> float | None:
    """Extrapolate ascending values one step beyond the last or the first; None if impossible.

    The step keeps the ratio of positive values that span a factor of two or more, and otherwise
    the difference.
    """
    before, last = values[-2:] if up else values[1::-1]
    geometric = 0 < 2 * values[0] <= values[-1]
    value = last / before * last if geometric else last - before + last
    if not is_number(value):
        return None
    if all(isinstance(x, int) for x in values):
        value = max(1, round(value)) if geometric else round(value)
    else:
        value = float(f"{value:.3g}")
    return value if (value > last if up else value < last) else None


def _valid(winner: SeedGroup, key: str, value: float) -> bool:
    """Whether the winner's configuration would be valid with another value."""
    folder = winner.jobs[0].folder
    with suppress(ConfigError), checking(folder):
        if (cfg := read_config(folder)) is not None:
            OmegaConf.update(cfg, "run_dir", str(folder))
            OmegaConf.update(cfg, key, value)
            check_values(cfg, [key.partition(".")[0]])
            return True
    return False


# commands


def _next_sweep(
    sweep: SweepResults, beyond: Mapping[str, list[str]], undecided: Sequence[SeedGroup]
) -> list[str]:
    """The overrides of the next sweep; empty if there is nothing to suggest.

    It extends the grid beyond its edges, or else compares the undecided settings over more seeds.
    """
    winner = sweep.groups[0]
    seeds = sorted({job.values["seed"] for job in winner.jobs if "seed" in job.values}, key=typed)
    more = dict(beyond)
    if not more and undecided and len(seeds) < len(SEEDS):
        seeds = [*SEEDS]
        settings = [override_values(g.jobs[0].overrides) for g in (winner, *undecided)]
        more = {key: [values.get(key, "") for values in settings] for key in sweep.parameters}
    if not sweep.complete or not more or not all(map(all, more.values())):
        return []
    overrides = []
    for item in winner_overrides(sweep):
        name, equals, value = item.partition("=")
        values = dict.fromkeys([value, *more.get(override_key(item), [])])
        if len(seeds) < 2 or override_key(item) != "seed":
            overrides.append(name + equals + ",".join(values))
    return [*overrides, f"seed={','.join(seeds)}"] if len(seeds) > 1 else overrides


def winner_overrides(sweep: SweepResults) -> list[str]:
    """The overrides that train the winner again, with the seed of its best job."""
    assert sweep.winner is not None
    overrides = parameter_overrides(sweep.winner.jobs[0].overrides)
    shared = set.intersection(*(set(job.overrides) for job in sweep.jobs))
    return overrides + sorted(item for item in shared if item.startswith("test="))

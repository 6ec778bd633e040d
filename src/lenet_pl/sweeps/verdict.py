"""The verdict on a sweep: what its results show, and what to run next."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import prod
from typing import NamedTuple

from omegaconf import OmegaConf

from lenet_pl.config import check_values
from lenet_pl.errors import ConfigError
from lenet_pl.naming import readable, typed
from lenet_pl.records import checking, override_key, read_config
from lenet_pl.rules import gain
from lenet_pl.runs import best_row
from lenet_pl.sweeps.results import Job, Setting, Sweep, job_names

LEVEL = 0.05  # significance level
SEEDS = ("0", "1", "2", "3", "4")  # of the next sweep if settings are undecided
OTHER_IMAGES = "validated on different images"


class Verdict(NamedTuple):
    """What the results of a sweep show; empty without a winner."""

    sentences: list[str]
    p_values: list[float | None]  # of the ranked settings, compared with the first
    next_sweep: list[str]  # overrides; empty if there is nothing to suggest


Comparison = tuple[Setting, float | None, str]  # p-value, or the reason why there is none


def judge(sweep: Sweep) -> Verdict:
    """Compare the finished jobs with the winner, and suggest the next sweep.

    It extends the grid beyond the edges at which the winner lies, or else compares the settings
    that are undecided over more seeds.
    """
    if not sweep.winner:
        return Verdict([], [], [])
    compared = [(setting, *_compare(sweep, setting)) for setting in sweep.ranked[1:]]
    undecided = [setting for setting, p, _ in compared if p is not None and p >= LEVEL]
    pruned = [job for job in sweep.jobs if job.status == "pruned"]  # the last to be pruned first
    edges, best = list(_edges(sweep)), sweep.winner.jobs[0]
    sentences = [
        *_comparisons(sweep, compared, undecided),
        *_pruned(sweep, best, pruned),
        *(sentence for sentence, *_ in edges),
        *_findings(sweep),
    ]
    p_values = [None, *(p for _, p, _ in compared)]
    more = {key: values for _, key, values in edges if values}
    seeds = {job.values["seed"] for job in sweep.winner.jobs if "seed" in job.values}
    rivals = [setting.jobs[0] for setting in undecided]
    if not sweep.has_seeds:
        rivals = rivals or pruned[:1]  # it has not trained to its end
    if not more and rivals and len(seeds) < len(SEEDS):
        settings = [job.raw_values for job in (best, *rivals)]
        more = {key: [values.get(key, "") for values in settings] for key in sweep.parameters}
        seeds = {*SEEDS}
    if not sweep.complete or not more or not all(map(all, more.values())):
        return Verdict(sentences, p_values, [])
    if seeds:
        more["seed"] = sorted(seeds, key=typed)
    overrides = {override_key(item): item for item in winner_overrides(sweep)}
    for key, values in more.items():
        name = overrides.get(key, key).partition("=")[0]
        overrides[key] = f"{name}={','.join(dict.fromkeys(values))}"
    return Verdict(sentences, p_values, list(overrides.values()))


def _compare(sweep: Sweep, other: Setting) -> tuple[float | None, str]:
    """Compare a setting with the winner: the p-value, or the reason why there is none.

    With several seeds, by a paired t-test of the monitored metric for the common seeds; otherwise
    by McNemar's test on the predictions of the two jobs, which compares accuracies only.
    """
    from lenet_pl.metrics import mcnemar, paired_t_test  # imports torch

    winner, metric = sweep.ranked[0], sweep.monitor
    pairs = [(winner.jobs[0], other.jobs[0])]
    if sweep.has_seeds:
        first, second = ({job.values.get("seed"): job for job in s.jobs} for s in (winner, other))
        pairs = [(first[seed], second[seed]) for seed in first if seed in second]
    outcomes = [(a.outcomes, b.outcomes) for a, b in pairs]
    known = [(a, b) for a, b in outcomes if a is not None and b is not None]
    if not all(a[:2].equal(b[:2]) for a, b in known):
        return None, OTHER_IMAGES
    if sweep.has_seeds:
        if len(pairs) < 2:
            return None, "fewer than two seeds in common"
        ours, theirs = (
            [gain(metric, job.metrics[metric]) for job in jobs] for jobs in zip(*pairs, strict=True)
        )
        if sum(ours) < sum(theirs):
            return None, "better than the winner for the seeds in common"
        return paired_t_test(ours, theirs), "the same difference for every seed"
    if metric != "val/acc":
        return None, f"McNemar's test compares accuracies, not {metric}"
    if not known:
        return None, "val_predictions.npz is missing or damaged"
    [(a, b)] = known
    return mcnemar(a[2] == 1, b[2] == 1), ""


def _comparisons(
    sweep: Sweep, compared: Sequence[Comparison], undecided: Sequence[Setting]
) -> Iterator[str]:
    """Say by how much the winner leads, and which settings are not significantly worse."""
    reasons: dict[str, list[str]] = defaultdict(list)  # jobs by the reason why they were not tested
    for setting, p_value, reason in compared:
        if p_value is None:
            reasons[reason] += setting.names
    if compared and compared[0][2] != OTHER_IMAGES:
        winner, second, metric = sweep.ranked[0], sweep.ranked[1], sweep.monitor
        lead = abs(winner.mean(metric) - second.mean(metric))
        text, outcomes = f"{lead:.4f} in {metric}", winner.jobs[0].outcomes
        if metric == "val/acc" and outcomes is not None and compared[0][1] is not None:
            images = outcomes.shape[1]
            text = f"{lead * images:,.{int(sweep.has_seeds)}f} of {images:,} validation images"
        yield f"The winner leads {job_names(second.names)} ({sweep.describe(second)}) by {text}."
    test, seeds = "exact McNemar test", ", one seed each"
    if sweep.has_seeds:
        test, seeds = "paired t-test", ""
    if undecided:
        names = job_names([name for setting in undecided for name in setting.names])
        yield f"Not significantly worse than the winner ({test}, p >= {LEVEL}{seeds}): {names}."
    elif compared and not reasons:
        yield f"All other settings are significantly worse ({test}, p < {LEVEL}{seeds})."
    for reason, jobs in reasons.items():
        yield f"No significance test: {job_names(jobs)} ({reason})."


def _pruned(sweep: Sweep, winner: Job, jobs: Sequence[Job]) -> Iterator[str]:
    """Say how close the last decision was that pruned a job."""
    if not jobs:
        return
    count = f"{len(jobs)} jobs were" if len(jobs) > 1 else "1 job was"
    yield f"{count} pruned and therefore not compared."
    last, row = jobs[0], best_row(winner.rows[: jobs[0].epochs], "val/acc")
    if row and sweep.monitor == "val/acc" and winner.outcomes is not None and not sweep.has_seeds:
        behind = (row["val/acc"] - last.metrics["val/acc"]) * winner.outcomes.shape[1]
        name = f"job {last.name} ({sweep.describe(Setting([last]))})"
        close = f"{behind:.0f} images behind at epoch {last.epochs}"
        yield f"The last to be pruned was {name}, {close}."


def _findings(sweep: Sweep) -> Iterator[str]:
    """Name the jobs that diverged, and the devices."""
    curves = {job.name: [x["val/acc"] for x in job.rows if "val/acc" in x] for job in sweep.jobs}
    if names := [name for name, curve in curves.items() if curve and curve[-1] < max(curve) / 2]:
        yield f"Diverged (last accuracy less than half of the best): {job_names(names)}."
    if devices := sorted({job.device for job in sweep.jobs if job.scored and job.device}):
        note = ", so the last digits may differ" if len(devices) > 1 else ""
        yield f"Trained on {', '.join(devices)}{note}."


def _edges(sweep: Sweep) -> Iterator[tuple[str, str, list[str]]]:
    """For each edge of the grid at which the winner lies: a sentence, the key, and its next values.

    They include the neighbour, so that the winner of the next sweep may lie inside its grid.
    """
    winner = sweep.ranked[0].jobs[0]
    columns = {key: {job.values.get(key, "") for job in sweep.jobs} for key in sweep.parameters}
    if not sweep.complete or len(sweep.settings) < prod(map(len, columns.values())):
        return  # it is a search, or still running
    for key, column in columns.items():
        values = sorted(x for x in set(map(typed, column)) if not isinstance(x, str))
        if len(values) < max(2, len(column)) or key.endswith("seed"):
            continue
        value, more = typed(winner.values[key]), []
        if value in (values[0], values[-1]):
            up = value == values[-1]
            text = f"The winner's {sweep.short[key]} {readable(winner.values[key])} is the "
            text += f"{'largest' if up else 'smallest'} of {len(values)} values"
            further = next_value(values, up)
            if further is not None and _valid(winner, key, further):
                neighbour = values[-2 if up else 1]
                more = [winner.raw_values[key], f"{neighbour:.15g}", f"{further:.15g}"]
                text += f"; the next value is {more[-1]}"
            yield f"{text}.", key, more


def next_value(values: Sequence[float], up: bool) -> float | None:
    """Extrapolate ascending values one step beyond the last or the first; None if impossible.

    The step keeps the ratio of positive values spanning a factor of two or more, or the difference.
    """
    before, last = values[-2:] if up else values[1::-1]
    geometric = 0 < 2 * values[0] <= values[-1]
    value = last / before * last if geometric else last - before + last
    whole = all(isinstance(x, int) for x in values)
    value = round(value) if whole else float(f"{value:.3g}")
    return value if (value > last if up else value < last) else None


def _valid(job: Job, key: str, value: float) -> bool:
    """Whether a job's configuration would be valid with another value."""
    with suppress(ConfigError), checking(job.folder):
        if cfg := read_config(job.folder):
            OmegaConf.update(cfg, "run_dir", str(job.folder))
            OmegaConf.update(cfg, key, value)
            check_values(cfg, [key.partition(".")[0]])
            return True
    return False


def winner_overrides(sweep: Sweep) -> list[str]:
    """The overrides that train the winner again, with the seed of its best job."""
    shared = set.intersection(*(set(job.overrides) for job in sweep.jobs))
    tests = sorted(item for item in shared if item.startswith("test="))
    return sweep.ranked[0].jobs[0].parameters + tests

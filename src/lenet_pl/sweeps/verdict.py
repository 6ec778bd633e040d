"""The verdict on a sweep: what its figures show, and what to run next."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from math import prod, sqrt
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import OmegaConf

from lenet_pl.config import check_values
from lenet_pl.console import percent
from lenet_pl.errors import ConfigError
from lenet_pl.records import (
    checking,
    override_key,
    read_config,
    read_metrics,
    read_result,
    read_val_predictions,
)
from lenet_pl.sweeps.results import (
    Job,
    SeedGroup,
    SweepResults,
    parameter_overrides,
    readable,
    short_names,
    typed,
)

if TYPE_CHECKING:
    import numpy as np

LEVEL = 0.05  # of the tests
SEEDS = ("0", "1", "2", "3", "4")  # to compare settings over
LISTED = 10  # jobs or settings in a sentence
OTHER_IMAGES = "validated on different images"


class Outcomes(NamedTuple):
    """Which validation images a job classifies correctly."""

    images: "np.ndarray"  # int64 [2, N], index and label, by index
    correct: "np.ndarray"  # bool [N]


@dataclass(frozen=True)
class Comparison:
    """A setting compared with the winner."""

    group: SeedGroup
    p_value: float | None
    reason: str = ""  # why there is no p-value


@dataclass(frozen=True)
class Verdict:
    """What the figures of a sweep show."""

    sentences: tuple[str, ...]
    images: int | None  # validation images, if known
    lead: float | None  # in accuracy over the second setting; None on different images
    test: str
    comparisons: tuple[Comparison, ...]  # with the other settings, best first
    edges: Mapping[str, float | None]  # by key, the next value beyond the grid if one is valid
    diverged: tuple[str, ...]  # names of jobs
    devices: Mapping[str, Sequence[str]]  # the finished jobs trained on each
    next_sweep: tuple[str, ...]  # overrides; empty if there is nothing to suggest

    @property
    def undecided(self) -> list[SeedGroup]:
        """The settings that cannot be told apart from the winner."""
        return [c.group for c in self.comparisons if c.p_value is not None and c.p_value >= LEVEL]

    @property
    def decided(self) -> bool:
        """Whether all other settings are worse."""
        return all(c.p_value is not None and c.p_value < LEVEL for c in self.comparisons)


@lru_cache(maxsize=1)  # for the files and the console
def judge(sweep: SweepResults) -> Verdict | None:
    """Compare the finished jobs; None if none was validated."""
    if not (winner := sweep.winner):
        return None
    own = {job.name: read_outcomes(job) for job in winner.jobs}
    compare = _t_test if sweep.has_seeds else _mcnemar
    comparisons = tuple(compare(winner, own, group) for group in sweep.groups[1:])
    lead = None
    if comparisons and comparisons[0].reason != OTHER_IMAGES:
        lead = winner.mean() - comparisons[0].group.mean()
    first = own[winner.jobs[0].name]
    diverged = {job.name: text for job in sweep.jobs if (text := _divergence(job))}
    grid = numeric_grid(sweep) if sweep.complete else {}
    verdict = Verdict(
        sentences=(),
        images=None if isinstance(first, str) else len(first.correct),
        lead=lead,
        test="paired t-test" if sweep.has_seeds else "exact McNemar test",
        comparisons=comparisons,
        edges=_edges(winner, grid),
        diverged=tuple(diverged),
        devices=_devices(sweep),
        next_sweep=(),
    )
    sentences = [_first_place(sweep, verdict), *_differences(sweep, verdict)]
    sentences += [*_at_edges(sweep, verdict, grid), *diverged.values(), *_trained_on(verdict)]
    return replace(
        verdict, sentences=tuple(sentences), next_sweep=_next_sweep(sweep, verdict, grid)
    )


# comparisons

Read = Outcomes | str  # or why they could not be read


def read_outcomes(job: Job) -> Read:
    """Read the predictions of a finished job."""
    try:
        arrays = read_val_predictions(job.folder)
    except ConfigError as error:
        return str(error)
    if arrays is None:
        return f"job {job.name} has no val_predictions.npz"
    import numpy as np

    order = arrays["index"].argsort()
    images = np.stack([arrays["index"], arrays["label"]])[:, order]
    correct = (arrays["prediction"] == arrays["label"])[order]
    if abs(correct.mean() - job.metrics["val/acc"]) * len(correct) > 0.5:
        return f"job {job.name}: val_predictions.npz does not match result.json"
    return Outcomes(images, correct)


def _mcnemar(winner: SeedGroup, own: Mapping[str, Read], group: SeedGroup) -> Comparison:
    """Compare two jobs by their predictions for the same images."""
    from torch import from_numpy

    from lenet_pl.metrics import mcnemar  # imports torch

    first, second = own[winner.jobs[0].name], read_outcomes(group.jobs[0])
    if isinstance(first, str):
        return Comparison(group, None, first)
    if isinstance(second, str):
        return Comparison(group, None, second)
    if _different(first, second):
        return Comparison(group, None, OTHER_IMAGES)
    return Comparison(group, mcnemar(from_numpy(first.correct), from_numpy(second.correct)))


def _t_test(winner: SeedGroup, own: Mapping[str, Read], group: SeedGroup) -> Comparison:
    """Compare two settings by the validation accuracies of the seeds that they share."""
    from lenet_pl.metrics import paired_t_test  # imports torch

    ours, theirs = ({job.values.get("seed"): job for job in g.jobs} for g in (winner, group))
    pairs = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
    if any(_different(own[a.name], read_outcomes(b)) for a, b in pairs):
        return Comparison(group, None, OTHER_IMAGES)
    if len(pairs) < 2:
        return Comparison(group, None, "fewer than two seeds in common")
    scores = [[job.metrics["val/acc"] for job in column] for column in zip(*pairs, strict=True)]
    p_value = paired_t_test(*scores)
    reason = "the same difference for every seed" if p_value is None else ""
    return Comparison(group, p_value, reason)


def _different(first: Read, second: Read) -> bool:
    """Whether two jobs are known to have been validated on different images."""
    import numpy as np

    if isinstance(first, str) or isinstance(second, str):
        return False
    return not np.array_equal(first.images, second.images)


# sentences


def _describe(sweep: SweepResults, group: SeedGroup) -> str:
    """``job 4 (lr 0.01, batch_size 32)``."""
    values = setting_values(sweep, group)
    return _jobs(group.names) + (f" ({values})" if values else "")


def setting_values(sweep: SweepResults, group: SeedGroup) -> str:
    """``lr 0.01, batch_size 32``; of a single job, the seed if nothing else varies."""
    keys = sweep.parameters or (sweep.varied if len(group.jobs) == 1 else ())
    names = short_names(sweep.varied)
    return ", ".join(f"{names[key]} {readable(group.values.get(key, 'default'))}" for key in keys)


def _jobs(names: Sequence[str]) -> str:
    """``job 4``, or ``jobs 4, 5``."""
    return f"job{'s' if len(names) > 1 else ''} {_listed(names, ', ')}"


def _listed(texts: Sequence[str], separator: str) -> str:
    more = f" and {len(texts) - LISTED} more" if len(texts) > LISTED else ""
    return separator.join(texts[:LISTED]) + more


def _first_place(sweep: SweepResults, verdict: Verdict) -> str:
    winner, images, lead = sweep.groups[0], verdict.images, verdict.lead
    mean = f"mean of {len(winner.jobs)} seeds " if len(winner.jobs) > 1 else ""
    text = f"{_describe(sweep, winner)}: {mean}{percent(winner.mean())}"
    text += f" of {images:,} validation images" if images else ""
    if lead is None:
        return f"{text}."
    second = _describe(sweep, sweep.groups[1])
    if lead < 1e-12:
        return f"{text}, the same as {second}."
    difference = f"{100 * lead:.2f} points"
    if images and not verdict.comparisons[0].reason:
        difference = f"{lead * images:,.{1 if sweep.has_seeds else 0}f}"
    return f"{text}, {difference} more than {second}."


def _differences(sweep: SweepResults, verdict: Verdict) -> Iterator[str]:
    comparisons, test = verdict.comparisons, verdict.test
    if groups := verdict.undecided:
        settings = _jobs([group.names[0] for group in groups])
        if sweep.has_seeds:
            settings = _listed([setting_values(sweep, group) for group in groups], "; ")
        yield f"Cannot be told apart from it ({test}, p >= {LEVEL}): {settings}."
    elif comparisons and verdict.decided:
        yield f"Every other setting is worse ({test}, p < {LEVEL})."
    if comparisons and not sweep.has_seeds:
        yield "One seed each: another seed may reorder them."
    reasons: dict[str, list[str]] = defaultdict(list)
    for comparison in comparisons:
        if comparison.p_value is None:
            reasons[comparison.reason] += comparison.group.names
    for reason, jobs in reasons.items():
        yield f"Not tested: {_jobs(jobs)} ({reason})."
    if stopped := [job.name for job in sweep.jobs if job.status in ("paused", "pruned")]:
        yield f"Not compared: {_jobs(stopped)} (stopped early)."


def _divergence(job: Job) -> str:
    """A sentence on a job whose last validation accuracy is less than half of its best."""
    rows = [row for row in read_metrics(job.folder) if "val/acc" in row]
    best = max(rows, key=lambda row: row["val/acc"], default={})
    if not rows or rows[-1]["val/acc"] >= best["val/acc"] / 2:
        return ""
    before, after = (f"{percent(r['val/acc'])} in epoch {r['epoch']:.0f}" for r in (best, rows[-1]))
    return f"Job {job.name} diverged: validation accuracy {before}, {after}."


def _devices(sweep: SweepResults) -> dict[str, list[str]]:
    devices: dict[str, list[str]] = defaultdict(list)
    for job in sorted(sweep.jobs, key=lambda job: (len(job.name), job.name)):
        if job.scored and (device := read_result(job.folder).get("device")):
            devices[device].append(job.name)
    return devices


def _trained_on(verdict: Verdict) -> Iterator[str]:
    if len(verdict.devices) == 1:
        yield f"Trained on {next(iter(verdict.devices))}."
    elif verdict.devices:
        parts = "; ".join(f"{device}: {_jobs(jobs)}" for device, jobs in verdict.devices.items())
        yield f"Not strictly comparable: the last digits depend on the device ({parts})."


def _at_edges(
    sweep: SweepResults, verdict: Verdict, grid: Mapping[str, Sequence[float]]
) -> Iterator[str]:
    names, winner = short_names(sweep.varied), sweep.groups[0].values
    for key, beyond in verdict.edges.items():
        end = "largest" if typed(winner[key]) == grid[key][-1] else "smallest"
        text = f"{names[key]} {readable(winner[key])} is the {end} of {len(grid[key])} values"
        yield f"{text}." if beyond is None else f"{text}; the next is {_text(beyond)}."


# the next sweep


def numeric_grid(sweep: SweepResults) -> dict[str, list[float]]:
    """The values of each numeric parameter, ascending; empty if the sweep is not a grid."""
    keys = sweep.parameters
    settings = {tuple(job.values.get(key) for key in keys) for job in sweep.jobs}
    columns = [{*column} for column in zip(*settings, strict=True)]
    if len(settings) < prod(map(len, columns)):  # a search samples its values
        return {}
    grid = {key: {*map(typed, column)} for key, column in zip(keys, columns, strict=True)}
    numeric = {key: values for key, values in grid.items() if all(map(_is_number, values))}
    return {
        key: sorted(values)
        for key, values in numeric.items()
        if len(values) > 1 and not key.endswith("seed")
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e300  # nor NaN


def _edges(winner: SeedGroup, grid: Mapping[str, Sequence[float]]) -> dict[str, float | None]:
    edges: dict[str, float | None] = {}
    for key, values in grid.items():
        if (value := typed(winner.values[key])) in (values[0], values[-1]):
            beyond = next_value(values, up=value == values[-1])
            valid = beyond is not None and _valid(winner, key, beyond)
            edges[key] = beyond if valid else None
    return edges


def next_value(values: Sequence[float], up: bool) -> float | None:
    """Continue ascending values beyond the last, or the first; None if that is impossible.

    Continues the ratio of values that are spaced geometrically, the difference of others.
    """
    before, last = values[-2:] if up else values[1::-1]
    value = last / before * last if _geometric(values) else last - before + last
    if not _is_number(value):
        return None
    value = _rounded(value, values)
    return value if (value > last if up else value < last) else None


def _geometric(values: Sequence[float]) -> bool:
    if values[0] <= 0 or values[-1] < 2 * values[0]:
        return False
    ratios = [b / a for a, b in pairwise(values)]
    differences = [b - a for a, b in pairwise(values)]
    return bool(max(ratios) / min(ratios) <= max(differences) / min(differences))


def _rounded(value: float, values: Sequence[float]) -> float:
    """A whole number where the values are, at least 1 where they are, else with three digits."""
    if all(isinstance(x, int) for x in values):
        return max(1, round(value)) if min(values) >= 1 else round(value)
    return float(f"{value:.3g}")


def _text(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def _finer(values: Sequence[float], value: float) -> list[float]:
    """A value, and those halfway to its neighbours, ascending."""
    i, geometric = values.index(value), _geometric(values)
    middles = [sqrt(a) * sqrt(b) if geometric else a / 2 + b / 2 for a, b in pairwise(values)]
    rounded = {_rounded(middle, values) for middle in middles[max(0, i - 1) : i + 1]}
    return sorted({value, *(rounded - {*values})})


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


def _next_sweep(
    sweep: SweepResults, verdict: Verdict, grid: Mapping[str, Sequence[float]]
) -> tuple[str, ...]:
    """The overrides of the sweep to run next; empty if there is nothing to suggest."""
    winner, beyond = sweep.groups[0], {k: v for k, v in verdict.edges.items() if v is not None}
    raw = _raw_values(winner.jobs[0])
    seeds = [seed for job in winner.jobs if (seed := _raw_values(job).get("seed"))]
    values: dict[str, list[str]] = {}
    if not sweep.complete:
        return ()
    if beyond:
        values = {key: [raw[key], _text(value)] for key, value in beyond.items()}
    elif verdict.undecided and len(seeds) < len(SEEDS):
        settings = [_raw_values(group.jobs[0]) for group in (winner, *verdict.undecided)]
        if not all(key in setting for key in sweep.parameters for setting in settings):
            return ()
        for key in sweep.parameters:
            values[key] = list(dict.fromkeys(setting[key] for setting in settings))
        seeds = [*SEEDS]
    elif verdict.decided:
        for key, column in grid.items():
            finer = _finer(column, typed(winner.values[key]))
            if len(finer) > 1 and all(_valid(winner, key, value) for value in finer):
                values[key] = [raw[key] if v in column else _text(v) for v in finer]
    if values and len(seeds) > 1:
        values["seed"] = sorted(seeds, key=typed)
    names = {override_key(item): item.partition("=")[0] for item in winner.jobs[0].overrides}
    common = [item for item in winner_overrides(sweep) if override_key(item) not in values]
    swept = [f"{names.get(key, key)}={','.join(column)}" for key, column in values.items()]
    return (*common, *swept) if values else ()


def _raw_values(job: Job) -> dict[str, str]:
    """The values of the parameters as text for Hydra, quoted where they were."""
    pairs = (override.partition("=") for override in parameter_overrides(job.overrides))
    return {override_key(key): value for key, equals, value in pairs if equals}


def winner_overrides(sweep: SweepResults) -> list[str]:
    """The overrides that train the winner again, with the seed of its best job."""
    assert sweep.winner is not None
    overrides = parameter_overrides(sweep.winner.jobs[0].overrides)
    shared = set.intersection(*(set(job.overrides) for job in sweep.jobs))
    return overrides + sorted(item for item in shared if item.startswith("test="))

"""The page that compares runs: which is best, whether significantly, and where they differ."""

import re
from collections.abc import Sequence
from itertools import chain, combinations
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from lenet_pl import metrics, plots
from lenet_pl.config import flatten
from lenet_pl.errors import ConfigError, shorten
from lenet_pl.evaluation.evaluate import RunEvaluation, compute_metrics
from lenet_pl.naming import differences, override_values, parameter_overrides
from lenet_pl.report.page import image_cards, most_errors, write_page
from lenet_pl.rules import show

CORRECT = ("both", "only_best", "only_other", "neither")  # which of two runs are


def write_comparison(evaluations: Sequence[RunEvaluation]) -> dict[str, Any]:
    """Write ``RUN/report/against-OTHERS/index.html``, with its figures as PNG files beside it.

    RUN is the first run. The runs are compared on the test split if all were tested, else on the
    validation split; ConfigError if their images differ. Returns the answer of ``--json``.
    """
    runs, tested = [x.run for x in evaluations], all(x.test for x in evaluations)
    shown = [x.shown if tested else x.val for x in evaluations]
    first = shown[0]
    for run, x in zip(runs, shown, strict=True):
        if not (torch.equal(x.images, first.images) and torch.equal(x.labels, first.labels)):
            raise ConfigError(
                f"{runs[0].folder} and {run.folder}: their {x.meaning} images differ; use the "
                "same data, data.val_size and data.split_seed"
            )
    names, correct = run_names(evaluations), torch.stack([x.correct for x in shown])
    computed = list(map(compute_metrics, runs, shown))
    best = int(correct.sum(1).argmax())
    comparisons = compare(names, correct, best)
    measured = ("accuracy", "low", "high", "loss", "nll", "ece")
    answer: dict[str, Any] = {
        "verdict": verdict(names[best], comparisons),
        "runs": [
            {"name": name, "folder": str(run.folder), **{x: values[x] for x in measured}}
            for name, run, values in zip(names, runs, computed, strict=True)
        ],
        "best": names[best],
        "comparisons": comparisons,
    }
    if len(runs) == 2:
        [pair] = comparisons
        only = (pair["only_best"], pair["only_other"])
        answer |= {"both": pair["both"], "only_first": only[best], "only_second": only[1 - best]}
        answer |= {"neither": pair["neither"], "p": pair["p"]}
    disagreements = []
    for other in (number for number in range(len(runs)) if number != best):
        for right, wrong in ((best, other), (other, best)):
            selected, count = correct[right] & ~correct[wrong], 24 if len(runs) == 2 else 12
            chosen = metrics.by_confidence(shown[wrong].logits, selected, count)
            cards = list(image_cards(shown[wrong], runs[0].classes, chosen))
            disagreements.append((names[right], names[wrong], cards))
    context = {
        "evaluations": evaluations,
        "colours": plots.COLOURS,
        "shown": first,
        "answer": answer,
        "metrics": computed,
        "most_errors": most_errors(*(torch.tensor(values["matrix"]) for values in computed)),
        "settings": config_diff([run.config for run in runs]),
        "disagreements": disagreements,
    }
    curves = {n: (x.rows, x.run.epoch) for n, x in zip(names, evaluations, strict=True)}
    figures = {f"curves-{metric}": plots.curves(curves, metric) for metric in ("loss", "acc")}
    others = ("-".join(run.folder.absolute().parts[-2:]) for run in runs[1:])
    against = re.sub(r"[^\w.-]+", "-", shorten("-".join(["against", *others])))
    folder = runs[0].folder / "report" / against
    return {"path": write_page(folder, "compare.html.j2", figures, context), **answer}


def run_names(evaluations: Sequence[RunEvaluation]) -> list[str]:
    """A unique name for each run: its ``name``, or the overrides that differ between the runs."""
    values = [override_values(parameter_overrides(x.overrides)) for x in evaluations]
    for key in dict.fromkeys(chain.from_iterable(values)):
        for own, evaluation in zip(values, evaluations, strict=True):
            value = evaluation.run.setting(key)  # also of a run without this override
            if value is not None and not OmegaConf.is_config(value):
                own[key] = str(value)
    texts = differences(values)
    names = [
        x.run.result.get("name") or shorten(text, 60) or ("default" if any(texts) else "run")
        for x, text in zip(evaluations, texts, strict=True)
    ]
    return [
        f"{name} #{names[: number + 1].count(name)}" if names.count(name) > 1 else name
        for number, name in enumerate(names)
    ]


def compare(names: Sequence[str], correct: Tensor, best: int) -> list[dict[str, Any]]:
    """Compare a run with each other one, given which images are classified correctly.

    ``correct`` is bool ``[runs, images]``. The p-values are adjusted for all pairs of runs, not
    only those compared here, since the same images determine which run is the best.
    """
    pairs = list(combinations(range(len(names)), 2))
    p_values = [metrics.mcnemar(correct[a], correct[b]) for a, b in pairs]
    comparisons = []
    for pair, p, adjusted in zip(pairs, p_values, metrics.holm(p_values), strict=True):
        if best in pair:
            other = sum(pair) - best
            wrong = 2 * (~correct[best]).long() + (~correct[other]).long()
            counts = dict(zip(CORRECT, wrong.bincount(minlength=4).tolist(), strict=True))
            comparisons.append({"run": names[other], **counts, "p": p, "p_adjusted": adjusted})
    return comparisons


def verdict(best: str, comparisons: Sequence[dict[str, Any]]) -> str:
    """Which run is the most accurate, and whether significantly so, in one sentence."""
    if all(x["only_best"] == x["only_other"] for x in comparisons):
        return f"{'Both' if len(comparisons) == 1 else 'All'} runs are equally accurate."
    texts: dict[bool, list[str]] = {True: [], False: []}  # by significance
    for x in comparisons:
        texts[x["p_adjusted"] < 0.05].append(f"{x['run']} (p = {x['p_adjusted']:.2g})")
    significant, other = " and ".join(texts[True]), " or ".join(texts[False])
    if not significant:
        return f"{best} is not significantly more accurate than {other}."
    rest = f", but not than {other}" if other else ""
    return f"{best} is significantly more accurate than {significant}{rest}."


def config_diff(configs: Sequence[DictConfig]) -> list[tuple[str, list[str]]]:
    """The configuration keys whose values differ, with the value of each run."""
    flat = [flatten(OmegaConf.to_container(config)) for config in configs]
    keys = sorted({*chain.from_iterable(flat)} - {"run_dir", "ckpt_path", "repeat", "name"})
    rows = [(key, [values.get(key) for values in flat]) for key in keys]
    return [(key, [*map(show, values)]) for key, values in rows if len({*map(str, values)}) > 1]

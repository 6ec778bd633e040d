"""The comparison of runs."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from lenet_pl.console import percent
from lenet_pl.errors import ConfigError
from lenet_pl.evaluation.evaluate import RunEvaluation
from lenet_pl.report import compare


@pytest.mark.usefixtures("undrawn")
def test_comparison_counts_agreement_and_shows_what_differs(first, second):
    answer = compare.write_comparison([first, second])
    correct = [(run.val.logits.argmax(1) == run.val.labels).tolist() for run in (first, second)]
    pairs = list(zip(*correct, strict=True))
    assert answer["only_first"] == pairs.count((True, False))
    assert answer["only_second"] == pairs.count((False, True))
    assert answer["both"] == pairs.count((True, True))
    assert sum(answer[key] for key in ("both", "only_first", "only_second", "neither")) == 1000
    # the order of the runs does not matter
    other = compare.write_comparison([second, first])
    assert (other["only_first"], other["only_second"]) == (
        answer["only_second"],
        answer["only_first"],
    )
    assert (other["verdict"], other["best"]) == (answer["verdict"], answer["best"])
    html = Path(answer["path"]).read_text(encoding="utf-8")
    assert "At least one of the runs was not tested" in html  # so validation is compared
    shown = set(re.findall(r"<td><code>([^<]+)</code></td><td>([^<]+)</td><td>([^<]+)</td>", html))
    assert {
        ("seed", "0", "1"),
        ("test", "true", "false"),
        ("trainer.max_epochs", "2", "1"),
    } <= shown
    assert not any(key.startswith(("data.", "optimizer.")) for key, *_ in shown)
    assert answer["verdict"] in html


def with_predictions(run: RunEvaluation, wrong: range, name: str | None = None) -> RunEvaluation:
    """The run with these validation images misclassified, with full confidence, and all others not.

    The prediction is the class after the label.
    """
    predicted = run.val.labels.clone()
    predicted[wrong.start : wrong.stop] += 1
    logits = 50 * torch.nn.functional.one_hot(predicted % 10, 10).float()
    opened = replace(run.run, result={**run.run.result, "name": name})
    return replace(run, run=opened, val=replace(run.val, logits=logits), test=None)


@pytest.mark.usefixtures("undrawn")
def test_three_runs_are_compared_with_the_best(first, copied):
    run = replace(first, run=replace(first.run, folder=copied))
    sets = {"A": range(20), "best": range(10, 20), "C": range(40)}
    answer = compare.write_comparison([with_predictions(run, sets[name], name) for name in sets])
    assert [row["name"] for row in answer["runs"]] == ["A", "best", "C"]
    assert [row["accuracy"] for row in answer["runs"]] == [0.98, 0.99, 0.96]
    assert answer["best"] == "best"
    a, c = answer["comparisons"]
    keys = ("run", "both", "only_best", "only_other", "neither")
    assert [a[key] for key in keys] == ["A", 980, 10, 0, 10]
    assert [c[key] for key in keys] == ["C", 960, 30, 0, 10]
    # of 2 / 2 ** n for n images; the pair A, C has 2 / 2 ** 20
    assert (a["p"], c["p"]) == (2 / 2**10, 2 / 2**30)
    assert (a["p_adjusted"], c["p_adjusted"]) == (2 / 2**10, 3 * 2 / 2**30)
    html = Path(answer["path"]).read_text(encoding="utf-8")
    images = dict(re.findall(r"<h3>(.*?)</h3>(.*?)(?=<h3>|</section>)", html, re.DOTALL))
    titles = [re.sub(r"<[^>]*>", "", title) for title in images]
    assert titles == [
        *("best is correct, A is wrong", "A is correct, best is wrong"),
        *("best is correct, C is wrong", "C is correct, best is wrong"),
    ]
    assert [text.count("<figure>") for text in images.values()] == [10, 0, 12, 0]
    assert html.count("There are none.") == 2
    # one colour scale for all matrices
    cells = re.findall(r'<td style="--shade:([\d.]+)%">(\d+)</td>', html)
    most = max(int(count) for _, count in cells)
    assert {(float(shade), int(n)) for shade, n in cells} == {
        (round(100 * int(n) / most, 1), int(n)) for _, n in cells
    }


def test_runs_are_named_by_what_differs(first, second):
    assert compare.run_names([first, second]) == [
        "max_epochs 2, seed 0",
        "max_epochs 1, seed 1, logger none",
    ]
    assert compare.run_names([first, first]) == ["run #1", "run #2"]
    named = with_predictions(first, range(1), "baseline")
    assert compare.run_names([named, second]) == ["baseline", "max_epochs 1, seed 1, logger none"]
    names = compare.run_names([first, second, first])
    assert names == [
        "max_epochs 2, seed 0 #1",
        "max_epochs 1, seed 1, logger none",
        "max_epochs 2, seed 0 #2",
    ]


def test_runs_on_different_images_are_not_compared(first, second):
    other = replace(second.val, images=second.val.images.flip(0))
    with pytest.raises(ConfigError, match="their validation images differ"):
        compare.write_comparison([first, replace(second, val=other)])


def test_verdict_depends_on_significance():
    def verdict(*others: tuple[str, int, int, float]) -> str:
        keys = ("run", "only_best", "only_other", "p_adjusted")
        rows: list[dict[str, Any]] = [dict(zip(keys, row, strict=True)) for row in others]
        return compare.verdict("A", rows)

    b, c = ("B", 30, 10, 0.002), ("C", 12, 10, 0.83)
    assert verdict(b) == "A is significantly more accurate than B (p = 0.002)."
    assert verdict(c) == "A is not significantly more accurate than C (p = 0.83)."
    assert verdict(b, c) == (
        "A is significantly more accurate than B (p = 0.002), but not than C (p = 0.83)."
    )
    assert verdict(("B", 5, 5, 1.0)) == "Both runs are equally accurate."
    assert verdict(("B", 5, 5, 1.0), ("C", 1, 1, 1.0)) == "All runs are equally accurate."


def measurements(*runs: RunEvaluation) -> dict[str, tuple[str, ...]]:
    """The rows of the first table of the page: name, both values, difference."""
    html = Path(compare.write_comparison(runs)["path"]).read_text(encoding="utf-8")
    rows = re.findall(r"<tr>" + 4 * r"<td>([^<]*)</td>" + "</tr>", html.partition("</table>")[0])
    assert max(Counter(name for name, *_ in rows).values()) == 1
    return {name: tuple(values) for name, *values in rows}


@pytest.mark.usefixtures("undrawn")
def test_differences_are_of_the_rounded_values(first, second):
    def seconds(one: float, two: float) -> tuple[str, ...]:
        runs = [
            replace(run, rows=[{**first.rows[0], "seconds": value}])
            for run, value in ((first, one), (second, two))
        ]
        return measurements(*runs)["training time in s"]

    assert seconds(9.6, 4.4) == ("10", "4", "-6")
    assert seconds(10.4, 9.6) == ("10", "10", "0")


@pytest.mark.usefixtures("undrawn")
def test_measurements_of_both_runs(first, second, copied):
    rows = measurements(first, second)
    values = [run.val.accuracy.value for run in (first, second)]
    assert rows["validation accuracy"][:2] == tuple(map(percent, values))
    one, two = (round(100 * value, 2) for value in values)
    assert rows["validation accuracy"][2] == f"{two - one:+.2f} points"
    assert rows["parameters"] == ("61,706", "61,706", "0")
    assert rows["epochs"] == ("2", "1", "-1")
    rows = measurements(first, replace(first, run=replace(first.run, folder=copied)))
    assert list(rows)[:3] == ["test accuracy", "95 % interval", "validation accuracy"]
    assert rows["test accuracy"][2] == "0 points"


def test_configurations_differ_in_these_keys():
    one, two = map(
        OmegaConf.create,
        (
            {"callbacks": {"stop": {"patience": 5}}, "scheduler": {}, "lr": 0.1, "run_dir": "a"},
            {"callbacks": {"stop": None}, "scheduler": {"t": 1}, "lr": 0.1, "run_dir": "b"},
        ),
    )
    expected = [
        ("callbacks.stop.patience", ["5", "null", "5"]),
        ("scheduler", ["{}", "null", "{}"]),
        ("scheduler.t", ["null", "1", "null"]),
    ]
    assert compare.config_diff([one, two, one]) == expected

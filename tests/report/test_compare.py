"""The comparison of two runs."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lenet_pl.console import percent
from lenet_pl.errors import ConfigError
from lenet_pl.evaluation.evaluate import RunEvaluation
from lenet_pl.report import compare


@pytest.mark.usefixtures("undrawn")
def test_comparison_counts_agreement_and_shows_what_differs(first, second):
    answer = compare.write_comparison(first, second)
    correct = [(run.val.logits.argmax(1) == run.val.labels).tolist() for run in (first, second)]
    pairs = list(zip(*correct, strict=True))
    assert answer["only_first"] == pairs.count((True, False))
    assert answer["only_second"] == pairs.count((False, True))
    assert answer["both"] == pairs.count((True, True))
    assert sum(answer[key] for key in ("both", "only_first", "only_second", "neither")) == 1000
    html = Path(answer["path"]).read_text(encoding="utf-8")
    assert "At least one of the runs was not tested" in html  # so validation is compared
    shown = set(re.findall(r"<td><code>([^<]+)</code></td><td>([^<]+)</td><td>([^<]+)</td>", html))
    assert {
        ("seed", "0", "1"),
        ("test", "True", "False"),
        ("trainer.max_epochs", "2", "1"),
    } <= shown
    assert not any(key.startswith(("data.", "optimizer.")) for key, *_ in shown)
    assert answer["verdict"] in html


def test_runs_on_different_images_are_not_compared(first, second):
    other = replace(second.val, images=second.val.images.flip(0))
    with pytest.raises(ConfigError, match="their validation images are not the same"):
        compare.write_comparison(first, replace(second, val=other))


def test_verdict_depends_on_significance():
    def verdict(only_first: int, only_second: int, p: float) -> str:
        counts = {"only_first": only_first, "only_second": only_second}
        return compare.verdict(counts, p, "A", "B")

    assert verdict(30, 10, 0.002) == "A is significantly more accurate than B (p = 0.002)."
    assert verdict(10, 30, 0.00002) == "B is significantly more accurate than A (p = 2e-05)."
    assert verdict(12, 10, 0.83) == ("A is more accurate than B, but not significantly (p = 0.83).")
    assert verdict(5, 5, 1.0) == "Both runs are equally accurate."


def measurements(*runs: RunEvaluation) -> dict[str, tuple[str, ...]]:
    """The rows of the first table of the page: name, both values, difference."""
    html = Path(compare.write_comparison(*runs)["path"]).read_text(encoding="utf-8")
    rows = re.findall(r"<tr>" + 4 * r"<td>([^<]*)</td>" + "</tr>", html.partition("</table>")[0])
    assert len({name for name, *_ in rows}) == len(rows)
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
    assert (
        compare.config_diff(one, two)
        == [
            ("callbacks.stop", "None", "None"),
            ("callbacks.stop.patience", "5", "None"),
            ("scheduler", "{}", "None"),
            ("scheduler.t", "None", "1"),
        ][1:]
    )

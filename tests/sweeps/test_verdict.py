"""The verdict on sweeps, from synthetic job folders."""

import json
import shlex
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.sweeps import write_job, write_predictions
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from scipy import stats

from lenet_pl.sweeps.commands import Summary
from lenet_pl.sweeps.results import Sweep
from lenet_pl.sweeps.verdict import Verdict, judge, next_value

BAD = range(40)  # images that a bad job misclassifies, of 100


def verdict_on(folder: Path) -> Verdict:
    return judge(Sweep(folder))


def p_values(verdict: Verdict) -> list[float | None]:
    return verdict.p_values[1:]


def next_command(folder: Path) -> str | None:
    return Summary(Sweep(folder)).next_command


def jobs_of(command: str | None) -> list[list[str]]:
    """The jobs that a command starts."""
    assert command is not None
    python, script, multirun, *overrides = shlex.split(command)
    assert (python, script, multirun) == ("python", "train.py", "-m")
    parsed = OverridesParser.create().parse_overrides(overrides)
    return list(BasicSweeper.split_arguments(parsed, None)[0])


@pytest.fixture
def write(tmp_path: Path, composed: Callable[..., Any]) -> Callable[..., Path]:
    """Write a job and its configuration; data set and epochs are its first overrides."""
    config = composed("data=mini")

    def write(name: str, *overrides: str, wrong: Iterable[int] = (), **options: Any) -> Path:
        common = ["data=mini", "trainer.max_epochs=2", *overrides]
        write_job(tmp_path, name, common, wrong=wrong, **options)
        OmegaConf.save(config, tmp_path / name / ".hydra" / "config.yaml")
        return tmp_path

    return write


@pytest.fixture
def write_grid(write: Callable[..., Path]) -> Callable[..., Path]:
    """Write a grid of jobs, in which the one with the values ``best`` wins clearly."""

    def write_grid(grid: dict[str, str], best: str) -> Path:
        columns = [[f"{key}={value}" for value in grid[key].split(",")] for key in grid]
        for number, job in enumerate(product(*columns)):
            won = [item.partition("=")[2] for item in job] == best.split(",")
            folder = write(f"{number}", *job, wrong=[50] if won else BAD)
        return folder

    return write_grid


def test_a_lead_of_three_images_is_not_significant(write):
    write("0", "optimizer.lr=0.01", "data.batch_size=32", wrong=[1, 2, 3, 4])
    folder = write("1", "optimizer.lr=0.1", "data.batch_size=64", wrong=[3])
    verdict = verdict_on(folder)
    assert verdict.sentences == [
        "The winner leads job 0 (lr 0.01, batch_size 32) by 3 of 100 validation images.",
        "Not significantly worse than the winner (exact McNemar test, p >= 0.05, "
        "one seed each): job 0.",
        "Trained on cpu (1 thread).",
    ]
    assert p_values(verdict) == [0.25]  # 2 * (1/2) ** 3
    content = Summary(Sweep(folder)).as_dict()
    assert [setting["p_value"] for setting in content["settings"]] == [None, 0.25]
    assert content["verdict"] == {
        "sentences": verdict.sentences,
        "command": "python train.py -m data=mini trainer.max_epochs=2 optimizer.lr=0.1,0.01 "
        "data.batch_size=64,32 seed=0,1,2,3,4",
    }
    json.dumps(content)
    assert len(jobs_of(content["verdict"]["command"])) == 20
    assert " ".join(verdict.sentences) in Summary(Sweep(folder)).markdown()
    assert content["verdict"]["command"] in Summary(Sweep(folder)).markdown()


def test_equal_jobs_are_not_significantly_different(write):
    write("0", "optimizer.lr=0.01", wrong=[3], loss=0.2)
    verdict = verdict_on(write("1", "optimizer.lr=0.1", wrong=[3]))
    assert p_values(verdict) == [1.0]
    assert verdict.sentences[0] == "The winner leads job 1 (lr 0.1) by 0 of 100 validation images."


def test_a_clear_win_inside_the_grid_needs_no_further_sweep(write_grid):
    grid = {"optimizer.lr": "0.001,0.01,0.1", "data.batch_size": "32,64,128"}
    verdict = verdict_on(write_grid(grid, "0.01,64"))
    assert verdict.sentences[1:] == [
        "All other settings are significantly worse (exact McNemar test, p < 0.05, one seed each).",
        "Trained on cpu (1 thread).",
    ]
    expected = stats.binomtest(1, 41).pvalue  # 40 images against one
    assert p_values(verdict) == [pytest.approx(expected, rel=1e-12)] * 8
    assert verdict.next_sweep == []


@pytest.mark.parametrize(
    ("values", "best", "sentence", "swept"),
    [
        (
            "0.001,0.01,0.1",
            "0.1",
            "The winner's lr 0.1 is the largest of 3 values; the next value is 1.",
            "0.1,0.01,1",
        ),
        (
            "0.001,0.01,0.1",
            "0.001",
            "The winner's lr 0.001 is the smallest of 3 values; the next value is 0.0001.",
            "0.001,0.01,0.0001",
        ),
        (
            "0.1,1e-2",
            "1e-2",
            "The winner's lr 1e-2 is the smallest of 2 values; the next value is 0.001.",
            "1e-2,0.1,0.001",
        ),
    ],
)
def test_the_grid_is_extended_at_its_edge(write_grid, values, best, sentence, swept):
    folder = write_grid({"optimizer.lr": values, "model": "lenet"}, f"{best},lenet")
    assert sentence in verdict_on(folder).sentences
    common = "python train.py -m data=mini trainer.max_epochs=2"
    assert next_command(folder) == f"{common} optimizer.lr={swept} model=lenet"


def test_invalid_values_are_not_proposed(write_grid):
    grid = {"optimizer.momentum": "0.9,0.99", "data.batch_size": "1,2"}
    verdict = verdict_on(write_grid(grid, "0.99,1"))
    assert "The winner's momentum 0.99 is the largest of 2 values." in verdict.sentences
    assert "The winner's batch_size 1 is the smallest of 2 values." in verdict.sentences
    assert verdict.next_sweep == []


def test_without_a_valid_configuration_nothing_is_proposed(write_grid):
    folder = write_grid({"optimizer.lr": "0.01,0.1"}, "0.1")
    sentence = "The winner's lr 0.1 is the largest of 2 values."
    for content in (None, "a: [", "optimizer: 5"):
        file = folder / "1" / ".hydra" / "config.yaml"
        file.unlink(missing_ok=True)
        if content:
            file.write_text(content)
        assert sentence in verdict_on(folder).sentences
        assert next_command(folder) is None


@pytest.mark.parametrize(
    ("values", "up", "expected"),
    [
        ([0.001, 0.01, 0.1], True, 1),
        ([0.001, 0.01, 0.1], False, 0.0001),
        ([0.001, 0.003, 0.01, 0.03], True, 0.09),
        ([32, 64, 128], False, 16),
        ([32, 64, 128], True, 256),
        ([1, 2, 3], True, 4),
        ([1, 2, 3], False, 0),
        ([0, 1, 2], False, -1),
        ([0.9, 0.99], True, 1.08),
        ([1, 2, 4, 8], False, 0),
        ([0.01, 1], False, 0.0001),
        ([10**16, 10**16 + 1], True, 10**16 + 2),
        ([0.8, 0.9, 0.99], False, 0.7),
        ([0, 0.25, 0.5], True, 0.75),
    ],
)
def test_next_value(values, up, expected):
    assert next_value(values, up) == expected
    assert type(next_value(values, up)) in {type(None), *map(type, values)}


def test_a_search_is_not_a_grid(write):
    for number, (lr, size) in enumerate([("0.02", "32"), ("0.03", "48"), ("0.05", "64")]):
        wrong = [1] if number == 2 else BAD
        folder = write(f"{number}", f"optimizer.lr={lr}", f"data.batch_size={size}", wrong=wrong)
    verdict = verdict_on(folder)
    assert not any("values" in sentence for sentence in verdict.sentences)
    assert verdict.next_sweep == []


def test_an_unfinished_sweep_has_no_next_command(write_grid, write):
    write_grid({"optimizer.lr": "0.01,0.1"}, "0.1")
    verdict = verdict_on(write("2", "optimizer.lr=1", status=None))
    assert not any("values" in sentence for sentence in verdict.sentences)
    assert verdict.next_sweep == []
    assert len(p_values(verdict)) == 1


def test_seeds_are_compared_pairwise(write):
    wrong = {"0.01": [11, 14, 18], "0.1": [10, 12, 17], "1": [30, 31, 33]}
    names = iter(range(9))
    for lr, counts in wrong.items():
        for seed, count in enumerate(counts):
            folder = write(
                f"{next(names)}", f"optimizer.lr={lr}", f"seed={seed}", wrong=range(count)
            )
    write("9", "optimizer.lr=2", "seed=0", wrong=range(50))  # one seed
    write("10", "optimizer.lr=3", "seed=0", wrong=range(50))
    write("11", "optimizer.lr=3", "seed=7", wrong=range(50))  # only one in common
    verdict = verdict_on(folder)
    assert verdict.sentences[:3] == [
        "The winner leads jobs 0, 1, 2 (lr 0.01) by 1.3 of 100 validation images.",
        "Not significantly worse than the winner (paired t-test, p >= 0.05): jobs 0, 1, 2.",
        "No significance test: jobs 9, 10, 11 (fewer than two seeds in common).",
    ]
    expected = [stats.ttest_rel(wrong["0.1"], wrong[lr]).pvalue for lr in ("0.01", "1")]
    assert p_values(verdict) == [*(pytest.approx(p, rel=1e-9) for p in expected), None, None]
    assert expected[1] < 0.05 < expected[0]
    assert next_command(folder) == (
        "python train.py -m data=mini trainer.max_epochs=2 optimizer.lr=0.1,0.01 seed=0,1,2,3,4"
    )


def test_a_setting_that_is_better_for_the_common_seeds_is_not_called_worse(write):
    wrong = {"0.1": [100, 90, 95, 10, 10], "1": [70, 59, 65]}  # seeds 3 and 4 are missing
    names = iter(range(8))
    for lr, counts in wrong.items():
        for seed, count in enumerate(counts):
            name = f"{next(names)}"
            folder = write(
                name, f"optimizer.lr={lr}", f"seed={seed}", wrong=range(count), images=1000
            )
    verdict = verdict_on(folder)
    assert p_values(verdict) == [None]
    reason = "(better than the winner for the seeds in common)"
    assert any(sentence.endswith(f"{reason}.") for sentence in verdict.sentences)
    assert not any("significantly worse" in sentence for sentence in verdict.sentences)


def test_a_grid_over_seeds_is_extended_over_the_same_seeds(write):
    for number, (lr, seed) in enumerate(product(["0.01", "0.1"], ["3", "5"])):
        wrong = range(number + 1 + 20 * (lr == "0.01"))
        folder = write(f"{number}", f"++optimizer.lr={lr}", f"seed={seed}", wrong=wrong)
    swept = "++optimizer.lr=0.1,0.01,1 seed=3,5"
    assert next_command(folder) == (f"python train.py -m data=mini trainer.max_epochs=2 {swept}")


def test_values_are_kept_as_typed(write_grid):
    grid = {"optimizer.lr": "1e-3,0.01", "data.split_seed": "1,2"}
    verdict = verdict_on(write_grid(grid, "1e-3,2"))
    # a seed has no next value
    assert verdict.next_sweep[-2:] == ["optimizer.lr=1e-3,0.01,0.0001", "data.split_seed=2"]


def test_the_same_difference_for_every_seed_has_no_p_value(write):
    for number, (lr, seed) in enumerate(product(["0.01", "0.1"], ["0", "1"])):
        wrong = range(10 + number if lr == "0.01" else 15 + number)
        folder = write(f"{number}", f"optimizer.lr={lr}", f"seed={seed}", wrong=wrong)
    verdict = verdict_on(folder)
    assert p_values(verdict) == [None]
    sentence = "No significance test: jobs 2, 3 (the same difference for every seed)."
    assert sentence in verdict.sentences


def test_one_setting_over_five_seeds_has_no_comparison(write):
    for seed in range(5):
        folder = write(f"{seed}", f"seed={seed}", wrong=range(seed))
    verdict = verdict_on(folder)
    assert verdict.sentences == ["Trained on cpu (1 thread)."]
    assert verdict.next_sweep == []


def test_different_validation_images_are_not_compared(write):
    write("0", "data.split_seed=0", wrong=BAD)
    write("1", "data.split_seed=1", wrong=[0])
    write("2", "data.split_seed=2", wrong=BAD)
    index, label = 3 * np.arange(100), np.arange(100) % 10
    prediction = np.where(np.arange(100) < 40, (label + 1) % 10, label)
    folder = write("3", "data.split_seed=3", wrong=[0, 1])
    order = np.random.default_rng(0).permutation(100)  # the same images in another order
    write_predictions(folder / "2", index[order], label[order], prediction[order])
    write_predictions(folder / "0", index + 1, label, prediction)
    write_predictions(folder / "3", index, label[::-1].copy(), np.r_[label[:1:-1], [11, 12]])
    verdict = verdict_on(folder)
    # no lead over job 3
    sentence = "No significance test: jobs 3, 0 (validated on different images)."
    assert verdict.sentences[0] == sentence
    expected = stats.binomtest(0, 39).pvalue
    assert p_values(verdict) == [None, None, pytest.approx(expected)]


@pytest.mark.parametrize("winner", [False, True])
def test_damaged_missing_and_stale_predictions(write, winner):
    write("0", "optimizer.lr=1", wrong=[0, 1])
    folder = write("1", "optimizer.lr=2", wrong=[0])
    name = "1" if winner else "0"
    file = folder / name / "val_predictions.npz"
    write_predictions(file.parent, np.arange(100), np.arange(100), np.arange(100))
    for damage in (lambda: None, lambda: file.write_bytes(b"PK"), file.unlink):
        damage()
        verdict = verdict_on(folder)
        assert p_values(verdict) == [None]
        assert verdict.sentences[:2] == [
            "The winner leads job 0 (lr 1) by 0.0100 in val/acc.",
            "No significance test: job 0 (val_predictions.npz is missing or damaged).",
        ]


def test_divergence_is_reported(write):
    write("0", "optimizer.lr=0.01", wrong=[1])
    folder = write("1", "optimizer.lr=0.1", wrong=[2, 3])
    rows = ["epoch,val/acc,val/loss,seconds", "1,0.9,1,1", "2,0.9821,1,1", "3,0.103,1,1"]
    (folder / "1" / "metrics.csv").write_text("\n".join(rows))
    verdict = verdict_on(folder)
    assert "Diverged (last accuracy less than half of the best): job 1." in verdict.sentences


def test_different_devices_are_reported(write):
    write("0", "optimizer.lr=0.01", wrong=[1])
    write("1", "optimizer.lr=0.1", wrong=[2, 3], device="cpu (2 threads)")
    folder = write("2", "optimizer.lr=1", wrong=[2, 3, 4])
    assert verdict_on(folder).sentences[-1] == (
        "Trained on cpu (1 thread), cpu (2 threads), so the last digits may differ."
    )


def test_pruned_jobs_are_not_compared(write):
    write("0", "model=lenet", wrong=[1])
    folder = write("1", "model=mlp", wrong=[2, 3, 4])
    result = json.loads((folder / "1" / "result.json").read_text())
    (folder / "1" / "result.json").write_text(json.dumps(result | {"status": "pruned"}))
    verdict = verdict_on(folder)
    assert p_values(verdict) == []
    assert verdict.sentences[:2] == [
        "1 job was pruned and therefore not compared.",
        "The last to be pruned was job 1 (model mlp), 2 images behind at epoch 2.",
    ]
    assert next_command(folder) == (
        "python train.py -m data=mini trainer.max_epochs=2 model=lenet,mlp seed=0,1,2,3,4"
    )


def test_without_a_winner_there_is_no_verdict(write):
    summary = Summary(Sweep(write("0", status="failed")))
    assert summary.verdict.sentences == []
    assert summary.as_dict()["verdict"] is None
    assert "```" not in summary.markdown()


def test_the_command_survives_the_shell_and_hydra(write):
    write("0", "model=mlp", "model.hidden=[128]", "+x='a, b'", "test=false", wrong=[1])
    folder = write("1", "model=mlp", "model.hidden=[64,32]", "+x='a, b'", "test=false", wrong=[2])
    jobs = jobs_of(next_command(folder))
    assert len(jobs) == 10
    common = ["data=mini", "trainer.max_epochs=2", "model=mlp"]
    rest = ["+x='a, b'", "test=False"]
    assert jobs[0] == [*common, "model.hidden=[128]", *rest, "seed=0"]
    assert jobs[-1] == [*common, "model.hidden=[64,32]", *rest, "seed=4"]


def test_a_setting_without_one_of_the_values_is_not_repeated(write):
    write("0", "~callbacks.ema", wrong=[1])
    assert verdict_on(write("1", "optimizer.lr=0.1", wrong=[2])).next_sweep == []

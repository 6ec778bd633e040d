"""Each finding, exactly, on made-up figures: when it fires and when it does not."""

from dataclasses import replace
from math import log
from pathlib import Path

import pytest
import torch
from helpers.commands import ROOT
from hydra import compose, initialize_config_dir

from lenet_pl.config import check
from lenet_pl.metrics import Proportion, expected_calibration_error
from lenet_pl.report import learning, mistakes, rates
from lenet_pl.report.figures import Figures, Finding, Settings, beyond_chance
from lenet_pl.report.findings import CHECKS, find

SETTINGS = Settings(
    folder=Path("outputs/runs/d/t"),
    overrides=("data=mini", "optimizer.lr=0.01", "data.batch_size=64"),
    data="mnist",
    model="LeNet",
    fraction=1.0,
    lr=0.01,
    batch_size=64,
    max_epochs=8,
    label_smoothing=0.0,
    weight_decay=0.0,
    patience=5,
    augment=False,
    scheduler=False,
)
TRAIN = (0.4, 0.1, 0.06, 0.05, 0.045, 0.042, 0.04, 0.039)
VAL = (0.15, 0.08, 0.06, 0.055, 0.05, 0.051, 0.0502, 0.0501)


def rows(train=TRAIN, val=VAL, acc=None, lr=None, right=0.9) -> list[dict[str, float]]:
    acc = acc or [0.98] * len(train)
    lr = lr or [0.01] * len(train)
    columns = zip(train, val, acc, lr, strict=True)
    names = ("train/loss", "val/loss", "val/acc", "lr")
    return [
        {"epoch": n, "train/acc": right, **dict(zip(names, column, strict=True))}
        for n, column in enumerate(columns, 1)
    ]


def outputs(wrong: list[tuple[int, int]], total=2000, sure=0.99, second=None):
    """Logits and labels of ``total`` images, ten classes in turn, with these (label, guess)."""
    labels = torch.arange(total) % 10
    guesses, taken = labels.clone(), {}
    for label, guess in wrong:
        taken[label] = place = taken.get(label, -1) + 1
        guesses[label + 10 * place] = guess
    probabilities = torch.full((total, 10), (1 - sure) / 9, dtype=torch.double)
    probabilities[torch.arange(total), guesses] = sure
    for image, (first, other) in enumerate(second or ()):
        probabilities[-1 - image] = 0.01
        probabilities[-1 - image, [int(labels[-1 - image]), (int(labels[-1 - image]) + 1) % 10]] = (
            torch.tensor([first, other], dtype=torch.double)
        )
    return probabilities.log(), labels


SPREAD = [(c, (c + step) % 10) for step in (1, 2) for c in range(10)]  # 20, each pair once


def figures(wrong=SPREAD, sure=0.99, second=None, settings=SETTINGS, **changed) -> Figures:
    """Of a healthy run: 99 % right, as sure as that, calm curves."""
    logits, labels = outputs(wrong, sure=sure, second=second)
    healthy = Figures(
        settings=settings,
        rows=rows(),
        best_epoch=5,
        stopped_early=False,
        error=None,
        trained_on=55_000,
        train=Proportion(1985, 2000),
        logits=logits,
        labels=labels,
        indices=torch.arange(len(labels)) + 7,
        classes=tuple("0123456789"),
        test=Proportion(1982, 2000),
    )
    return replace(healthy, **changed)


def test_a_healthy_run_has_none_and_gets_one_thing_to_try():
    assert [check(figures()) for check in CHECKS] == [None] * len(CHECKS)
    [finding] = find(figures())
    assert (finding.kind, finding.overrides) == ("good", ("scheduler=onecycle",))
    assert "99.25 % of training and 99.00 % of validation images" in finding.evidence
    scheduled = replace(SETTINGS, scheduler=True)
    assert find(figures(settings=scheduled))[0].overrides == ("augment=affine",)
    both = replace(scheduled, augment=True)
    assert find(figures(settings=both))[0].overrides == ("seed=1",)


AUGMENTED = replace(SETTINGS, augment=True)
GUESSED = [(c, 0) for c in range(1, 10) for _ in range(200)]  # 10 % right
OVERFIT = figures([*SPREAD, *SPREAD], train=Proportion(2000, 2000), sure=0.98)
MANY = [(4, 9)] * 12 + [(3, 5)] * 6 + [(7, 2)] * 4 + SPREAD[:8]  # 30 mistakes
GUESS = log(10)
FIRING: dict[str, tuple] = {  # check, figures, what it says, what to try
    "nan": (
        rates.too_high,
        figures(error="train/loss is nan in epoch 3; try a smaller optimizer.lr"),
        "stopped being a number; train/loss is nan in epoch 3",
        ["optimizer.lr=0.001"],
    ),
    "dead": (
        rates.too_high,
        figures(GUESSED, rows=rows([2.2, 2.32, 2.33], [2.3] * 3, [0.1] * 3)),
        "died; Validation accuracy is 10.00 %, that of guessing, and the training loss ended at "
        "2.330, above the 2.303",
        ["optimizer.lr=0.001"],
    ),
    "jumps": (
        rates.too_high,
        figures(rows=rows([0.4, 0.1, 0.13, 0.05, 0.07, 0.04, 0.03, 0.02])),
        "too high for the end of training; It rose by more than 20 % in 2 of 7 epochs (3, 5); "
        "optimizer.lr is 0.01.",
        ["scheduler=cosine"],
    ),
    "jumps, scheduled": (
        rates.too_high,
        figures(
            rows=rows([0.4, 0.1, 0.13, 0.05, 0.07, 0.04, 0.03, 0.02]),
            settings=replace(SETTINGS, scheduler=True),
        ),
        "the learning rate is too high; It rose",
        ["optimizer.lr=0.0033"],
    ),
    "stuck": (
        rates.too_low,
        figures(GUESSED, rows=rows([2.301, 2.29, 2.27], [2.3, 2.28, 2.2], [0.1, 0.2, 0.3])),
        "The learning rate is too low; In the first 860 steps the training loss was 2.30",
        ["optimizer.lr=0.1"],
    ),
    "slow": (
        rates.too_low,
        figures(
            GUESSED[:900], rows=rows([1.9, 1.6, 1.3, 1.1], [1.7, 1.5, 1.2, 1], [0.5] * 4, right=0.4)
        ),
        "may be too low; In the first 860 steps the training loss was 1.90 on average, where "
        "guessing gives 2.30; it has fallen smoothly since, to 1.10, and validation accuracy is "
        "55.00 %",
        ["optimizer.lr=0.02"],
    ),
    "lost again": (
        rates.too_high,
        figures(
            [*SPREAD, *SPREAD],
            rows=rows([0.4, 0.2, 0.15, 0.14], [0.3, 0.2, 0.5, 1.6], [0.9, 0.98, 0.95, 0.77]),
        ),
        "too high: what was learnt was lost again; Validation accuracy was 98.00 % in epoch 2 and "
        "77.00 % in the last, where the loss is 1.60 (guessing: 2.30); optimizer.lr is 0.01.",
        ["optimizer.lr=0.0033"],
    ),
    "lost again, by the loss": (
        rates.too_high,
        figures(rows=rows([0.4, 0.2], [0.3, 2.1], [0.9, 0.8])),
        "lost again; Validation accuracy was 90.00 % in epoch 1 and 80.00 % in the last",
        ["optimizer.lr=0.0033"],
    ),
    "one answer": (
        rates.one_answer,
        figures(GUESSED, rows=rows([2.2, 2.0], [2.1, 1.9], [0.1, 0.1])),
        "It answers 0 for everything: it has hardly trained; 100.00 % of the validation images "
        "are taken for 0, and 10.00 % are right.",
        ["trainer.max_epochs=4"],
    ),
    "one answer, for most": (
        rates.one_answer,
        figures(GUESSED[:1500], rows=rows([2.2, 2.0], [2.1, 1.9], [0.1, 0.1])),
        "It answers 0 for almost everything; 85.00 % of the validation images are taken for 0",
        ["trainer.max_epochs=4"],
    ),
    "one answer, that was not the only one": (
        rates.one_answer,
        figures(GUESSED, rows=rows([0.4, 2.2], [0.3, 2.3], [0.9, 0.1])),
        "It answers 0 for everything: the learning rate is too high; Validation accuracy was "
        "90.00 % in epoch 1 and 10.00 % in the last",
        ["optimizer.lr=0.0033"],
    ),
    "overfit": (
        learning.overfitting,
        OVERFIT,
        "overfits; 100.00 % of training images are right and 98.00 % of validation images: a gap "
        "of 2.00 points.",
        ["augment=affine"],
    ),
    "overfit, climbing": (
        learning.overfitting,
        replace(OVERFIT, rows=rows(val=(*VAL[:-1], 0.1)), settings=AUGMENTED),
        "Validation loss was lowest in epoch 5 and is 100 % higher in the last.",
        ["optimizer.weight_decay=0.0005"],
    ),
    "overfit, decayed": (
        learning.overfitting,
        replace(OVERFIT, settings=replace(AUGMENTED, weight_decay=5e-4)),
        "overfits",
        ["loss.label_smoothing=0.1"],
    ),
    "underfit": (
        learning.underfitting,
        figures([*SPREAD, *SPREAD], train=Proportion(1962, 2000)),
        "underfits; 1.90 % of them are still wrong, and validation is only 0.10 points behind",
        ["scheduler=onecycle"],
    ),
    "underfit, level": (
        learning.underfitting,
        figures([*SPREAD, *SPREAD], train=Proportion(1960, 2000)),
        "underfits; validation is level: more room",
        ["scheduler=onecycle"],
    ),
    "underfit, ahead": (
        learning.underfitting,
        figures([*SPREAD, *SPREAD], train=Proportion(1955, 2000)),
        "underfits; validation is 0.25 points ahead: more room",
        ["scheduler=onecycle"],
    ),
    "underfit, smoothed": (
        learning.underfitting,
        figures(
            [*SPREAD, *SPREAD],
            train=Proportion(1962, 2000),
            settings=replace(SETTINGS, label_smoothing=0.1),
        ),
        "underfits",
        ["loss.label_smoothing=0.0"],
    ),
    "underfit, decayed": (
        learning.underfitting,
        figures(
            [*SPREAD, *SPREAD],
            train=Proportion(1962, 2000),
            settings=replace(SETTINGS, weight_decay=0.01),
        ),
        "underfits",
        ["optimizer.weight_decay=0.0001"],
    ),
    "underfit, not made for images": (
        learning.underfitting,
        figures(
            [*SPREAD, *SPREAD],
            train=Proportion(1962, 2000),
            settings=replace(SETTINGS, model="MLP"),
        ),
        "underfits",
        ["model=lenet"],
    ),
    "underfit, scheduled": (
        learning.underfitting,
        figures(
            [*SPREAD, *SPREAD],
            train=Proportion(1962, 2000),
            settings=replace(SETTINGS, scheduler=True),
        ),
        "underfits",
        ["optimizer=adam"],
    ),
    "small": (
        mistakes.small_data,
        replace(OVERFIT, trained_on=5000, settings=replace(SETTINGS, data="mini")),
        "little to learn from; 500 training images of each class, of which 100.00 % are right",
        ["data=mnist"],
    ),
    "small, of more": (
        mistakes.small_data,
        replace(OVERFIT, trained_on=5000, settings=replace(SETTINGS, fraction=0.1)),
        "little to learn from",
        ["data.fraction=1.0"],
    ),
    "small, of one's own": (
        mistakes.small_data,
        replace(OVERFIT, trained_on=5000),
        "little to learn from",
        ["model=pretrained", "model.weights=DEFAULT"],
    ),
    "improving": (
        learning.still_improving,
        figures(rows=rows(val=(*VAL[:6], 0.05, 0.045))),
        "still improving; Validation loss was lowest in the last epoch, 0.0450, and fell by 12 % "
        "over the last 2 epochs.",
        ["trainer.max_epochs=16"],
    ),
    "stopped": (
        learning.stopped_too_early,
        figures(stopped_early=True, best_epoch=8, rows=rows(acc=[0.9] * 7 + [0.99])),
        "stopped while accuracy still rose; Early stopping ended it after epoch 8 of 8, but the "
        "best validation accuracy, 99.00 %, is that of epoch 8.",
        ["callbacks.early_stopping.patience=10"],
    ),
    "pairs": (
        mistakes.few_pairs,
        figures(MANY),
        "A few pairs; 4 and 9 (12), 3 and 5 (6), 2 and 7 (4): 73 % of the 30 validation mistakes.",
        ["augment=affine"],
    ),
    "pairs, augmented": (
        mistakes.few_pairs,
        figures(MANY, settings=AUGMENTED),
        "A few pairs",
        ["trainer.max_epochs=16"],
    ),
    "class": (
        mistakes.weak_class,
        figures([*SPREAD, *[(8, c) for c in (3, 3, 3, 5, 5, 6, 7, 9)]]),
        "Class 8 is found less often; Recall 95.00 % (190 of 200 validation images), the others "
        "99.00 %; it is most often taken for 3 (3 times)",
        ["augment=affine"],
    ),
    "overconfident": (
        mistakes.miscalibration,
        figures([*SPREAD, *SPREAD], sure=0.9999),
        "overconfident; Its mean confidence is 99.99 %, its accuracy 98.00 %; the expected "
        "calibration error is 0.020",
        ["loss.label_smoothing=0.003"],
    ),
    "overconfident, smoothed": (
        mistakes.miscalibration,
        figures([*SPREAD, *SPREAD], sure=0.9999, settings=replace(SETTINGS, label_smoothing=0.02)),
        "overconfident",
        ["loss.label_smoothing=0.023"],
    ),
    "underconfident": (
        mistakes.miscalibration,
        figures(sure=0.9, settings=replace(SETTINGS, label_smoothing=0.1)),
        "underconfident; Its mean confidence is 90.00 %, its accuracy 99.00 %; the expected "
        "calibration error is 0.090",
        ["loss.label_smoothing=0.085"],
    ),
    "underconfident, hard labels": (
        mistakes.miscalibration,
        figures(sure=0.9),
        "underconfident",
        ["trainer.max_epochs=16"],
    ),
    "claimed": (
        mistakes.ambiguous,
        figures(second=[(0.5, 0.42), (0.47, 0.45), (0.4, 0.52)]),
        "claimed by two classes, and may be ambiguous or mislabelled; 3 validation images have "
        "two classes above 30 %, and 1 of them are among the 21 mistakes. In the training file: "
        "2005 (8 or 9), 2006 (9 or 0), 2004 (8 or 7).",
        ["data.suspect_folds=5"],
    ),
    "claimed, pooled": (
        mistakes.ambiguous,
        figures(second=[(0.5, 0.42), (0.47, 0.45), (0.4, 0.52)], pooled=True),
        "In all files, training then test: 2005 (8 or 9), 2006",
        ["data.suspect_folds=5"],
    ),
    "claimed, in files of their own": (
        mistakes.ambiguous,
        figures(
            second=[(0.5, 0.42), (0.47, 0.45), (0.4, 0.52)],
            files=[f"{n}.png" for n in range(2000)],
        ),
        "Files: 1998.png (8 or 9), 1999.png (9 or 0), 1997.png (8 or 7).",
        ["data.suspect_folds=5"],
    ),
    "test": (
        mistakes.unlike_test,
        figures(test=Proportion(1950, 2000)),
        "The test images are harder than validation told; Validation 99.00 % of 2,000, test "
        "97.50 % of 2,000: 3.6 standard errors apart.",
        [],
    ),
    "test, easier": (
        mistakes.unlike_test,
        figures(test=Proportion(2000, 2000)),
        "The test images are easier than validation told",
        [],
    ),
}


@pytest.mark.parametrize("name", FIRING)
def test_fires(name):
    check, found, said, overrides = FIRING[name]
    finding = check(found)
    assert finding is not None
    assert finding.overrides == tuple(overrides)
    for part in said.split("; ", 1):
        assert part in f"{finding.title}; {finding.evidence}"
    assert finding in find(found)


COMMON = (torch.arange(2000) - 1800).clamp(min=0) % 10  # 91 % of the first class


SILENT: dict[str, tuple] = {
    "a single jump": (rates.too_high, {"rows": rows((*TRAIN[:-1], 0.05))}),
    "jumps of what is next to nothing": (
        rates.too_high,
        {"rows": rows([0.1, 0.001, 0.009, 0.001, 0.009, 0.001, 0.009, 0.001])},
    ),
    "guessing, but not yet begun": (
        rates.too_high,
        {"wrong": GUESSED, "rows": rows([2.303, 2.302], [2.3] * 2, [0.1] * 2)},
    ),
    "warming up": (
        rates.too_low,
        {"rows": rows([2.2, 0.5, 0.3], [1, 0.4, 0.3], lr=[0.001, 0.01, 0.005])},
    ),
    "few steps an epoch": (
        rates.too_low,
        {"rows": rows([2.2, 2.1, 2.0], [2.2, 2.1, 2.0]), "trained_on": 640},
    ),
    "a small start that went well": (
        rates.too_low,
        {"rows": rows([1.3, 0.5, 0.3, 0.2], [0.6, 0.4, 0.28, 0.2], [0.9] * 4, right=0.45)},
    ),
    "a sway": (rates.too_high, {"rows": rows(acc=[0.98] * 7 + [0.8])}),
    "one class that is as common": (
        rates.one_answer,
        {"labels": COMMON, "logits": 9 * torch.eye(10)[COMMON]},
    ),
    "many of one class, and most right": (rates.one_answer, {"wrong": GUESSED[:600]}),
    "slow, but come to rest": (
        rates.too_low,
        {"rows": rows([1.3, 0.5, 0.3, 0.29], [0.6, 0.4, 0.28, 0.29])},
    ),
    "a gap of chance": (
        learning.overfitting,
        {"wrong": SPREAD[:12], "train": Proportion(1997, 2000)},
    ),
    "a gap that is the smaller part of the error": (
        learning.overfitting,
        {"wrong": SPREAD * 10, "train": Proportion(1880, 2000)},
    ),
    "annealed": (
        learning.still_improving,
        {"rows": rows(val=(*VAL[:6], 0.05, 0.04), lr=[0.01] * 7 + [0.0001])},
    ),
    "improving by a trifle": (
        learning.still_improving,
        {"rows": rows(val=(*VAL[:7], 0.0499))},
    ),
    "stopped when both had come to rest": (
        learning.stopped_too_early,
        {"stopped_early": True, "best_epoch": 5},
    ),
    "not stopped": (learning.stopped_too_early, {"best_epoch": 8}),
    "mistakes that cluster by chance": (
        mistakes.few_pairs,
        {"wrong": [(4, 9)] * 4 + [(3, 5)] * 2 + [(7, 2)] * 2 + SPREAD[:12]},
    ),
    "few mistakes": (mistakes.few_pairs, {"wrong": [(4, 9)] * 10}),
    "a class behind by chance": (
        mistakes.weak_class,
        {"wrong": [*SPREAD, (8, 3), (8, 5), (8, 1)]},
    ),
    "off by less than a point": (mistakes.miscalibration, {"sure": 0.9985}),
    "two doubtful images": (mistakes.ambiguous, {"second": [(0.5, 0.4), (0.5, 0.4)]}),
    "doubts of a poor network": (
        mistakes.ambiguous,
        {"wrong": SPREAD * 15, "second": [(0.5, 0.4)] * 5},
    ),
    "not tested": (mistakes.unlike_test, {"test": None}),
    "enough data": (
        mistakes.small_data,
        {"wrong": SPREAD * 2, "train": Proportion(2000, 2000)},
    ),
    "little data, but no gap": (mistakes.small_data, {"trained_on": 5000}),
}


@pytest.mark.parametrize("name", SILENT)
def test_is_silent(name):
    check, changed = SILENT[name]
    assert check(figures(**changed)) is None


def test_calibration_error_by_chance():
    generator = torch.Generator().manual_seed(1)
    confidence = torch.full((1000,), 0.9, dtype=torch.double)
    limit = mistakes.by_chance(confidence)
    assert 0.02 < limit < 0.03  # about 2.6 standard deviations of 0.0095
    exceeded = 0
    for _ in range(200):
        right = torch.rand(1000, generator=generator) < 0.9
        logits = torch.tensor([[0.9, 0.1]], dtype=torch.double).log().expand(1000, 2)
        exceeded += expected_calibration_error(logits, (~right).long()) > limit
    assert exceeded <= 8  # 2 are expected


def test_beyond_chance_by_hand():
    # pooled share 0.5, standard error sqrt(0.25 * 2 / 100) = 0.0707
    assert beyond_chance(Proportion(60, 100), Proportion(40, 100)) == pytest.approx(2.828427)
    assert beyond_chance(Proportion(5, 5), Proportion(5, 5)) == 0.0


def test_what_cannot_wait_stands_alone():
    found = figures(GUESSED, rows=rows([2.301, 2.29, 2.27], [2.3, 2.28, 2.2], [0.1, 0.2, 0.3]))
    assert [f.title for f in find(found)] == ["The learning rate is too low"]


def test_a_command_is_the_run_s_own_with_the_change():
    def command(*overrides, resume=False) -> str:
        return Finding("", "", "", overrides, resume).command(SETTINGS)

    own = "lenet-pl train data=mini"
    assert command("optimizer.lr=0.1") == f"{own} data.batch_size=64 optimizer.lr=0.1"
    rest = "optimizer.lr=0.01 data.batch_size=64"
    assert command("augment=affine") == f"{own} {rest} augment=affine"
    assert command("data=mnist") == f"lenet-pl train {rest} data=mnist"  # the batch size stays
    assert command("optimizer=adam") == f"{own} data.batch_size=64 optimizer=adam"
    longer = command("trainer.max_epochs=16", resume=True)
    assert longer == "lenet-pl train resume=outputs/runs/d/t trainer.max_epochs=16"
    job = replace(SETTINGS, job=True)
    found = learning.still_improving(figures(rows=rows(val=(*VAL[:6], 0.05, 0.045)), settings=job))
    assert found.command(job) == f"{own} {rest} trainer.max_epochs=16"
    spaced = replace(SETTINGS, overrides=["data.root=my data"])
    assert Finding("", "", "", ("seed=1",)).command(spaced) == (
        "lenet-pl train 'data.root=my data' seed=1"
    )


OVERRIDES = {case[3][0] if len(case[3]) == 1 else tuple(case[3]) for case in FIRING.values()}
OVERRIDES |= {"scheduler=onecycle", "augment=affine", "seed=1"}  # of a healthy run


@pytest.mark.parametrize("overrides", sorted(OVERRIDES, key=str), ids=str)
def test_what_is_suggested_can_be_done(overrides):
    words = [overrides] if isinstance(overrides, str) else list(overrides)
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        cfg = compose("config", ["run_dir=run", *words])
    check(cfg)


def test_a_network_of_one_answer_gets_one_finding():
    found = find(figures(GUESSED, rows=rows([2.2, 2.0], [2.1, 1.9], [0.1, 0.1])))
    assert [finding.title for finding in found] == [
        "It answers 0 for everything: it has hardly trained"
    ]


def test_a_fall_comes_first():
    lost = rows([0.4, 0.2, 0.15, 0.14], [0.3, 0.2, 0.5, 1.6], [0.9, 0.98, 0.95, 0.7])
    found = find(figures(MANY, rows=lost))
    assert found[0].title == "The learning rate is too high: what was learnt was lost again"
    assert len(found) > 1


def test_a_command_is_said_once():
    pairs = figures([*MANY, *[(4, 9)] * 20])
    first, second = find(pairs)[:2]
    assert mistakes.weak_class(pairs).overrides == first.overrides == ("augment=affine",)
    assert (second.advice, second.overrides) == ("As above.", ())
    assert second.command(SETTINGS) == ""
    assert first.command(SETTINGS).endswith("augment=affine")

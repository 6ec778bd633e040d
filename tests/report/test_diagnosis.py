"""Each check on synthetic runs: when it fires, with which evidence, and when it is silent."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from helpers.commands import ROOT
from helpers.evaluations import (
    SPREAD,
    TRAIN_LOSS,
    VAL_LOSS,
    metric_rows,
    predictions,
    split_predictions,
    synthetic_evaluation,
    with_files,
)
from helpers.runs import compose_config
from omegaconf import OmegaConf

from lenet_pl.config import check, flatten
from lenet_pl.metrics import Proportion
from lenet_pl.models.mlp import MLP
from lenet_pl.report.diagnosis import SMALL, Diagnosis, Finding, diagnose, z_score


def diagnosis(**changes: Any) -> Diagnosis:
    return Diagnosis(synthetic_evaluation(**changes))


def findings(**changes: Any) -> list[Finding]:
    return diagnose(synthetic_evaluation(**changes))


AUGMENTED = {"augment": {"affine": {}}}
SCHEDULED = {"scheduler": {"_target_": "lenet_pl.optim.one_cycle"}}
GUESSED = [(label, 0) for label in range(1, 10) for _ in range(200)]  # 10 % correct
UNTRAINED: dict[str, Any] = {
    "val": predictions(GUESSED),
    "train": Proportion(200, 2000),
    "rows": metric_rows([2.303] * 20, [2.303] * 20, [0.1] * 20),
}
DOUBLED = predictions([*SPREAD, *SPREAD])  # 98 % correct
OVERFIT: dict[str, Any] = {
    "val": predictions([*SPREAD, *SPREAD], confidence=0.98),
    "train": Proportion(2000, 2000),
}
UNDERFIT: dict[str, Any] = {"val": DOUBLED, "train": Proportion(1962, 2000)}
PAIRS = [(4, 9)] * 12 + [(3, 5)] * 6 + [(7, 2)] * 4 + SPREAD[:8]  # 30 errors
AMBIGUOUS = predictions(ambiguous=[(0.5, 0.42), (0.47, 0.45), (0.4, 0.52)])
UNSTABLE = metric_rows([0.4, 0.1, 0.13, 0.05, 0.07, 0.04, 0.03, 0.02])


def with_accuracy(correct: int) -> Any:
    """Test predictions, so many of 2000 correct."""
    errors = [(label, (label + 1) % 10) for label in range(10) for _ in range(200)]
    return predictions(errors[: 2000 - correct], split="test")


class Case(NamedTuple):
    check: str
    changes: dict[str, Any]
    parts: list[str]  # of the title and the evidence
    overrides: list[str]


FIRING = {
    "loss is NaN": Case(
        "loss_not_finite",
        {"result": {"error": "train/loss is nan in epoch 3; try a smaller optimizer.lr"}},
        ["the loss became NaN or infinite", "train/loss is nan in epoch 3"],
        ["optimizer.lr=0.001"],
    ),
    "network stopped learning": Case(
        "stopped_learning",
        {
            "val": predictions(GUESSED),
            "rows": metric_rows([2.2, 2.32, 2.33], [2.3] * 3, [0.1] * 3),
        },
        [
            "the network stopped learning",
            "Validation accuracy is 10.00 %, and the training loss ended at 2.330, above the "
            "chance level of 2.303; optimizer.lr is 0.01.",
        ],
        ["optimizer.lr=0.001"],
    ),
    "unstable loss": Case(
        "unstable",
        {"rows": UNSTABLE},
        [
            "Learning rate too high: the training loss is unstable",
            "It rose by more than 20 % in 2 of 7 epochs (3, 5); optimizer.lr is 0.01.",
        ],
        ["scheduler=cosine"],
    ),
    "unstable loss, scheduled": Case(
        "unstable",
        {"rows": UNSTABLE, "settings": SCHEDULED},
        ["Learning rate too high: the training loss is unstable", "It rose"],
        ["optimizer.lr=0.0033"],
    ),
    "accuracy collapsed": Case(
        "collapsed",
        {
            "val": DOUBLED,
            "rows": metric_rows(
                [0.4, 0.2, 0.15, 0.14], [0.3, 0.2, 0.5, 1.6], [0.9, 0.98, 0.95, 0.77]
            ),
        },
        [
            "too high: accuracy collapsed during training",
            "Validation accuracy was 98.00 % in epoch 2 and 77.00 % in the last, where the loss is "
            "1.60 (chance: 2.30); optimizer.lr is 0.01.",
        ],
        ["optimizer.lr=0.0033"],
    ),
    "accuracy collapsed, by the loss": Case(
        "collapsed",
        {"rows": metric_rows([0.4, 0.2], [0.3, 2.1], [0.9, 0.8])},
        [
            "accuracy collapsed during training",
            "Validation accuracy was 90.00 % in epoch 1 and 80.00 % in the last",
        ],
        ["optimizer.lr=0.0033"],
    ),
    "accuracy collapsed to one class": Case(
        "collapsed",
        {
            "val": predictions(GUESSED),
            "rows": metric_rows([0.4, 2.2], [0.3, 2.3], [0.9, 0.1]),
        },
        [
            "too high: accuracy collapsed during training",
            "Validation accuracy was 90.00 % in epoch 1 and 10.00 % in the last",
        ],
        ["optimizer.lr=0.0033"],
    ),
    "stuck": Case(
        "learning_rate_too_low",
        {
            "val": predictions(GUESSED),
            "rows": metric_rows([2.301, 2.29, 2.27], [2.3, 2.28, 2.2], [0.1, 0.2, 0.3]),
        },
        [
            "Learning rate too low",
            "The training loss averaged 2.30 over the first 860 steps",
        ],
        ["optimizer.lr=0.1"],
    ),
    "slow": Case(
        "learning_rate_too_low",
        {
            "val": predictions(GUESSED[:900]),
            "rows": metric_rows([1.9, 1.6, 1.3, 1.1], [1.7, 1.5, 1.2, 1], [0.5] * 4, train_acc=0.4),
        },
        [
            "Learning rate possibly too low",
            "The training loss averaged 1.90 over the first 860 steps, where chance gives 2.30, "
            "and has decreased smoothly since, to 1.10; validation accuracy is 55.00 %",
        ],
        ["optimizer.lr=0.02"],
    ),
    "few steps on few images": Case(
        "too_few_steps",
        {**UNTRAINED, "train_size": 63, "steps": 2},
        [
            "Too few steps: 40 in total; 20 epochs of 2 steps, with 63 training images in batches "
            "of 64. 10.00 % of training and 10.00 % of validation images are classified correctly; "
            "the training loss ended at 2.30 (chance: 2.30), and optimizer.lr is 0.01.",
        ],
        ["experiment=small"],
    ),
    "few steps in one epoch": Case(
        "too_few_steps",
        {**UNTRAINED, "rows": metric_rows([2.3], [2.3], [0.1]), "train_size": 5000, "steps": 79},
        ["Too few steps: 79 in total; 1 epoch of 79 steps"],
        ["trainer.max_epochs=37"],
    ),
    "few steps on more images": Case(
        "too_few_steps",
        {**UNTRAINED, "train_size": 1100, "steps": 18},
        ["Too few steps: 360 in total; 20 epochs of 18 steps"],
        ["data.batch_size=16"],
    ),
    "few steps in small batches": Case(
        "too_few_steps",
        {**UNTRAINED, "train_size": 1100, "steps": 18, "settings": {"data.batch_size": 8}},
        ["Too few steps: 360 in total"],
        ["optimizer.lr=0.03"],
    ),
    "one epoch": Case(
        "one_epoch",
        {"rows": metric_rows([0.3], [0.2], [0.95])},
        [
            "Trained for a single epoch",
            "Validation accuracy is 99.00 % after 860 steps; one epoch",
        ],
        ["trainer.max_epochs=10"],
    ),
    "one class": Case(
        "one_class",
        {"val": predictions(GUESSED), "rows": metric_rows([2.2, 2.0], [2.1, 1.9], [0.1, 0.1])},
        [
            "Predicts 0 for almost everything: barely trained",
            "100.00 % of the validation images are predicted as 0, and 10.00 % are correct.",
        ],
        ["trainer.max_epochs=4"],
    ),
    "one class, mostly": Case(
        "one_class",
        {
            "val": predictions(GUESSED[:1500]),
            "rows": metric_rows([2.2, 2.0], [2.1, 1.9], [0.1, 0.1]),
        },
        [
            "Predicts 0 for almost everything",
            "85.00 % of the validation images are predicted as 0",
        ],
        ["trainer.max_epochs=4"],
    ),
    "overfitting": Case(
        "overfitting",
        OVERFIT,
        [
            "Overfitting: training accuracy is well above validation accuracy",
            "Training accuracy is 100.00 %, validation accuracy 98.00 %: a gap of 2.00 "
            "percentage points.",
        ],
        ["augment=affine"],
    ),
    "overfitting, validation loss rising": Case(
        "overfitting",
        {**OVERFIT, "rows": metric_rows(val=(*VAL_LOSS[:-1], 0.1)), "settings": AUGMENTED},
        ["Validation loss was lowest in epoch 5 and is 100 % higher in the last."],
        ["optimizer.weight_decay=0.0005"],
    ),
    "overfitting, with weight decay": Case(
        "overfitting",
        {**OVERFIT, "settings": {**AUGMENTED, "optimizer.weight_decay": 5e-4}},
        ["Overfitting"],
        ["loss.label_smoothing=0.1"],
    ),
    "overfitting a subset": Case(
        "overfitting",
        {**OVERFIT, "train_size": 5000, "source": "mini"},
        [
            "Training accuracy is 100.00 %",
            "There are only 500 training images per class.",
        ],
        ["data=mnist"],
    ),
    "overfitting a fraction": Case(
        "overfitting",
        {**OVERFIT, "train_size": 5000, "settings": {"data.fraction": 0.1}},
        ["There are only 500 training images per class."],
        ["data.fraction=1.0"],
    ),
    "overfitting a small data set": Case(
        "overfitting",
        {**OVERFIT, "train_size": 5000},
        ["There are only 500 training images per class."],
        ["model=pretrained", "model.weights=DEFAULT"],
    ),
    "overfitting a small data set, pretrained": Case(
        "overfitting",
        {**OVERFIT, "train_size": 5000, "settings": {"model.weights": "DEFAULT"}},
        ["There are only 500 training images per class."],
        ["augment=affine"],
    ),
    "underfitting": Case(
        "underfitting",
        UNDERFIT,
        [
            "Underfitting: even training images are misclassified",
            "Training error is 1.90 %, and validation accuracy is 0.10 percentage points lower",
        ],
        ["scheduler=onecycle"],
    ),
    "underfitting, no gap": Case(
        "underfitting",
        {**UNDERFIT, "train": Proportion(1960, 2000)},
        [
            "Underfitting",
            "validation accuracy is 0.00 percentage points higher than training accuracy: the",
        ],
        ["scheduler=onecycle"],
    ),
    "underfitting, validation ahead": Case(
        "underfitting",
        {**UNDERFIT, "train": Proportion(1955, 2000)},
        [
            "Underfitting",
            "validation accuracy is 0.25 percentage points higher than training accuracy: the",
        ],
        ["scheduler=onecycle"],
    ),
    "underfitting, unequal classes": Case(
        "underfitting",
        {**UNDERFIT, "class_counts": [100] * 9 + [24]},
        ["Underfitting"],
        [
            "loss.class_weights=balanced",
            "callbacks.checkpoint.monitor=val/balanced_acc",
            "callbacks.checkpoint.mode=max",
        ],
    ),
    "underfitting, with label smoothing": Case(
        "underfitting",
        {**UNDERFIT, "settings": {"loss.label_smoothing": 0.1}},
        ["Underfitting"],
        ["loss.label_smoothing=0.0"],
    ),
    "underfitting, with weight decay": Case(
        "underfitting",
        {**UNDERFIT, "settings": {"optimizer.weight_decay": 0.01}},
        ["Underfitting"],
        ["optimizer.weight_decay=0.0001"],
    ),
    "underfitting, without convolutions": Case(
        "underfitting",
        {**UNDERFIT, "net": MLP([4], 0.0, num_classes=10, channels=1, size=28)},
        ["Underfitting"],
        ["model=lenet"],
    ),
    "underfitting, augmented": Case(
        "underfitting",
        {**UNDERFIT, "settings": AUGMENTED},
        ["Underfitting"],
        ["trainer.max_epochs=16"],
    ),
    "underfitting, scheduled": Case(
        "underfitting",
        {**UNDERFIT, "settings": SCHEDULED},
        ["Underfitting"],
        ["optimizer=adam"],
    ),
    "still improving": Case(
        "still_improving",
        {"rows": metric_rows(val=(*VAL_LOSS[:6], 0.05, 0.045))},
        [
            "Still improving",
            "Validation loss was lowest in the last epoch, 0.0450, 12 % below that of epoch 6.",
        ],
        ["trainer.max_epochs=16"],
    ),
    "stopped too early": Case(
        "stopped_too_early",
        {
            "result": {"stopped_early": True, "best_epoch": 8},
            "rows": metric_rows(acc=[0.9] * 7 + [0.99]),
        },
        [
            "Stopped early while accuracy was still rising",
            "Early stopping ended training after epoch 8, but the best validation accuracy, "
            "99.00 %, was reached in epoch 8.",
        ],
        ["callbacks.early_stopping.patience=10"],
    ),
    "confused pairs": Case(
        "concentrated_errors",
        {"val": predictions(PAIRS)},
        [
            "Errors are concentrated in a few classes",
            "4 and 9 (12), 3 and 5 (6), 2 and 7 (4), 73 % of the 30 validation errors.",
        ],
        ["augment=affine"],
    ),
    "confused pairs, augmented": Case(
        "concentrated_errors",
        {"val": predictions(PAIRS), "settings": AUGMENTED},
        ["Errors are concentrated in a few classes"],
        ["trainer.max_epochs=16"],
    ),
    "overconfident": Case(
        "miscalibration",
        {"val": predictions([*SPREAD, *SPREAD], confidence=0.9999)},
        [
            "Overconfident",
            "Mean confidence is 99.99 %, accuracy 98.00 %; the expected calibration error is 0.020",
        ],
        ["loss.label_smoothing=0.003"],
    ),
    "overconfident, with label smoothing": Case(
        "miscalibration",
        {
            "val": predictions([*SPREAD, *SPREAD], confidence=0.9999),
            "settings": {"loss.label_smoothing": 0.02},
        },
        ["Overconfident"],
        ["loss.label_smoothing=0.023"],
    ),
    "underconfident": Case(
        "miscalibration",
        {"val": predictions(confidence=0.9), "settings": {"loss.label_smoothing": 0.1}},
        [
            "Underconfident",
            "Mean confidence is 90.00 %, accuracy 99.00 %; the expected calibration error is 0.090",
        ],
        ["loss.label_smoothing=0.085"],
    ),
    "underconfident, without label smoothing": Case(
        "miscalibration",
        {"val": predictions(confidence=0.9)},
        ["Underconfident"],
        ["trainer.max_epochs=16"],
    ),
    "ambiguous images": Case(
        "ambiguous_images",
        {"val": AMBIGUOUS},
        [
            "may be ambiguous or mislabelled",
            "3 validation images have two classes with probabilities above 30 %, and 1 of them are "
            "among the 21 errors. In the training file: 2005 (8 or 9), 2006 (9 or 0), "
            "2004 (8 or 7).",
        ],
        ["data.suspect_folds=5"],
    ),
    "ambiguous images, pooled": Case(
        "ambiguous_images",
        {"val": AMBIGUOUS, "result": {"data": {"pooled": True}}},
        ["In all files, training then test: 2005 (8 or 9), 2006"],
        ["data.suspect_folds=5"],
    ),
    "ambiguous images, in files": Case(
        "ambiguous_images",
        {"val": with_files(AMBIGUOUS)},
        ["Files: 1998.png (8 or 9), 1999.png (9 or 0), 1997.png (8 or 7)."],
        ["data.suspect_folds=5"],
    ),
    "test split harder": Case(
        "split_mismatch",
        {"test": with_accuracy(1950)},
        [
            "Test accuracy is lower than validation accuracy",
            "Validation 99.00 % of 2,000, test 97.50 % of 2,000: 3.6 standard errors apart.",
        ],
        [],
    ),
    "test split easier": Case(
        "split_mismatch",
        {"test": with_accuracy(2000)},
        ["Test accuracy is higher than validation accuracy"],
        [],
    ),
}


@pytest.mark.parametrize("name", FIRING)
def test_check_fires(name):
    check, changes, parts, overrides = FIRING[name]
    finding = diagnosis(**changes).check(check)
    assert finding is not None
    assert finding.overrides == tuple(overrides)
    for part in parts:
        assert part in f"{finding.title}; {finding.evidence}"
    assert finding in findings(**changes)


MAJORITY = (torch.arange(2000) - 1800).clamp(min=0) % 10  # 91 % are of the first class

LEARNING_RATE_TOO_HIGH = ["loss_not_finite", "stopped_learning", "collapsed", "unstable"]
ENDED_TOO_EARLY = ["stopped_too_early", "one_epoch", "still_improving"]
SILENT: dict[str, tuple[list[str], dict[str, Any]]] = {
    "an untrained network after one step": (
        LEARNING_RATE_TOO_HIGH,
        {**UNTRAINED, "rows": metric_rows([2.32], [2.32], [0.1]), "train_size": 63, "steps": 1},
    ),
    "a single rise": (
        LEARNING_RATE_TOO_HIGH,
        {"rows": metric_rows((*TRAIN_LOSS[:-1], 0.05))},
    ),
    "rises of a negligible loss": (
        LEARNING_RATE_TOO_HIGH,
        {"rows": metric_rows([0.1, 0.001, 0.009, 0.001, 0.009, 0.001, 0.009, 0.001])},
    ),
    "chance level, but not above its loss": (
        LEARNING_RATE_TOO_HIGH,
        {
            "val": predictions(GUESSED),
            "rows": metric_rows([2.303, 2.302], [2.3] * 2, [0.1] * 2),
        },
    ),
    "accuracy fluctuates": (
        LEARNING_RATE_TOO_HIGH,
        {"rows": metric_rows(acc=[0.98] * 7 + [0.8])},
    ),
    "warm-up": (
        ["learning_rate_too_low"],
        {"rows": metric_rows([2.2, 0.5, 0.3], [1, 0.4, 0.3], lr=[0.001, 0.01, 0.005])},
    ),
    "few steps per epoch": (
        ["learning_rate_too_low"],
        {"rows": metric_rows([2.2, 2.1, 2.0], [2.2, 2.1, 2.0]), "train_size": 640},
    ),
    "a slow start that went well": (
        ["learning_rate_too_low"],
        {
            "rows": metric_rows(
                [1.3, 0.5, 0.3, 0.2], [0.6, 0.4, 0.28, 0.2], [0.9] * 4, train_acc=0.45
            )
        },
    ),
    "slow, but converged": (
        ["learning_rate_too_low"],
        {"rows": metric_rows([1.3, 0.5, 0.3, 0.29], [0.6, 0.4, 0.28, 0.29])},
    ),
    "a majority class": (
        ["one_class"],
        {"val": split_predictions(9 * torch.eye(10)[MAJORITY], MAJORITY)},
    ),
    "one class often, but mostly correct": (
        ["one_class"],
        {"val": predictions(GUESSED[:600])},
    ),
    "one class after a collapse, which is another finding": (
        ["one_class"],
        FIRING["accuracy collapsed to one class"].changes,
    ),
    "a gap by chance": (
        ["overfitting"],
        {"val": predictions(SPREAD[:12]), "train": Proportion(1997, 2000)},
    ),
    "a gap smaller than half of the error": (
        ["overfitting"],
        {"val": predictions(SPREAD * 10), "train": Proportion(1880, 2000)},
    ),
    "little data, but no gap": (["overfitting"], {"train_size": 5000}),
    "annealed": (
        ENDED_TOO_EARLY,
        {"rows": metric_rows(val=(*VAL_LOSS[:6], 0.05, 0.04), lr=[0.01] * 7 + [0.0001])},
    ),
    "one epoch, annealed": (
        ENDED_TOO_EARLY,
        {"rows": metric_rows([0.3], [0.2], [0.95], lr=[1e-5])},
    ),
    "enough steps": (["too_few_steps"], {**UNTRAINED, "train_size": 63, "steps": 50}),
    "few steps were enough": (["too_few_steps"], {"train_size": 63, "steps": 2}),
    "negligible improvement": (
        ENDED_TOO_EARLY,
        {"rows": metric_rows(val=(*VAL_LOSS[:7], 0.0499))},
    ),
    "stopped after both had converged": (
        ENDED_TOO_EARLY,
        {"result": {"stopped_early": True, "best_epoch": 5}},
    ),
    "not stopped": (ENDED_TOO_EARLY, {"result": {"best_epoch": 8}}),
    "pairs by chance": (
        ["concentrated_errors"],
        {"val": predictions([(4, 9)] * 4 + [(3, 5)] * 2 + [(7, 2)] * 2 + SPREAD[:12])},
    ),
    "few errors": (["concentrated_errors"], {"val": predictions([(4, 9)] * 3)}),
    "negligible calibration error": (
        ["miscalibration"],
        {"val": predictions(confidence=0.9985)},
    ),
    "two ambiguous images": (
        ["ambiguous_images"],
        {"val": predictions(ambiguous=[(0.5, 0.4), (0.5, 0.4)])},
    ),
    "ambiguous images of an inaccurate network": (
        ["ambiguous_images"],
        {"val": predictions(SPREAD * 15, ambiguous=[(0.5, 0.4)] * 5)},
    ),
    "not tested": (["split_mismatch"], {"test": None}),
}


@pytest.mark.parametrize("name", SILENT)
def test_check_is_silent(name):
    checks, changes = SILENT[name]
    assert [diagnosis(**changes).check(check) for check in checks] == [None] * len(checks)


def test_few_errors_show_no_pairs():
    assert diagnosis(val=predictions([(4, 9)] * 19)).check("concentrated_errors") is None
    assert diagnosis(val=predictions([(4, 9)] * 20)).check("concentrated_errors") is not None


def test_enough_data_is_not_called_little():
    changes = {"val": DOUBLED, "train": Proportion(2000, 2000)}
    finding = diagnosis(**changes).check("overfitting")
    assert finding is not None
    assert "per class" not in finding.evidence


def test_a_healthy_run_gets_one_suggestion():
    [finding] = findings(test=with_accuracy(1982))
    assert (finding.kind, finding.overrides) == ("good", ("scheduler=onecycle",))
    assert "99.25 % of training and 99.00 % of validation images" in finding.evidence
    assert findings(settings=SCHEDULED)[0].overrides == ("augment=affine",)
    assert findings(settings={**SCHEDULED, **AUGMENTED})[0].overrides == ("seed=1",)


def test_a_calibrated_network_is_silent():
    generator = torch.Generator().manual_seed(1)
    fired = 0
    for _ in range(200):
        labels = torch.arange(1000) % 10
        wrong = torch.rand(1000, generator=generator) > 0.9
        probabilities = torch.full((1000, 10), 0.1 / 9).double()
        probabilities[torch.arange(1000), (labels + wrong) % 10] = 0.9
        val = split_predictions(probabilities.log(), labels)
        fired += diagnosis(val=val).check("miscalibration") is not None
    assert fired <= 8  # 2 are expected


@pytest.mark.parametrize("classes", [4, 10])
def test_evenly_spread_errors_show_no_pairs(classes):
    generator = torch.Generator().manual_seed(0)
    fired = 0
    for _ in range(100):
        labels = torch.arange(50 * classes) % classes
        predicted = labels.clone()
        wrong = torch.randperm(len(labels), generator=generator)[:40]
        steps = torch.randint(1, classes, (40,), generator=generator)
        predicted[wrong] = (labels[wrong] + steps) % classes
        val = split_predictions(9 * torch.eye(10)[predicted][:, :classes], labels)
        evaluation = synthetic_evaluation(val=val)
        data = {"classes": [str(n) for n in range(classes)], "class_counts": [50] * classes}
        run = replace(evaluation.run, state=evaluation.run.state | {"DigitsDataModule": data})
        finding = Diagnosis(replace(evaluation, run=run)).check("concentrated_errors")
        fired += finding is not None
    assert fired <= 5  # 1 is expected


def test_z_score_by_hand():
    # pooled proportion 0.5, standard error sqrt(0.25 * 2 / 100) = 0.0707
    assert z_score(Proportion(60, 100), Proportion(40, 100)) == pytest.approx(2.828427)
    assert z_score(Proportion(5, 5), Proportion(5, 5)) == 0.0


def test_stuck_training_is_the_only_finding():
    found = findings(**FIRING["stuck"].changes)
    assert [finding.title for finding in found] == ["Learning rate too low"]


def test_too_few_steps_are_the_only_finding(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changed = ["data.batch_size=4", "optimizer.lr=0.1", "trainer.max_epochs=3", "augment=noise"]
    kept = ["data=folder", "data.root=DIR", "model.num_classes=3", "seed=1"]
    run_folder(tmp_path, [*kept, *changed, "experiment=best", "callbacks.early_stopping=null"])
    evaluation = synthetic_evaluation(**UNTRAINED, train_size=63, steps=2)
    [finding] = diagnose(evaluation)
    command = f"lenet-pl train {' '.join(kept)} experiment=small"
    assert finding.command == command
    run_folder(tmp_path, ["experiment=small"])  # it is used already
    [finding] = diagnose(evaluation)
    assert finding.overrides == ("data.batch_size=16",)


def test_experiment_small_sets_what_its_command_leaves_out():
    recipe = yaml.safe_load((ROOT / "conf" / "experiment" / "small.yaml").read_text())
    groups = [key.removeprefix("override /") for item in recipe.pop("defaults") for key in item]
    for key in [*groups, *flatten(recipe)]:
        assert {key, key.partition(".")[0]} & SMALL, key


def test_a_single_predicted_class_is_the_only_finding():
    found = findings(**FIRING["one class"].changes)
    assert [f.title for f in found] == ["Predicts 0 for almost everything: barely trained"]
    found = findings(**FIRING["accuracy collapsed to one class"].changes)
    assert len(found) == 1


def test_a_collapse_comes_first():
    collapsed = metric_rows([0.4, 0.2, 0.15, 0.14], [0.3, 0.2, 0.5, 1.6], [0.9, 0.98, 0.95, 0.7])
    found = findings(val=predictions(PAIRS), rows=collapsed)
    assert found[0].title == "Learning rate too high: accuracy collapsed during training"
    assert len(found) > 1


def test_overrides_are_suggested_once():
    errors = [*SPREAD, *SPREAD, *[(4, 9)] * 30]
    evaluation = synthetic_evaluation(**{**OVERFIT, "val": predictions(errors)})
    first, second = diagnose(evaluation)[:2]
    concentrated = Diagnosis(evaluation).check("concentrated_errors")
    assert concentrated is not None
    assert concentrated.overrides == first.overrides == ("augment=affine",)
    assert (second.title, second.advice, second.overrides) == (concentrated.title, "As above.", ())
    assert second.command == ""
    assert first.command.endswith("augment=affine")


def run_folder(parent: Path, overrides: list[str], mode: str = "RUN") -> Path:
    """A run folder with Hydra's files."""
    hydra = parent / "outputs" / "runs" / "d" / "t" / ".hydra"
    hydra.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(overrides, hydra / "overrides.yaml")
    (hydra / "hydra.yaml").write_text(f"hydra:\n  mode: {mode}\n")
    return Path("outputs/runs/d/t")


def test_a_command_repeats_the_run_with_the_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_folder(tmp_path, ["data=mini", "optimizer.lr=0.01", "data.batch_size=64"])
    improving = metric_rows(val=(*VAL_LOSS[:6], 0.05, 0.045))
    evaluation = synthetic_evaluation(rows=improving)

    def command(*overrides: str, resume: bool = False) -> str:
        return Diagnosis(evaluation).command(overrides, resume)

    own = "lenet-pl train data=mini"
    assert command("optimizer.lr=0.1") == f"{own} data.batch_size=64 optimizer.lr=0.1"
    rest = "optimizer.lr=0.01 data.batch_size=64"
    assert command("augment=affine") == f"{own} {rest} augment=affine"
    assert command("data=mnist") == f"lenet-pl train {rest} data=mnist"  # the batch size stays
    assert command("optimizer=adam") == f"{own} data.batch_size=64 optimizer=adam"
    longer = command("trainer.max_epochs=16", resume=True)
    assert longer == "lenet-pl train resume=outputs/runs/d/t trainer.max_epochs=16"
    finding = Diagnosis(evaluation).check("still_improving")
    assert finding is not None
    assert finding.command == longer
    run_folder(tmp_path, ["data=mini", *rest.split()], mode="MULTIRUN")  # a sweep's job
    finding = Diagnosis(evaluation).check("still_improving")
    assert finding is not None
    assert finding.command == f"{own} {rest} trainer.max_epochs=16"
    run_folder(tmp_path, ["data.root=my data"])
    assert command("seed=1") == "lenet-pl train 'data.root=my data' seed=1"


SUGGESTIONS = {tuple(case.overrides) for case in FIRING.values()}
SUGGESTIONS |= {("scheduler=onecycle",), ("augment=affine",), ("seed=1",)}  # of a healthy run


@pytest.mark.parametrize("overrides", sorted(SUGGESTIONS), ids=str)
def test_suggested_overrides_are_valid(overrides):
    check(compose_config("run_dir=run", *overrides))

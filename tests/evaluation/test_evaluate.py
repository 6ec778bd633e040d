"""Images to evaluate on, evaluated runs, and the test of a sweep's winner."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.runs import FAST, result
from omegaconf import OmegaConf

from lenet_pl.errors import ConfigError, DataError
from lenet_pl.evaluation import evaluate
from lenet_pl.evaluation.evaluate import evaluate_run, predict_other, predict_split
from lenet_pl.evaluation.predict import open_model
from lenet_pl.runs import open_run

SOURCES = {
    "mnist": "lenet_pl.data.mnist.MNIST",
    "mini": "lenet_pl.data.mnist.Mini",
    "kmnist": "lenet_pl.data.mnist.KMNIST",
}


def edit_result(run: Path, **changes: object) -> None:
    (run / "result.json").write_text(json.dumps(result(run) | changes))


def edit_data_state(run: Path, **changes: object) -> None:
    state = torch.load(run / "checkpoints" / "best.ckpt")
    state["DigitsDataModule"] |= changes
    torch.save(state, run / "checkpoints" / "best.ckpt")


def without_test_metrics(run: Path) -> dict[str, float]:
    """Remove the test metrics from a run as from a sweep's job; returns them."""
    metrics = result(run)["metrics"]
    removed = {key: metrics.pop(key) for key in [*metrics] if key.startswith("test/")}
    edit_result(run, metrics=metrics)
    return removed


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_metrics_equal_those_of_training_in_other_precisions(
    composed, lenet_pl, tmp_path, precision
):
    from lenet_pl.training import train

    overrides = [*FAST, f"trainer.precision={precision}", "trainer.max_epochs=1", "logger=none"]
    cfg = composed(*overrides, "trainer.limit_train_batches=20")
    train(cfg)
    (tmp_path / "run" / ".hydra").mkdir(exist_ok=True)
    OmegaConf.save(cfg, tmp_path / "run" / ".hydra" / "config.yaml")
    assert json.loads(lenet_pl("test", "run", "--json")[1])["reported"]["same"]


@pytest.mark.parametrize(
    ("own", "pooled", "split", "note"),
    [
        ("mini", [7, 2, 1], "test", "the run pooled training and test images"),
        ("mnist", [7, 2, 1], "test", "the run pooled training and test images"),
        ("mnist", None, "train", "these are training images of the run's own data set"),
        ("mini", None, "train", "these are training images of the run's own data set"),
        ("mnist", None, "test", None),
        ("mini", None, "test", None),
        ("kmnist", [7, 2, 1], "test", None),
    ],
)
def test_images_that_the_run_was_trained_on_are_noted(configured, own, pooled, split, note):
    copy = configured(data__source___target_=SOURCES[own], data__split=pooled)
    run = open_model(str(copy))
    notes = predict_other(run, "mini", split, "nowhere").notes
    assert len(notes) == (note is not None)
    assert all(item.startswith(note) for item in notes)
    assert all("was trained on" in item for item in notes)


@pytest.mark.parametrize(
    ("folder", "pooled", "noted"),
    [("train", None, True), ("test", None, False), ("test", [7, 2, 1], True), ("", None, True)],
)
def test_a_folder_that_the_run_was_trained_on_is_noted(
    configured, images, tmp_path, folder, pooled, noted
):
    path = images.rename(tmp_path / folder) if folder else images
    next(path.rglob("cut.png")).unlink()
    root = tmp_path if folder else images
    source = {"_target_": "lenet_pl.data.folder.Folder"}
    copy = configured(data__source=source, data__root=str(root), data__split=pooled)
    run = open_model(str(copy))
    notes = predict_other(run, str(path), "test", "nowhere").notes
    assert bool(notes) == noted


def test_an_empty_split_is_an_error(run):
    opened = open_run(str(run))
    data = opened.data()
    nothing = torch.empty(0)
    data.splits["test"] = replace(data.splits["test"], images=nothing, labels=nothing)
    with pytest.raises(DataError, match="--split test: mini has no test images"):
        predict_split(opened, "test", data)


def test_an_evaluated_run(run):
    evaluation = evaluate_run(open_run(str(run)))
    saved = result(run)
    assert evaluation.shown is evaluation.test
    for predictions in (evaluation.val, evaluation.test):
        assert predictions.accuracy.value == saved["metrics"][f"{predictions.split}/acc"]
        assert torch.equal(predictions.predicted, predictions.logits.argmax(1))
        assert torch.equal(predictions.correct, predictions.predicted == predictions.labels)
    assert (evaluation.val.meaning, evaluation.test.meaning) == ("validation", "test")
    assert evaluation.run.epoch == saved["best_epoch"]
    assert len(evaluation.rows) == saved["epochs"]
    assert evaluation.train.total == len(evaluation.val.labels)
    assert evaluation.train.value > 0.9
    assert (evaluation.run.pooled, evaluation.overrides) == (False, [])
    overrides = ["data=mini", "hydra.run.dir=x", "sweep=seeds", "ckpt_path=y", "seed=1"]
    OmegaConf.save(overrides, run / ".hydra" / "overrides.yaml")
    assert evaluation.overrides == ["data=mini", "seed=1"]
    (run / ".hydra" / "overrides.yaml").unlink()


def test_a_run_is_not_tested_by_its_evaluation(run, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    without_test_metrics(copy)
    predicted = []

    def predict(run, network, images):
        predicted.append(images)
        return original(run, network, images)

    original = evaluate.predict
    monkeypatch.setattr(evaluate, "predict", predict)
    evaluation = evaluate_run(open_run(str(copy)))
    assert evaluation.test is None
    assert evaluation.shown is evaluation.val
    test = evaluation.data.splits["test"].images
    assert len(predicted) == 2  # a sample of training images, and validation
    assert not any(torch.equal(images, test) for images in predicted)


def test_other_weights_of_a_tested_run_are_not_tested(run):
    opened = open_run(str(run))
    earlier = replace(opened, state={**opened.state, "epoch": opened.state["epoch"] - 1})
    assert evaluate_run(earlier).test is None


def test_runs_that_cannot_be_evaluated(run, tmp_path):
    data = open_run(str(run)).data()
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    edit_data_state(copy, digest="0" * 64)
    for given in (None, data):  # data of another run is used for the same data only
        with pytest.raises(
            DataError, match=r"differs from the run.s \(digest\).*has changed since"
        ):
            evaluate_run(open_run(str(copy)), given)
    (copy / "metrics.csv").write_text("epoch,lr,train/loss,seconds\n1,0.1,2.0,3\n")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"metrics\.csv: missing or damaged"):
            evaluate_run(open_run(str(copy)))
        (copy / "metrics.csv").unlink(missing_ok=True)


def test_the_winner_of_a_sweep_is_tested_once(run, tmp_path):
    jobs = [Path(shutil.copytree(run, tmp_path / name)) for name in ("0", "1")]
    expected = [without_test_metrics(job) for job in jobs]
    edit_data_state(jobs[1], split_digest="another")
    before = [result(job) for job in jobs]
    with pytest.raises(DataError, match="has changed since"):
        evaluate.test_winner(jobs)
    assert [result(job) for job in jobs] == before  # all are tested, or none
    edit_data_state(
        jobs[1], split_digest=open_run(str(run)).state["DigitsDataModule"]["split_digest"]
    )
    evaluate.test_winner(jobs)
    for job, metrics, earlier in zip(jobs, expected, before, strict=True):
        assert result(job) == earlier | {"metrics": earlier["metrics"] | metrics}
        assert list(result(job)) == list(earlier)
    shutil.rmtree(jobs[0] / "checkpoints")  # needed only to test
    evaluate.test_winner(jobs)

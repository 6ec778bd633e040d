"""How good a run is: the figures against others' arithmetic, and the command."""

import csv
import json
import shutil
from math import comb, exp, log
from pathlib import Path

import pytest
import torch
from helpers.runs import FAST
from helpers.tutorial import TutorialLeNet
from omegaconf import OmegaConf
from PIL import Image

from lenet_pl import metrics as evaluate
from lenet_pl.data.mnist import Mini
from lenet_pl.data.preprocess import prepare
from lenet_pl.data.split import stratified_split
from lenet_pl.evaluation import robustness as robust
from lenet_pl.evaluation.images import other
from lenet_pl.evaluation.loading import open_model
from lenet_pl.evaluation.predict import predict


@pytest.fixture
def scored() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of 200 images of four classes, and labels; nothing is taken for class 3."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 4, generator=rng) * 2
    logits[:, 3] = -50
    return logits, torch.randint(0, 4, (200,), generator=rng)


def softmax(row: list[float]) -> list[float]:
    weights = [exp(value) for value in row]
    return [weight / sum(weights) for weight in weights]


def test_confusion_precision_recall_f1_by_counting(scored):
    logits, labels = scored
    predicted = [row.index(max(row)) for row in logits.tolist()]
    pairs = list(zip(labels.tolist(), predicted, strict=True))
    matrix = evaluate.confusion_matrix(logits, labels)
    for label in range(4):
        assert matrix[label].tolist() == [pairs.count((label, other)) for other in range(4)]
    for c, found in enumerate(evaluate.per_class_scores(matrix)):
        right = sum(label == guess == c for label, guess in pairs)
        taken, support = predicted.count(c), labels.tolist().count(c)
        precision = right / taken if taken else 0.0
        recall = right / support
        f1 = 2 * precision * recall / (precision + recall) if right else 0.0
        assert found == (precision, recall, pytest.approx(f1), support)
    assert evaluate.per_class_scores(matrix)[3] == (0.0, 0.0, 0.0, labels.tolist().count(3))


def test_a_class_of_no_images_scores_nothing():
    scores = evaluate.per_class_scores(torch.tensor([[2, 0], [0, 0]]))
    assert scores == [(1.0, 1.0, 1.0, 2), (0.0, 0.0, 0.0, 0)]


def test_likelihood_by_hand(scored):
    logits, labels = scored
    rows = zip(logits.tolist(), labels.tolist(), strict=True)
    expected = -sum(log(softmax(row)[label]) for row, label in rows) / 200
    assert evaluate.negative_log_likelihood(logits, labels) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_by_hand(scored, bins):
    logits, labels = scored
    members: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        shares = softmax(row)
        best = max(shares)
        place = next(m for m in range(bins) if m / bins < best <= (m + 1) / bins)
        members[place].append((best, shares.index(best) == label))
    found = evaluate.calibration(logits, labels, bins)
    assert found.edges.tolist() == [m / bins for m in range(bins + 1)]
    assert found.counts.tolist() == [len(group) for group in members]
    error = 0.0
    for m, group in enumerate(members):
        mean = sum(best for best, _ in group) / max(1, len(group))
        share = sum(right for _, right in group) / max(1, len(group))
        assert found.confidence[m].item() == pytest.approx(mean, rel=1e-12)
        assert found.accuracy[m].item() == share
        error += len(group) / 200 * abs(mean - share)
    assert evaluate.expected_calibration_error(logits, labels, bins) == pytest.approx(error)


def test_full_confidence_falls_into_the_last_bin():
    logits = torch.tensor([[1000.0, 0.0], [0.0, 0.0]])
    found = evaluate.calibration(logits, torch.tensor([0, 1]), bins=4)
    assert found.counts.tolist() == [0, 1, 0, 1]  # 1/2 belongs to the bin that it closes
    assert evaluate.expected_calibration_error(logits, torch.tensor([0, 1]), 4) == 0.25


@pytest.mark.parametrize("only_a, only_b", [(0, 0), (0, 5), (3, 9), (8, 8), (40, 25)])
def test_mcnemar_by_the_binomial(only_a, only_b):
    a = torch.tensor([True] * only_a + [False] * only_b + [True, False, True])
    b = torch.tensor([False] * only_a + [True] * only_b + [True, False, True])
    n = only_a + only_b
    tail = sum(comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
    assert evaluate.mcnemar(a, b) == evaluate.mcnemar(b, a) == min(1.0, 2 * tail)


def test_mcnemar_of_ten_thousand_disagreements():
    a = torch.arange(20_000) < 10_000
    assert evaluate.mcnemar(a, ~a) == 1.0
    assert evaluate.mcnemar(a, torch.zeros_like(a)) == 0.0  # 2 ** -9,999


def test_logits_are_those_of_the_network_in_batches():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    images = torch.rand(7, 1, 2, 2)
    found = evaluate.predict_logits(net, images, batch_size=3)
    assert found.shape == (7, 3) and not found.requires_grad
    assert torch.allclose(found, net(images))


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory) -> Path:
    """A finished run that may be written into."""
    return shutil.copytree(trained, tmp_path_factory.mktemp("tested") / "run")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("split", ["test", "val"])
def test_equals_what_training_reported(lenet_pl, run, split):
    status, said, errors = lenet_pl("test", run, "--split", split, "--json")
    answer = json.loads(said)
    reported = json.loads((run / "result.json").read_text())["metrics"]
    assert (status, errors) == (0, "")
    assert answer["accuracy"] == reported[f"{split}/acc"]
    assert answer["loss"] == reported[f"{split}/loss"]
    assert answer["reported"] == {
        "acc": answer["accuracy"],
        "loss": answer["loss"],
        "same": True,
    }
    if split == "test":
        assert (answer["low"], answer["high"]) == (
            reported["test/acc_low"],
            reported["test/acc_high"],
        )


def test_predictions_hold_every_figure(lenet_pl, run):
    answer = json.loads(lenet_pl("test", run, "--split", "val", "--json")[1])
    assert answer["predictions"] == str(run / "predictions-val.csv")
    table = rows(run / "predictions-val.csv")
    official = Mini().load().train
    _, aside = stratified_split(official.labels, [1000], 0)
    assert [int(row["index"]) for row in table] == aside.tolist()
    assert all(int(row["label"]) == official.labels[int(row["index"])] for row in table)
    pairs = [(int(row["label"]), int(row["prediction"])) for row in table]
    assert answer["matrix"] == [[pairs.count((a, b)) for b in range(10)] for a in range(10)]
    for c, found in enumerate(answer["scores"]):
        taken = [label for label, guess in pairs if guess == c]
        meant = [guess for label, guess in pairs if label == c]
        assert found["precision"] == taken.count(c) / len(taken)
        assert found["recall"] == meant.count(c) / len(meant)
    shares = [[float(row[f"p({c})"]) for c in range(10)] for row in table]
    for row, (_, guess), all_of_them in zip(table, pairs, shares, strict=True):
        assert all_of_them[guess] == max(all_of_them) == float(row["confidence"])
        assert sum(all_of_them) == pytest.approx(1)
    nll = -sum(log(row[label]) for row, (label, _) in zip(shares, pairs, strict=True)) / 1000
    assert answer["nll"] == pytest.approx(nll, rel=1e-7)


def test_what_a_person_reads(lenet_pl, run):
    status, said, _ = lenet_pl("test", run)
    assert status == 0
    for words in ("1,000 images of test", "95 % interval", "training said   the same", "recall"):
        assert words in said
    assert str(run / "predictions.csv") in said


def test_last_weights_are_not_mixed_up_with_the_best(lenet_pl, run):
    answer = json.loads(lenet_pl("test", run / "checkpoints" / "last.ckpt", "--json")[1])
    assert answer["predictions"] == str(run / "last-predictions.csv")
    assert answer["epoch"] == 6 and answer["reported"] is None


def test_best_pth_knows_the_run_it_lies_in(lenet_pl, run):
    answer = json.loads(lenet_pl("test", run / "best.pth", "--json")[1])
    assert answer["reported"]["same"]


def test_pooled_and_changed_data_are_told(lenet_pl, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    result = json.loads((copy / "result.json").read_text())
    result["data"]["pooled"] = True
    (copy / "result.json").write_text(json.dumps(result))
    state = torch.load(copy / "checkpoints" / "best.ckpt")
    state["DigitsDataModule"]["digest"] = "another"
    torch.save(state, copy / "checkpoints" / "best.ckpt")
    said = lenet_pl("test", copy)[1]
    assert "pooled: test images come from the official training set too" in said
    assert "the data has changed since" in said


@pytest.fixture
def pictures(tmp_path) -> Path:
    """The first 40 test digits as PNG in class folders, and one that is cut off."""
    test = Mini().load().test
    for i in range(40):
        place = tmp_path / "mine" / str(test.labels[i].item())
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - test.images[i, 0].numpy()).resize((84, 84)).save(place / f"{i}.png")
    whole = (place / f"{i}.png").read_bytes()
    (place / "cut.png").write_bytes(whole[: len(whole) // 2])
    return tmp_path / "mine"


def test_a_folder_of_pictures(lenet_pl, run, pictures):
    status, said, _ = lenet_pl("test", run, "--data", pictures, "--json")
    answer = json.loads(said)
    assert (status, answer["images"], answer["data"]) == (0, 40, "mine")
    assert answer["accuracy"] >= 0.9
    assert [note.partition(":")[2] for note in answer["notes"]] == [
        " a damaged picture: image file is truncated"
    ]
    table = rows(run / "predictions-mine.csv")
    assert all(Path(row["file"]).parts[0] == row["label"] for row in table)
    (pictures / "ten").mkdir()
    status, said, errors = lenet_pl("test", run, "--data", pictures)
    assert (status, said) == (2, "")
    assert "the network does not know ten; its classes are 0, 1" in errors


def test_weights_of_the_tutorial_s_script(lenet_pl, run, tmp_path):
    shutil.copy(run / "best.pth", tmp_path / "lenet_mnist_best.pth")
    words = ["lenet_mnist_best.pth", "--model", "lenet", "--data", "mini", "--json"]
    status, said, _ = lenet_pl("test", *words)
    net = TutorialLeNet().eval()
    net.load_state_dict(torch.load(tmp_path / "lenet_mnist_best.pth"))
    test = Mini().load().test
    with torch.no_grad():
        right = net(test.images / 255).argmax(1) == test.labels
    answer = json.loads(said)
    assert status == 0
    assert answer["accuracy"] == right.double().mean().item()
    assert answer["predictions"] == "lenet_mnist_best-predictions-mini.csv"
    assert len(rows(tmp_path / answer["predictions"])) == 1000
    status, _, errors = lenet_pl("test", "lenet_mnist_best.pth")
    assert status == 2 and "say what network these weights are of: --model lenet" in errors


class Trap:
    def __reduce__(self):
        return Path.touch, (Path("sprung"),)


def test_weights_that_cannot_be_trusted_or_used(lenet_pl, run, tmp_path):
    torch.save({"conv1.weight": Trap()}, tmp_path / "trap.pth")
    torch.save({"layers.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "nothing.pth").touch()
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "checkpoint.pth")
    torch.save(TutorialLeNet(), tmp_path / "module.pth")
    for name, told in [
        ("trap.pth", "with code inside, which is not run"),
        ("other.pth", "not the weights of --model lenet"),
        ("list.pth", "not a state dict"),
        ("nothing.pth", "an empty file"),
        ("checkpoint.pth", "a checkpoint, with the weights under 'state_dict'"),
        ("module.pth", "a pickled object with code inside, which is not run"),
        ("text.pth", "not a state dict"),
        ("none.pth", "there is no such file"),
        (run, "is a folder"),
    ]:
        status, said, errors = lenet_pl("test", name, "--model", "lenet")
        assert (status, said) == (2, "")
        assert errors.startswith("error: ") and told in errors and errors.count("\n") == 1
    assert not (tmp_path / "sprung").exists()
    status, _, errors = lenet_pl("test", "other.pth", "--model", "resnet")
    assert (status, errors) == (
        2,
        "error: --model resnet: no such network; choose from lenet\n",
    )


def test_runs_that_are_none(lenet_pl, run, tmp_path):
    shutil.copytree(run, tmp_path / "unfinished", ignore=shutil.ignore_patterns("*.ckpt"))
    trap = shutil.copytree(run, tmp_path / "trap")
    torch.save({"state_dict": Trap()}, trap / "checkpoints" / "best.ckpt")
    (tmp_path / "stray.ckpt").touch()
    for name, told in [
        ("nowhere", "there is no such folder"),
        ("latest", "outputs/runs holds no run"),
        ("stray.ckpt", "no run folder"),
        ("unfinished", "no finished epoch"),
        ("trap", "with code inside, which is not run"),
    ]:
        status, said, errors = lenet_pl("test", name)
        assert (status, said) == (2, "")
        assert errors.startswith("error: ") and told in errors and errors.count("\n") == 1
    assert not (tmp_path / "sprung").exists()


def test_data_that_is_none(lenet_pl, run, tmp_path):
    (tmp_path / "empty").mkdir()
    for words, told in [
        (["--data", "nothing"], "neither a folder nor a data set; choose from mini, mnist"),
        (["--data", "empty"], "no picture in a folder named after one of its classes"),
        (["--data", "mini", "--split", "val"], "mini has none of its own"),
    ]:
        status, said, errors = lenet_pl("test", run, *words)
        assert (status, said) == (2, "") and told in errors


def test_robustness_is_measured_on_seeded_copies(lenet_pl, run):
    images = Mini().load().test.images
    first, second = (dict(robust.variants(images)) for _ in range(2))
    assert list(first) == list(robust.CHANGES)
    for name, copies in first.items():
        assert torch.equal(copies, second[name]) and copies.dtype == torch.uint8
        assert copies.shape == images.shape and not torch.equal(copies, images)
    moved = first["shifted by 2 pixels"]
    places = [(2, 3), (-2, 3), (2, 2), (-2, 2)]  # few digits reach the outermost two pixels
    same = torch.stack([(images.roll(*to) == moved).flatten(1).all(1) for to in places])
    assert same.any(0).double().mean() > 0.95 and same.sum(1).min() > 200
    answer = json.loads(lenet_pl("test", run, "--robust", "--json")[1])
    found = {row["images"]: row["accuracy"] for row in answer["robust"]}
    assert found["rotated by 30°"] < found["rotated by 15°"] < answer["accuracy"]
    assert found["noise, σ 30 %"] < answer["accuracy"]


def test_mixed_precision_is_kept(composed, lenet_pl, tmp_path):
    from lenet_pl.training import train

    words = [*FAST, "trainer.precision=bf16-mixed", "trainer.max_epochs=1", "logger=none"]
    cfg = composed(*words, "trainer.limit_train_batches=20")
    train(cfg)
    (tmp_path / "run" / ".hydra").mkdir()
    OmegaConf.save(cfg, tmp_path / "run" / ".hydra" / "config.yaml")
    assert json.loads(lenet_pl("test", "run", "--json")[1])["reported"]["same"]


def configured(run: Path, to: Path, **changes: object) -> Path:
    """A copy of a run that says it was trained on other data."""
    copy = Path(shutil.copytree(run, to))
    cfg = OmegaConf.load(copy / ".hydra" / "config.yaml")
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value)
    OmegaConf.save(cfg, copy / ".hydra" / "config.yaml")
    return copy


SOURCES = {"mnist": "sources.MNIST", "mini": "sources.Mini", "kmnist": "mnist_like.KMNIST"}


@pytest.mark.parametrize(
    ("own", "pooled", "split", "told"),
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
def test_images_that_were_trained_on_are_told(run, tmp_path, own, pooled, split, told):
    source = f"lenet_pl.data.{SOURCES[own]}"
    copy = configured(run, tmp_path / "copy", data__source___target_=source, data__split=pooled)
    notes = other("mini", split, open_model(str(copy)), "nowhere").notes
    assert len(notes) == (told is not None)
    assert all(note.startswith(told) and "was trained on" in note for note in notes)


@pytest.mark.parametrize(
    ("place", "pooled", "told"),
    [("train", None, True), ("test", None, False), ("test", [7, 2, 1], True), ("", None, True)],
)
def test_a_run_s_own_folder_is_told_too(run, pictures, tmp_path, place, pooled, told):
    mine = pictures if not place else pictures.rename(tmp_path / place)
    (next(mine.rglob("cut.png"))).unlink()
    root = pictures if not place else tmp_path
    changes = {"data__source": {"_target_": "lenet_pl.data.folder.Folder"}}
    copy = configured(run, tmp_path / "copy", **changes, data__root=str(root), data__split=pooled)
    notes = other(str(mine), "test", open_model(str(copy)), "nowhere").notes
    assert bool(notes) == told


def test_pictures_are_prepared_as_the_run_s_own(run, tmp_path):
    """The same by ``test --data FOLDER`` and ``predict``; where told, predict is told."""
    file = tmp_path / "mine" / "7" / "0.png"
    file.parent.mkdir(parents=True)
    image = Image.fromarray(Mini().load().test.images[0, 0].numpy()).resize((60, 90))
    image.save(file)
    folder = "lenet_pl.data.folder.Folder"
    for target, options, invert, centre in [
        ("lenet_pl.data.mnist.Mini", {}, "auto", "auto"),
        ("lenet_pl.data.mnist_like.FashionMNIST", {}, "auto", False),
        (folder, {"invert": False, "centre": "auto"}, False, "auto"),
        (folder, {"invert": True, "centre": False}, True, False),
    ]:
        copy = configured(run, tmp_path / "copy", data__source={"_target_": target, **options})
        subject = open_model(str(copy))
        assert subject.preparation == (invert, centre)
        expected = prepare(image, invert=invert, centre=centre)
        assert torch.equal(
            other(str(file.parents[1]), "", subject, "").labelled.images[0], expected
        )
        assert torch.equal(predict(subject, [str(file)])[0][0].image, expected)
        told = predict(subject, [str(file)], False)[0][0].image
        assert torch.equal(told, prepare(image, invert=False, centre=centre))
        shutil.rmtree(copy)

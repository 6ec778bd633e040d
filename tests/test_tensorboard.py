"""What TensorBoard shows of a run, in a browser."""

from pathlib import Path

import pytest
from helpers.board import Board, lines_in, open_board, table
from helpers.commands import Running
from helpers.runs import FAST, result

pytestmark = pytest.mark.slow
SHORT = [*FAST, "data.fraction=0.1", "trainer.max_epochs=2", "test=false"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    done = Running(*SHORT, "hydra.run.dir=run", cwd=folder).wait()
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def board(run):
    with open_board(run) as board:
        yield board


def test_accuracy_and_loss_come_first(board: Board):
    page = board.open("timeseries")  # the tab that TensorBoard opens
    groups = page.locator("metrics-card-group-toolbar .group-title")
    groups.nth(4).wait_for()
    assert groups.all_inner_texts() == ["acc", "loss", "other", "plots", "val_best"]
    cards = page.locator("card-view")
    cards.locator("canvas, path").nth(3).wait_for()
    shown = [text.replace("\n", "") for text in cards.locator(".tag").all_inner_texts()]
    assert shown == ["acc/train", "acc/val", "loss/train", "loss/val"]

    page = board.open("scalars")
    cards = page.locator("tf-scalar-card")
    assert lines_in(cards, 4) == [2] * 4  # smoothed or not
    tags = [text.strip() for text in cards.locator(".heading-label span").all_inner_texts()]
    assert tags == ["acc/train", "acc/val", "loss/train", "loss/val"]
    names = page.locator("tf-category-paginated-view .category-name").all_inner_texts()
    assert names == ["acc", "loss", "other", "val_best"]


def test_training_and_validation_in_one_chart(board: Board):
    page = board.open("custom_scalars")
    cards = page.locator("tf-custom-scalar-multi-line-chart-card")
    assert lines_in(cards, 2) == [4] * 2
    assert cards.locator(".heading-label").all_inner_texts() == ["accuracy", "loss"]
    for card, metric in zip(cards.all(), ("acc", "loss"), strict=True):
        entries = card.locator(".match-list-entry").all_text_contents()
        assert sorted(" ".join(entry.split()[1:]) for entry in entries) == [
            f"{metric}/train (.)",
            f"{metric}/val (.)",
        ]


def test_images_of_errors_come_first(board: Board):
    page = board.open("images")
    images = page.locator("tf-image-loader img")
    images.nth(3).wait_for()
    names = ("confusion", "misclassified", "training images", "weights of the first layer")
    titles = page.locator("tf-image-loader .name").all_inner_texts()
    assert titles == [f"plots/{name}" for name in names]
    page.wait_for_function("image => image.naturalWidth", arg=images.nth(0).element_handle())
    box = images.nth(0).bounding_box()
    assert box
    assert box["width"] == 350  # for which the sizes of text are chosen


def test_the_best_epoch_in_hparams(board: Board, run: Path):
    [row] = table(board)
    for name in ("acc", "loss", "balanced_acc"):
        value = result(run)["metrics"][f"val/{name}"]
        assert float(row[f"val_best/{name}"]) == pytest.approx(value, rel=1e-4)

"""What TensorBoard shows of a sweep, in a browser."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.board import lines_in, open_board, table
from helpers.sweeps import SHORT, read_results


@pytest.mark.slow
def test_jobs_are_listed_by_what_varied(run_sweep: Callable[..., int], tmp_path: Path) -> None:
    sweep = [*SHORT, "logger=tensorboard", "optimizer.lr=0.02,0.05", "hydra.sweep.dir=s"]
    assert run_sweep("-m", *sweep) == 0
    results = read_results(tmp_path / "s")
    with open_board(tmp_path / "s") as board:
        rows = table(board)
        cards = board.open("scalars").locator("tf-scalar-card")
        assert lines_in(cards, 4) == [len(rows) * 2] * 4  # smoothed or not
    names = ["Trial ID", "lr", "val_best/acc", "val_best/balanced_acc", "val_best/loss"]
    assert list(rows[0]) == names
    assert [row["Trial ID"] for row in rows] == ["0/lr 0.02", "1/lr 0.05"]
    for row, job, lr in zip(rows, "01", (0.02, 0.05), strict=True):
        assert float(row["lr"]) == lr
        for name in ("acc", "loss"):
            value = results[job]["metrics"][f"val/{name}"]
            assert float(row[f"val_best/{name}"]) == pytest.approx(value, rel=1e-4)

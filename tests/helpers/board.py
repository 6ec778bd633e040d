"""TensorBoard in a headless Chromium.

``PYTHONPATH=tests python -m helpers.board SWEEP RUN`` draws ``docs/tensorboard*.png``.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page

from helpers.chromium import launch

# the first answer has all data, since they are read before the server starts
OPTIONS = ("--port=0", "--load_fast=false", "--reload_task=blocking", "--reload_interval=0")


class Board:
    """TensorBoard of a folder: the page that shows it, and its tabs."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url

    def open(self, tab: str) -> Page:
        """Load a tab, such as ``custom_scalars``, anew."""
        self.page.goto(f"{self.url}?{tab}#{tab}")
        return self.page


@contextmanager
def open_board(folder: Path, height: int = 1100) -> Iterator[Board]:
    """Serve a folder with runs, and open it in a page 1280 pixels wide."""
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={folder}", *OPTIONS]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr
        found = (re.search(r"http://\S+", line) for line in server.stderr)
        url = next(match[0] for match in found if match)
        viewport = {"width": 1280, "height": height}
        with launch() as open_page, open_page(viewport=viewport) as page:
            page.set_default_timeout(60_000)
            yield Board(page, url)
    finally:
        server.kill()
        server.wait()


def lines_in(cards: Locator, count: int) -> list[int]:
    """How many lines each of ``count`` charts has, once all are drawn."""
    cards.nth(count - 1).locator("path.line").first.wait_for(state="attached")
    for card in cards.all():
        card.locator("path.line").first.wait_for(state="attached")
    return [card.locator("path.line").count() for card in cards.all()]


def table(board: Board) -> list[dict[str, str]]:
    """The rows of HParams, by column."""
    page = board.open("hparams")
    cells = page.locator("tf-hparams-table-view .table-cell")
    cells.filter(has_text="val_best/loss").wait_for()
    page.wait_for_function(
        "cell => cell.textContent.trim()", arg=cells.last.element_handle(), timeout=60_000
    )
    texts = [text.strip() for text in cells.all_inner_texts()]
    columns = page.locator("tf-hparams-table-view .table-header").all_inner_texts()
    values = [text for text in texts[len(columns) :] if text]
    columns.remove("Show Metrics")  # a box
    rows = (values[n : n + len(columns)] for n in range(0, len(values), len(columns)))
    return [dict(zip(columns, row, strict=True)) for row in rows]


def main(sweep: str, run: str) -> None:
    """Draw the curves of a sweep and the images of a run, without what is empty."""
    with open_board(Path(sweep), 1230) as board:
        page = board.open("timeseries")
        page.get_by_role("button", name="Toggle settings side pane").click()
        page.wait_for_timeout(5000)  # until charts and tables have their final size
        page.screenshot(path="docs/tensorboard.png")
    with open_board(Path(run)) as board:
        page = board.open("images")
        page.locator("tf-image-loader img").nth(3).wait_for()
        page.wait_for_timeout(5000)
        area: Any = {"x": 330, "y": 125, "width": 760, "height": 600}
        page.screenshot(path="docs/tensorboard-images.png", clip=area)


if __name__ == "__main__":
    main(*sys.argv[1:])

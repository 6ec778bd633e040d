"""A report in a browser without a network."""

import re
from pathlib import Path

import pytest

from lenet_pl.report.page import CELL_IMAGES, write_report


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "viewport", [{"width": 1280, "height": 900}, {"width": 390, "height": 664}]
)
def test_cells_of_the_confusion_matrix_show_their_images(first, open_page, viewport):
    path = Path(write_report(first)["path"])
    shown, requests = first.shown, []
    pairs = list(zip(shown.labels.tolist(), shown.predicted.tolist(), strict=True))
    with open_page(viewport=viewport, offline=True, java_script_enabled=False) as page:
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        assert page.locator(".cell:visible").count() == 0
        wrong = next(pair for pair in pairs if pair[0] != pair[1])
        for label, predicted in ((3, 3), wrong):
            page.locator(f'.matrix a[href="#cell-{label}-{predicted}"]').click()
            cell = page.locator(".cell:visible")
            assert cell.count() == 1
            count = pairs.count((label, predicted))
            assert cell.locator("img").count() == min(count, CELL_IMAGES)
            assert f"{count} of the 100 images of {label}" in cell.inner_text()
        assert page.locator(".pairs:visible").count() == 0
        page.keyboard.press("Tab")  # the first link in what was opened
        page.keyboard.press("Enter")
        assert page.locator(".cell:visible").count() == 0
        page.locator(".pairs a").first.click()
        assert page.locator(".cell:visible img").count() > 0
        assert page.locator("body").bounding_box()["width"] <= viewport["width"]
    pages = {re.sub(r"#.*", "", url) for url in requests if not url.startswith("data:")}
    assert pages == {path.as_uri()}

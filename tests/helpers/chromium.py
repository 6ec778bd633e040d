"""A headless Chromium, controlled with Playwright."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Page, sync_playwright

from helpers.programs import require


@contextmanager
def open_page(**options: Any) -> Iterator[Page]:
    """Open an empty page; the options are those of ``Browser.new_context``.

    ``offline=True`` cuts off the network, ``has_touch=True`` emulates a touch screen.
    """
    program = require("chromium", "chromium-browser", "google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser.new_context(**options).new_page()
        browser.close()

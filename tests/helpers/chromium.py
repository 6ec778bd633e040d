"""A headless Chromium, controlled with Playwright."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

from playwright.sync_api import Page, sync_playwright

from helpers.programs import require

OpenPage = Callable[..., AbstractContextManager[Page]]


@contextmanager
def launch() -> Iterator[OpenPage]:
    """Start the browser, and yield a function that opens an empty page.

    The page's options are those of ``Browser.new_context``: ``offline=True`` cuts off the network,
    ``has_touch=True`` emulates a touch screen.
    """
    program = require("chromium", "chromium-browser", "google-chrome")

    @contextmanager
    def open_page(**options: Any) -> Iterator[Page]:
        with closing(browser.new_context(**options)) as context:
            yield context.new_page()

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield open_page
        browser.close()

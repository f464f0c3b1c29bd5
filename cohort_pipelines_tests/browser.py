"""A browser without a window, for tests that look at pages and for the README's screenshots."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright

CHROMIUM = shutil.which("chromium")
NO_CHROMIUM = "There is no chromium to look at the pages with. On Debian or Ubuntu: sudo apt install chromium"

_QUIET = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def browsing(*, width: int = 1400, height: int = 900) -> Iterator[Page]:
    """Open a page of ``width`` times ``height`` pixels in the machine's own chromium."""
    assert CHROMIUM is not None, NO_CHROMIUM
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM, args=_QUIET) as browser:
        yield browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")

"""A headless Chromium, for tests and benchmarks of pages on this disk. It needs no network."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVER = "chromedriver"


class BrowserMissingError(Exception):
    """There is no browser; the message is one line that says what is missing."""


@contextmanager
def open_browser(*, width: int = 1400, height: int = 1000, dark: bool = False) -> Iterator[Chrome]:
    """Start a browser, and end it with the block.

    Args:
        width: of the window, pixels.
        height: of the window, pixels.
        dark: tell pages that the user prefers dark ones.

    Raises:
        BrowserMissingError: Selenium, Chromium or its driver is missing.
    """
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.options import Options
        from selenium.webdriver.chrome.service import Service
    except ModuleNotFoundError as error:
        raise BrowserMissingError("no browser: Selenium is not installed, as cuts3d[dev] does") from error
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which(DRIVER)
    if browser is None or driver is None:
        missing = DRIVER if browser else BROWSERS[0]
        raise BrowserMissingError(f"no browser: there is no {missing}; Debian has it in chromium and chromium-driver")
    options = Options()
    options.binary_location = browser
    words = ["--headless=new", f"--window-size={width},{height}", "--hide-scrollbars", "--disable-dev-shm-usage"]
    # Chromium refuses to sandbox the pages of root, as whom containers run.
    words += ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    for word in words:
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    try:
        if dark:
            features = [{"name": "prefers-color-scheme", "value": "dark"}]
            chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        # Narrower than a window can be.
        if width < 500:
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True}
            chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        yield chrome
    finally:
        chrome.quit()


def asked_for(browser: Chrome) -> list[str]:
    """Return the addresses that pages have asked for since this was called last."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [str(item["request"]["url"]) for item in sent]


def address(page: Path) -> str:
    """Return the address of a page on this disk."""
    return page.resolve().as_uri()

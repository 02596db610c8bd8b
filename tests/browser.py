"""A real browser without a screen, for the tests of pages. A helper."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from tests.programs import ROOT, program

AXE = ROOT / ".cache/node_modules/axe-core/axe.min.js"
SAVED = "saved"
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")


@contextmanager
def browsing(*, scripts: bool = True, dark: bool = False, width: int = 1000) -> Iterator[Chrome]:
    """A browser with a profile of its own. Without `scripts` pages run none, as where a person
    has switched them off."""
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        options = ChromeOptions()
        options.binary_location = str(program("chromium"))
        for argument in (
            "--headless=new",
            # Tests may run as root, and in a container.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--no-proxy-server",
            f"--user-data-dir={profile}",
            f"--window-size={width},1400",
            *(["--blink-settings=preferredColorScheme=0"] if dark else []),
        ):
            options.add_argument(argument)
        saving = Path(profile, SAVED)
        saving.mkdir()
        prefs: dict[str, Any] = {
            "download.default_directory": str(saving),
            "download.prompt_for_download": False,
        }
        if not scripts:
            prefs["profile.managed_default_content_settings.javascript"] = 2
        options.add_experimental_option("prefs", prefs)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = Chrome(options=options, service=Service(str(program("chromedriver"))))
        try:
            driver.set_page_load_timeout(30)
            yield driver
        finally:
            driver.quit()


def enter(driver: Chrome, address: str) -> str:
    """Opens a site by its address with the token; where its first page is."""
    driver.get(address)
    WebDriverWait(driver, 30).until(
        lambda _: driver.current_url.startswith("http") and "/enter" not in driver.current_url
    )
    return driver.current_url


def downloads(driver: Chrome) -> Path:
    """Where files are saved; it goes with the browser."""
    return Path(driver.capabilities["chrome"]["userDataDir"], SAVED)


def complaints(driver: Chrome) -> list[str]:
    """What axe-core finds wrong with the page that is shown: contrast, labels, order, roles. Its
    script is run by the driver; the page's own rules let none in."""
    driver.execute_script(AXE.read_text())
    found = driver.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        f"axe.run(document, {{runOnly: {list(RULES)}}}).then(r => done(r.violations));"
    )
    return [
        f"{one['id']}: {one['help']}: {node['html'][:120]}"
        for one in found
        for node in one["nodes"]
    ]


def said(driver: Chrome) -> list[str]:
    """What the browser's console says of the page: refused loads, errors, warnings."""
    lines: list[dict[str, str]] = driver.get_log("browser")  # type: ignore[no-untyped-call]
    return [line["message"] for line in lines]


def picture(driver: Chrome, path: Path) -> Path:
    """The whole page, to look at."""
    width = driver.get_window_size()["width"]
    driver.set_window_size(width, 700)
    height = driver.execute_script("return document.documentElement.scrollHeight")
    driver.set_window_size(width, min(6_000, height + 150))
    driver.save_screenshot(str(path))
    return path

"""Pages in Chromium: opened until they are drawn, and what went on until then."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox"],
            ignore_default_args=["--hide-scrollbars"],  # readers have them
        )
        yield opened
        opened.close()


@dataclass
class Opened:
    """A page that is drawn, and what went on until then."""

    page: Page
    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


def opened(
    browser: Browser,
    path: Path,
    *,
    width: int = 1280,
    scheme: Any = "light",
) -> Opened:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    result = Opened(page)
    page.on("request", lambda request: result.requests.append(request.url))
    page.on("console", lambda message: result.messages.append(message.text))
    page.on("pageerror", lambda error: result.messages.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_function("document.documentElement.dataset.drawn === 'yes'")
    return result


def check_quiet(result: Opened, path: Path) -> None:
    assert result.messages == []
    assert [url for url in result.requests if not url.startswith("data:")] == [path.as_uri()]

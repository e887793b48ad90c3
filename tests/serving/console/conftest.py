"""The console in real Chromium; a test ends with an empty error console and no request to another server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from serving.campaigns.catalogue import DEMO_PATH, Catalogue, CatalogueRow, read_catalogue, write_catalogue
from tests.serving.console.browser import READER, ChromiumMissing, Tab, chromium

PATIENCE_MS = 15_000  # on a busy machine
OPTIONS = ["--no-sandbox", "--disable-dev-shm-usage"]  # root, as in containers, has no sandbox


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser per module: while Playwright runs, no other test of the process can run an event loop."""
    try:
        program = chromium()
    except ChromiumMissing as missing:
        pytest.skip(str(missing))
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program, args=OPTIONS)
        yield launched
        launched.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Tab]]:
    """`visit(router, phone=False, errors=0)` opens a tab, which must have logged that many errors at the end."""
    with ExitStack() as stack:
        opened: list[tuple[Tab, int]] = []

        def make(router: Any, phone: bool = False, errors: int = 0) -> Tab:
            size = {"width": 390, "height": 844} if phone else {"width": 1280, "height": 800}
            context = browser.new_context(viewport=size, user_agent=READER)  # type: ignore[arg-type]
            context.set_default_timeout(PATIENCE_MS)
            stack.callback(context.close)
            opened.append((Tab(context, router.url), errors))
            return opened[-1][0]

        yield make
        for tab, errors in opened:
            assert tab.foreign_requests == []
            assert len(tab.errors) == errors, tab.errors


@pytest.fixture
def demo(tmp_path: Path) -> Catalogue:
    """Three ads with landing pages on the router; A1 bids 0.10, A2 0.20 and A3 0.30 EUR."""
    things = ("Running Shoes", "Coffee Beans", "City Hotels")
    listed = [
        CatalogueRow(
            id=f"A{n}",
            title=f"Brand{n} {thing}",
            text=f"{thing.lower()} for everyone",
            advertiser=f"Brand{n}",
            landing_url=f"{DEMO_PATH}A{n}",
            bid_micros=n * 100_000,
            currency="EUR",
            category="things",
        )
        for n, thing in enumerate(things, start=1)
    ]
    write_catalogue(listed, tmp_path / "demo.jsonl")
    return read_catalogue(tmp_path / "demo.jsonl")

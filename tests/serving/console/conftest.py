"""The console in real Chromium; a test ends with an empty error console and no request to anybody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from serving.campaigns.catalogue import DEMO_PATH, Catalogue, CatalogueRow, read_catalogue, write_catalogue
from tests.serving.console.browser import READER, ChromiumMissing, Tab, chromium

PATIENCE_MS = 15_000  # of a machine that is busy with other things
OPTIONS = ["--no-sandbox", "--disable-dev-shm-usage"]  # root, as in containers, has no sandbox


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for a module: as long as Playwright runs, no other test of the process may run an event loop."""
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
    """`visit(router, phone=False, complaints=0)`: a tab; at the end it must have complained exactly so often."""
    with ExitStack() as stack:
        opened: list[tuple[Tab, int]] = []

        def make(router: Any, phone: bool = False, complaints: int = 0) -> Tab:
            size = {"width": 390, "height": 844} if phone else {"width": 1280, "height": 800}
            context = browser.new_context(viewport=size, user_agent=READER)  # type: ignore[arg-type]
            context.set_default_timeout(PATIENCE_MS)
            stack.callback(context.close)
            opened.append((Tab(context, router.url), complaints))
            return opened[-1][0]

        yield make
        for tab, complaints in opened:
            assert tab.elsewhere == []
            assert len(tab.errors) == complaints, tab.errors


@pytest.fixture
def demo(tmp_path: Path) -> Catalogue:
    """Three ads whose landing pages are the router's own; A1 bids 0.10, A2 0.20 and A3 0.30 EUR."""
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

"""Finds Chromium, and opens tabs that record their errors and their requests to other servers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request

VARIABLE = "LLM_AUCTION_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome")
REMEDY = f"Chromium is not installed: `apt-get install chromium` (Debian, Ubuntu), or set {VARIABLE} to its path"
# The headless browser's own user agent would make every click invalid.
READER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36"


class ChromiumMissing(Exception):
    """Chromium is not installed; the message says how to install it."""


def chromium(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the program: the one that the variable names, else the one on PATH."""
    given = environment.get(VARIABLE)
    found = given or next(filter(None, (shutil.which(name, path=environment.get("PATH")) for name in NAMES)), None)
    if found is None or not Path(found).is_file():
        raise ChromiumMissing(f"{VARIABLE}={given}: there is no such program" if given else REMEDY)
    return Path(found)


class Tab:
    """A page of the console. `errors` holds its console's errors, `foreign_requests` its requests to other servers."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.address = address
        self.errors: list[str] = []
        self.foreign_requests: list[str] = []
        context.on("request", self._requested)
        context.on("console", self._logged)
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        self.page: Page = context.new_page()

    def open(self, view: str = "", key: str = "") -> Page:
        """Open the console at a view, signed in if a key is given."""
        self.page.goto(f"{self.address}/#{view}")
        # Typed text is lost until the console knows its caller.
        self.page.locator("nav [aria-current=page], #view-closed:not([hidden])").first.wait_for(state="attached")
        if key:
            if not self.page.locator("#key").is_visible():
                self.page.click("#sign")
            self.sign_in(key)
            self.page.get_by_role("button", name="Sign out").wait_for()
        return self.page

    def sign_in(self, key: str) -> None:
        """Type a key into the sign-in form."""
        self.page.fill("#key", key)
        self.page.keyboard.press("Enter")

    def ask(self, question: str = "Good running shoes?") -> str:
        """Ask a question, wait for the answer and its auction, and return the auction's id."""
        answers = self.page.locator(".again")
        before = answers.count()
        self.page.fill("#question", question)
        self.page.keyboard.press("Enter")
        answers.nth(before).wait_for()
        self.page.locator("#auction .raw").wait_for()
        return self.page.locator("#auction .raw summary code").inner_text()

    def refresh(self) -> None:
        """Poll the router at once, as when a reader returns to the tab."""
        self.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")

    def _requested(self, request: Request) -> None:
        if not request.url.startswith(self.address + "/"):
            self.foreign_requests.append(request.url)

    def _logged(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

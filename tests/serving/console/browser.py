"""Where a Chromium is, and a tab of it that remembers what must not have happened."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request

VARIABLE = "LLM_AUCTION_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome")
REMEDY = f"Chromium is not installed: `apt-get install chromium` (Debian, Ubuntu), or say where it is with {VARIABLE}"
# The headless browser's own name would make every click a robot's.
READER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36"


class ChromiumMissing(Exception):
    """There is no Chromium on this machine; the message says how to install it."""


def chromium(environment: Mapping[str, str] = os.environ) -> Path:
    """The program: what the variable names, else what is on PATH. Raises ChromiumMissing."""
    given = environment.get(VARIABLE)
    found = given or next(filter(None, (shutil.which(name, path=environment.get("PATH")) for name in NAMES)), None)
    if found is None or not Path(found).is_file():
        raise ChromiumMissing(f"{VARIABLE}={given}: there is no such program" if given else REMEDY)
    return Path(found)


class Tab:
    """A page of the console. `errors` are what its console complained of, `elsewhere` the requests that went to another
    server."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.address = address
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        context.on("request", self._requested)
        context.on("console", self._said)
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        self.page: Page = context.new_page()

    def open(self, view: str = "", key: str = "") -> Page:
        """The console at a view, signed in where a key is given."""
        self.page.goto(f"{self.address}/#{view}")
        # until the console knows who is there, what is typed would be lost
        self.page.locator("nav [aria-current=page], #view-closed:not([hidden])").first.wait_for(state="attached")
        if key:
            if not self.page.locator("#key").is_visible():
                self.page.click("#sign")
            self.sign_in(key)
            self.page.get_by_role("button", name="Sign out").wait_for()
        return self.page

    def sign_in(self, key: str) -> None:
        """Types a key into the form that asks for one."""
        self.page.fill("#key", key)
        self.page.keyboard.press("Enter")

    def ask(self, question: str = "Good running shoes?") -> str:
        """Asks, waits for the end of the answer and its auction, and gives the auction's id."""
        answers = self.page.locator(".again")
        before = answers.count()
        self.page.fill("#question", question)
        self.page.keyboard.press("Enter")
        answers.nth(before).wait_for()
        self.page.locator("#auction .raw").wait_for()
        return self.page.locator("#auction .raw summary code").inner_text()

    def look(self) -> None:
        """What a reader who comes back to the tab sees: it asks the router at once instead of in some seconds."""
        self.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")

    def _requested(self, request: Request) -> None:
        if not request.url.startswith(self.address + "/"):
            self.elsewhere.append(request.url)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

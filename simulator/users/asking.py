"""Sessions of simulated users: each asks a router as an OpenAI-compatible client, reads, and follows links.

To the router every user is a separate machine where the system allows it (Linux: an address of 127.0.0.0/8 each), with
a browser's user agent and the time that reading takes, so that its rules for invalid traffic apply unchanged.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from zlib import crc32

import httpx
import structlog

from mechanism.errors import ConfigError, InputError
from mechanism.types import Profile
from simulator.users.population import Population
from simulator.users.reading import Pace, read
from simulator.world import Query

log = structlog.get_logger(__name__)

BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
LOCAL = ("127.0.0.1", "localhost")
RETRY_S = 2.0
MOST_SESSIONS = 1_000
LEAVE_S = 5.0
"""Seconds that pending clicks may still take at the end."""


@dataclass(frozen=True, slots=True)
class AskingSettings:
    """Address and rate of the traffic.

    `rate`: questions a second while trust has its initial value; `key`: a publisher's key, empty for a router without
    keys; `pause_s`: mean seconds between two questions of a session.
    """

    url: str = "http://localhost:8080"
    rate: float = 2.0
    key: str = ""
    placement: str = "simulated"
    pause_s: float = 5.0
    timeout_s: float = 120.0
    pace: Pace = field(default_factory=Pace)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError("users.url", self.url, "begin it with http:// or https://")
        if not self.rate > 0:
            raise ConfigError("users.rate", self.rate, "give more than 0 questions a second")


class Users:
    """Sessions against one router; `counts` has the number of events by kind."""

    def __init__(self, population: Population, settings: AskingSettings) -> None:
        self._population = population
        self._settings = settings
        self.counts: Counter[str] = Counter()
        self._sessions: set[asyncio.Task[None]] = set()
        self._clicks: set[asyncio.Task[None]] = set()
        self._model = ""
        headers = {"Authorization": f"Bearer {settings.key}"} if settings.key else {}
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=16)
        self._client = httpx.AsyncClient(
            base_url=settings.url.rstrip("/"), headers=headers, timeout=settings.timeout_s, limits=limits
        )
        self._own_addresses = httpx.URL(settings.url).host in LOCAL

    async def run(self, stop: Callable[[], bool]) -> None:
        """Start sessions until `stop` returns True; then wait LEAVE_S for pending clicks."""
        try:
            await self._find_model(stop)
            rate = self._settings.rate / self._population.questions_a_session
            while not stop():
                await asyncio.sleep(float(self._population.rng.exponential(1.0 / rate)))
                if len(self._sessions) >= MOST_SESSIONS:
                    self.counts["turned away"] += 1
                    continue
                self._begin(self._sessions, self._session(self._population.draw_user(), stop))
            for session in tuple(self._sessions):
                session.cancel()
            if self._clicks:
                _, late = await asyncio.wait(self._clicks, timeout=LEAVE_S)
                for click in late:
                    click.cancel()
            await asyncio.gather(*self._sessions, *self._clicks, return_exceptions=True)
        finally:
            await self._client.aclose()

    async def _find_model(self, stop: Callable[[], bool]) -> None:
        """Wait for the router and read its model's public name; log from time to time what it waits for."""
        for tries in count():
            if stop():
                return
            try:
                answer = await self._client.get("/v1/models")
                answer.raise_for_status()
                self._model = answer.json()["data"][0]["id"]
                return
            except (httpx.HTTPError, ValueError, KeyError, IndexError) as error:
                if tries in (2, 30) or tries % 300 == 299:  # a router that is just starting is not logged
                    url = f"{self._settings.url}/v1/models"
                    log.warning("users.router_unavailable", url=url, reason=str(error)[:200] or type(error).__name__)
                await asyncio.sleep(RETRY_S)

    async def _session(self, profile: Profile, stop: Callable[[], bool]) -> None:
        """Ask questions of one user until the user does not return."""
        while not stop():
            if not await self._ask(self._population.draw_query(profile)) or not self._population.comes_back(profile):
                return
            await asyncio.sleep(float(self._population.rng.exponential(self._settings.pause_s)))

    async def _ask(self, query: Query) -> bool:
        """Ask one question; return False where there was no readable answer."""
        self.counts["asked"] += 1
        try:
            answer = await self._client.post("/v1/chat/completions", json=self._body(query))
        except httpx.HTTPError as error:
            self.counts["unreachable"] += 1
            log.debug("users.unanswered", reason=type(error).__name__)
            await asyncio.sleep(RETRY_S)
            return False
        if answer.status_code != 200:
            self.counts[f"status {answer.status_code}"] += 1
            if answer.status_code == 404:  # the router serves its model under another name by now
                await self._find_model(lambda: False)
            await asyncio.sleep(RETRY_S)
            return False
        self.counts["answered"] += 1
        try:
            seen = read(answer.json())
        except (InputError, ValueError) as error:
            self.counts["unreadable"] += 1
            log.warning("users.unreadable_answer", reason=str(error)[:200])
            return False
        self.counts["shown"] += len(seen.ads)
        clicked = self._population.clicks(query, seen, "", time.time())
        for ad_id in clicked:
            wait = self._settings.pace.until_click(seen.words_before(ad_id), self._population.rng)
            self._begin(self._clicks, self._click(seen.links[ad_id], query.profile, wait))
        return True

    async def _click(self, url: str, profile: Profile, wait_s: float) -> None:
        """Follow a link after the time to read up to it; the redirect's target is not visited."""
        await asyncio.sleep(wait_s)
        try:
            async with self._browser(profile) as browser:
                answer = await browser.get(url)
            self.counts["clicked" if answer.status_code == 302 else f"click status {answer.status_code}"] += 1
        except httpx.HTTPError as error:
            self.counts["click unreachable"] += 1
            log.debug("users.click_failed", reason=type(error).__name__)

    def _browser(self, profile: Profile) -> httpx.AsyncClient:
        """Return a client that acts as a browser on the user's own machine."""
        address = own_address(profile.id) if self._own_addresses else None
        transport = httpx.AsyncHTTPTransport(local_address=address, verify=not self._own_addresses)
        return httpx.AsyncClient(transport=transport, headers={"User-Agent": BROWSER}, timeout=30.0)

    def _body(self, query: Query) -> dict[str, Any]:
        profile, ads = query.profile, {"placement": self._settings.placement}
        user: dict[str, Any] = {}
        if self._population.consents(profile):
            about = ("age", "gender", "occupation", "location", "interests", "history")
            user = {
                "consent": True,
                "user_id": profile.id,
                "profile": {name: _plain(getattr(profile, name)) for name in about},
            }
        conversation = (*query.turns, ("user", query.text))
        messages = [{"role": role, "content": text} for role, text in conversation]
        return {"model": self._model, "messages": messages, "ads": ads | user}

    def _begin(self, tasks: set[asyncio.Task[None]], work: Any) -> None:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)


def own_address(user_id: str) -> str:
    """Return an address of this machine's loopback network, always the same for a user."""
    number = crc32(user_id.encode()) % (2**22 - 2) + 1
    return f"127.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

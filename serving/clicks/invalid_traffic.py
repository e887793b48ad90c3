"""Invalid click traffic: clicks that are redirected but not charged, each with a reason code.

The rules use the request and a bounded window of keyed hashes; addresses, user ids and user agents are neither stored
nor shown. The ledger ensures that a link is charged once, however often it is followed.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b

from crawlerdetect import CrawlerDetect  # type: ignore[import-untyped]

from mechanism.errors import ConfigError
from serving.clicks.tokens import ClickClaims


class InvalidReason(StrEnum):
    """Why a click is not charged, in order of precedence."""

    HEAD = "head"
    """A request for the headers only: the page is not displayed."""
    PREFETCH = "prefetch"
    """The browser loads ahead or draws a preview (Purpose, Sec-Purpose, X-Moz, X-Purpose)."""
    BOT = "bot"
    """The user agent is a known crawler, link checker or program, or is missing."""
    EXPIRED = "expired"
    """The link is older than its lifetime."""
    TOO_EARLY = "too_early"
    """Sooner than the answer can have been read, or before the auction took place."""
    REPEAT_USER = "repeat_user"
    """The same reader has just clicked the same ad in another answer."""
    REPEAT_ADDRESS = "repeat_address"
    """The same address, browser and reader have just clicked the same ad in another answer."""


@dataclass(frozen=True, slots=True)
class ClickRequest:
    """The HTTP request of one click, `headers` by lower-case name. The address stays out of `repr`."""

    method: str
    headers: Mapping[str, str] = field(repr=False)
    address: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class TrafficSettings:
    """Limits of the screen, times in seconds.

    Many readers may share one address behind a router, so its window is the shorter one, and it counts each browser and
    each known reader by itself. A window begins with a click that is charged; repeats do not prolong it. `window_size`
    bounds the number of remembered pairs of source and ad.

    Raises:
        ConfigError: if a limit is out of range.
    """

    shortest_read_s: float = 1.0
    user_window_s: float = 600.0
    address_window_s: float = 60.0
    window_size: int = 100_000

    def __post_init__(self) -> None:
        for name in ("shortest_read_s", "user_window_s", "address_window_s"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"traffic.{name}", getattr(self, name), "give seconds >= 0")
        if self.window_size < 1:
            raise ConfigError("traffic.window_size", self.window_size, "give a whole number >= 1")


class ClickScreen:
    """Checks clicks and remembers the recent ones. Belongs to one thread; each router has its own window.

    Raises:
        ConfigError: if the key is too short or too long.
    """

    def __init__(self, key: bytes, settings: TrafficSettings | None = None) -> None:
        if not 16 <= len(key) <= 64:
            raise ConfigError("traffic key", f"<{len(key)} bytes>", "give 16 to 64 random bytes")
        self._key = key
        self._settings = settings or TrafficSettings()
        self._recent: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()  # oldest first
        self._agents: OrderedDict[bytes, bool] = OrderedDict()
        self._crawlers = _Crawlers()

    def check(self, claims: ClickClaims, request: ClickRequest, now: float) -> InvalidReason | None:
        """Return the first reason not to charge a click at Unix time `now`, None for a valid click.

        The reading time counts from when the link was sent. Links whose `issued` is 0 were signed without their time
        and cannot be too early. The reader is the one whom the link was written for.
        """
        if request.method.upper() == "HEAD":
            return InvalidReason.HEAD
        if _is_prefetch(request.headers):
            return InvalidReason.PREFETCH
        agent = request.headers.get("user-agent", "")
        if self._is_bot(agent):
            return InvalidReason.BOT
        if now >= claims.expires:
            return InvalidReason.EXPIRED
        if claims.issued and now - claims.sent_at < self._settings.shortest_read_s:
            return InvalidReason.TOO_EARLY
        link = self._hash(f"click\0{claims.id}")
        one_browser = f"{request.address}\0{agent}\0{claims.reader}"
        sources = [
            (InvalidReason.REPEAT_USER, claims.reader, claims.reader, self._settings.user_window_s),
            (InvalidReason.REPEAT_ADDRESS, request.address, one_browser, self._settings.address_window_s),
        ]
        pairs = {
            reason: (self._hash(f"{reason}\0{claims.ad_id}\0{source}"), window_s)
            for reason, known, source, window_s in sources
            if known
        }
        for reason, (pair, window_s) in pairs.items():
            if self._first_link(pair, now, window_s) not in (None, link):
                return reason
        for pair, window_s in pairs.values():
            self._remember(pair, link, now, window_s)
        return None

    def source(self, address: str) -> str:
        """Return 32 hexadecimal digits that stand for an address, the same on every router; empty for none."""
        return self._hash(f"source\0{address}").hex() if address else ""

    def _first_link(self, pair: bytes, now: float, window_s: float) -> bytes | None:
        """Return the link that began the window of a source and an ad, None if there is no window at `now`."""
        began, link = self._recent.get(pair, (-math.inf, b""))
        return link if 0 <= now - began < window_s else None

    def _remember(self, pair: bytes, link: bytes, now: float, window_s: float) -> None:
        """Begin a window unless there is one.

        The same link again is no repeat: the ledger recognises it, and following it once more restores a charge that
        could not be written.
        """
        if self._first_link(pair, now, window_s) is not None:
            return
        self._recent.pop(pair, None)
        self._recent[pair] = (now, link)
        if len(self._recent) > self._settings.window_size:
            self._recent.popitem(last=False)

    def _is_bot(self, user_agent: str) -> bool:
        if not user_agent.strip():
            return True
        key = self._hash(f"agent\0{user_agent}")
        is_crawler = self._agents.get(key)
        if is_crawler is None:
            is_crawler = bool(self._crawlers.is_crawler(user_agent[:1_024]))
            self._agents[key] = is_crawler
            if len(self._agents) > 4_096:
                self._agents.popitem(last=False)
        return is_crawler

    def _hash(self, text: str) -> bytes:
        return blake2b(text.encode(errors="surrogatepass"), key=self._key, digest_size=16, person=b"traffic").digest()


def _is_prefetch(headers: Mapping[str, str]) -> bool:
    purpose = " ".join(headers.get(name, "") for name in ("sec-purpose", "purpose", "x-purpose", "x-moz")).lower()
    return any(word in purpose for word in ("prefetch", "prerender", "preview"))


class _Crawlers(CrawlerDetect):  # type: ignore[misc]
    """The list of known crawlers without the library's cache, which would store user agents in clear."""

    CACHE_SIZE = 0

"""Invalid click traffic: which clicks are redirected but not charged, each with a reason code.

The rules look at the request alone and at a bounded window of keyed hashes; addresses, user ids and user agents are
neither kept nor shown. That a link is charged once, however often it is followed, is the ledger's business.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b

from crawlerdetect import CrawlerDetect  # type: ignore[import-untyped]

from mechanism.errors import ConfigError
from serving.clicks.tokens import Click


class Invalid(StrEnum):
    """Why a click is not charged, in order of precedence."""

    HEAD = "head"
    """A request for the headers only: nobody looks at the page."""
    PREFETCH = "prefetch"
    """The browser says that it loads ahead or draws a preview (Purpose, Sec-Purpose, X-Moz, X-Purpose)."""
    BOT = "bot"
    """The user agent is a known crawler, link checker or program, or there is none."""
    EXPIRED = "expired"
    """The link is older than its lifetime."""
    TOO_EARLY = "too_early"
    """Clicked before anybody can have read the answer, or before the auction took place."""
    REPEAT_USER = "repeat_user"
    """The same reader has just clicked the same ad in another answer."""
    REPEAT_ADDRESS = "repeat_address"
    """The same address has just clicked the same ad in another answer."""


@dataclass(frozen=True, slots=True)
class ClickRequest:
    """What is known of one click. `headers` by lower-case name. Personal parts stay out of `repr`."""

    method: str
    headers: Mapping[str, str] = field(repr=False)
    address: str = field(default="", repr=False)
    user_id: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class TrafficSettings:
    """Times in seconds. One address may be many readers behind one router, so its window is the shorter one. Each
    repeat begins the window anew. `window_size` bounds how many (reader or address, ad) pairs are remembered."""

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
    """Judges clicks, remembering the recent ones. Belongs to one thread; each router has its own window."""

    def __init__(self, key: bytes, settings: TrafficSettings | None = None) -> None:
        if not 16 <= len(key) <= 64:
            raise ConfigError("traffic key", f"<{len(key)} bytes>", "give 16 to 64 random bytes")
        self._key = key
        self._settings = settings or TrafficSettings()
        self._recent: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()  # oldest first
        self._agents: OrderedDict[bytes, bool] = OrderedDict()
        self._crawlers = _Crawlers()

    def judge(self, click: Click, request: ClickRequest, now: float) -> Invalid | None:
        """The first reason not to charge the click at Unix time `now`, None for a click to charge. A click whose
        `issued` is 0 was signed without its time and is not judged by it."""
        if request.method.upper() == "HEAD":
            return Invalid.HEAD
        if announces_prefetch(request.headers):
            return Invalid.PREFETCH
        if self._is_bot(request.headers.get("user-agent", "")):
            return Invalid.BOT
        if now >= click.expires:
            return Invalid.EXPIRED
        # Tokens carry whole seconds, so this errs towards charging by less than one.
        if click.issued and now - click.issued < self._settings.shortest_read_s:
            return Invalid.TOO_EARLY
        by_user = bool(request.user_id) and self._repeats(
            "user", request.user_id or "", click, now, self._settings.user_window_s
        )
        by_address = bool(request.address) and self._repeats(
            "address", request.address, click, now, self._settings.address_window_s
        )
        if by_user:
            return Invalid.REPEAT_USER
        return Invalid.REPEAT_ADDRESS if by_address else None

    def _repeats(self, kind: str, who: str, click: Click, now: float, window_s: float) -> bool:
        """Whether another answer's link to the ad was followed within the window. The same link again is no repeat:
        the ledger knows it, and following it once more mends a charge that could not be written."""
        pair = self._hash(f"{kind}\0{click.ad_id}\0{who}")
        this = self._hash(f"click\0{click.id}")
        before = self._recent.pop(pair, None)
        repeated = before is not None and before[1] != this and 0 <= now - before[0] < window_s
        self._recent[pair] = (now, before[1] if before is not None and repeated else this)
        if len(self._recent) > self._settings.window_size:
            self._recent.popitem(last=False)
        return repeated

    def _is_bot(self, user_agent: str) -> bool:
        if not user_agent.strip():
            return True
        known = self._hash(f"agent\0{user_agent}")
        found = self._agents.get(known)
        if found is None:
            found = bool(self._crawlers.is_crawler(user_agent[:1_024]))
            self._agents[known] = found
            if len(self._agents) > 4_096:
                self._agents.popitem(last=False)
        return found

    def _hash(self, text: str) -> bytes:
        return blake2b(text.encode(errors="surrogatepass"), key=self._key, digest_size=16, person=b"traffic").digest()


def announces_prefetch(headers: Mapping[str, str]) -> bool:
    """Whether the headers (by lower-case name) say that nobody has clicked yet."""
    purpose = " ".join(headers.get(name, "") for name in ("sec-purpose", "purpose", "x-purpose", "x-moz")).lower()
    return any(word in purpose for word in ("prefetch", "prerender", "preview"))


class _Crawlers(CrawlerDetect):  # type: ignore[misc]
    """The list of known crawlers, without the library's own cache: that would keep user agents as they came."""

    CACHE_SIZE = 0

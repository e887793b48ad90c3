"""How one router process is set up, and the secret that signs its click links."""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mechanism.errors import ConfigError

SECRET_VARIABLE = "LLM_AUCTION_SECRET"
SECRET_CHARACTERS = 32
MOST_CANDIDATES = 100
PSEUDONYMS = "pseudonyms"
"""The purpose (`derived`) of the key that makes pseudonyms of user ids."""


@dataclass(frozen=True, slots=True)
class AdLoadSettings:
    """`target` of the measured signal. `direction` says what more ads do to it: "rises" (ads per answer, rate of
    negative feedback) or "falls" (mean judged quality).

    `gain` answers an error of the target's own size with that change of the factor's logarithm; an error that lasts
    adds as much again in every `reset_s`. The factor stays within `lowest`..`highest`, moves at most `fastest_per_hour`
    (in logarithms: 0.7 is about twofold), and is used in whole `step`s: a factor that trembled would change every bid
    in every prompt, and with them the prefix that a model server has cached. Fewer than `least_answers` in a
    measurement say nothing.
    """

    target: float
    direction: Literal["rises", "falls"] = "rises"
    gain: float = 0.3
    reset_s: float = 1_800.0
    lowest: float = 0.05
    highest: float = 4.0
    fastest_per_hour: float = 0.7
    step: float = 0.05
    least_answers: int = 50

    def __post_init__(self) -> None:
        for name in ("target", "gain", "reset_s", "lowest", "fastest_per_hour", "step"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"ad_load.{name}", value, "give a number above 0")
        if not self.lowest <= 1 <= self.highest < math.inf:
            raise ConfigError("ad_load.lowest, highest", (self.lowest, self.highest), "give bounds around 1")
        if self.direction not in ("rises", "falls"):
            raise ConfigError("ad_load.direction", self.direction, 'give "rises" or "falls"')


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Limits and places of the router. Times in seconds.

    `public_url` is the address that click links begin with; empty means the address that the request came to.
    `database` is a URL; empty means an SQLite file in the state directory. `currency` is that of requests that name
    none. `anonymous_chat` lets callers without a key ask, read the auctions of such answers and the sums of revenue.

    `metrics_address` is the host:port at which `/metrics` is served, and nothing else is; empty means at the router's
    own address, where whoever reaches it reads revenue and load: keep the address from the public, or give one here.

    `candidates` ads enter a prompt, at most `max_ads` of them are linked in one answer. `in_flight` answers may be
    under way; `waiting` queue before a policy in this process. `deadline_s` holds where a request names no `tmax_ms`;
    `reserve_s` of either is kept for the way back. A question that is not encoded within `encode_s` is searched by its
    words. `prior_ctr` is the click rate that is assumed of an ad that nothing is known of, as strong as `prior_shown`
    impressions. `drain_s` is what answers under way get at the end.

    `log` is where events go: a folder, or "kafka" (`streaming.addresses`); empty means a folder in the state directory.
    `ledger` says who charges what the log holds: "process", beside the router, which keeps the work from the streams;
    "thread", of the router, which starts at once; or "elsewhere" (`llm-auction worker ledger`).
    """

    state_dir: Path = Path("build/serve")
    public_url: str = ""
    database: str = ""
    metrics_address: str = ""
    currency: str = "USD"
    anonymous_chat: bool = False
    link_lifetime_s: int = 24 * 3600
    candidates: int = 20
    max_ads: int = 3
    in_flight: int = 256
    waiting: int = 16
    deadline_s: float = 120.0
    reserve_s: float = 0.01
    encode_s: float = 0.25
    drain_s: float = 30.0
    refresh_s: float = 1.0
    pacing_s: float = 60.0
    routes_s: float = 1.0
    prior_ctr: float = 0.02
    prior_shown: int = 200
    max_characters: int = 32_000
    max_messages: int = 200
    audited_answers: int = 1_000
    log: str = ""
    ledger: Literal["process", "thread", "elsewhere"] = "thread"
    ad_load: AdLoadSettings | None = None

    def __post_init__(self) -> None:
        for name in (
            "routes_s",
            *("link_lifetime_s", "candidates", "max_ads", "in_flight", "waiting", "deadline_s", "encode_s", "drain_s"),
            *("refresh_s", "pacing_s", "prior_shown", "audited_answers"),
        ):
            if not getattr(self, name) > 0:
                raise ConfigError(name, getattr(self, name), "give a number above 0")
        if self.candidates > MOST_CANDIDATES:
            raise ConfigError("candidates", self.candidates, f"give {MOST_CANDIDATES} at most")
        if not 0 <= self.reserve_s < self.deadline_s:
            raise ConfigError("reserve_s", self.reserve_s, "give seconds from 0 to less than the deadline")
        if not 0 <= self.prior_ctr <= 1:
            raise ConfigError("prior_ctr", self.prior_ctr, "give a probability")
        if not re.fullmatch("[A-Z]{3}", self.currency):
            raise ConfigError("currency", self.currency, "give an ISO 4217 code such as USD")
        if self.public_url and not self.public_url.startswith(("http://", "https://")):
            raise ConfigError("public_url", self.public_url, "begin it with http:// or https://")
        if self.metrics_address and not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\s]+):\d{1,5}", self.metrics_address):
            raise ConfigError("metrics_address", self.metrics_address, "give host:port such as 127.0.0.1:9090")

    @property
    def database_url(self) -> str:
        """Where campaigns, keys and the ledger are."""
        return self.database or f"sqlite:///{self.state_dir / 'router.sqlite3'}"

    @property
    def log_address(self) -> str:
        """Where events go."""
        return self.log or str(self.state_dir / "log")

    @property
    def spool_path(self) -> Path:
        """Where events wait that the log does not have yet."""
        return self.state_dir / "events"


def derived(secret: bytes, purpose: str) -> bytes:
    """32 bytes for one purpose out of the secret, so that no two purposes share a key."""
    return hmac.digest(secret, b"llm-auction " + purpose.encode(), hashlib.sha256)


def signing_secret(state_dir: Path, environment: Mapping[str, str] = os.environ) -> bytes:
    """The secret of `LLM_AUCTION_SECRET`, else the one kept in the state directory (made at the first start, 0600).

    Raises ConfigError for a secret too short to be one, or a file that others may read. The secret is never shown.
    """
    given = environment.get(SECRET_VARIABLE)
    if given is not None:
        return _checked(given, SECRET_VARIABLE)
    path = state_dir / "secret"
    state_dir.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _write_once(path, secrets.token_urlsafe(48))
    return _kept(path)


def known_secret(state_dir: Path, environment: Mapping[str, str] = os.environ) -> bytes:
    """The same of routers that have run; none is made. Raises ConfigError where there is none."""
    if environment.get(SECRET_VARIABLE) is None and not (state_dir / "secret").exists():
        raise ConfigError(str(state_dir / "secret"), "", f"name the routers' state directory, or set {SECRET_VARIABLE}")
    return signing_secret(state_dir, environment)


def _kept(path: Path) -> bytes:
    if path.stat().st_mode & 0o077:
        raise ConfigError(str(path), oct(path.stat().st_mode & 0o777), "others may read the secret: chmod 600 it")
    return _checked(path.read_text(encoding="ascii").strip(), str(path))


def _checked(secret: str, place: str) -> bytes:
    if len(secret) < SECRET_CHARACTERS:
        remedy = f"use at least {SECRET_CHARACTERS} random characters, e.g. of `openssl rand -base64 48`"
        raise ConfigError(place, f"<{len(secret)} characters>", remedy)
    return secret.encode()


def _write_once(path: Path, secret: str) -> None:
    """Creates the file whole: two servers that start together on one directory must end with the same secret."""
    draft = path.with_name(f".secret-{os.getpid()}-{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
        file.write(secret + "\n")
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()

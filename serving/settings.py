"""The settings of one router process, and the secret that its keys derive from."""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from mechanism.errors import ConfigError
from serving.bid_scale import BidScale

SECRET_VARIABLE = "LLM_AUCTION_SECRET"
OTHERS_VARIABLE = "LLM_AUCTION_OTHER_SECRETS"
SECRET_FILE, OTHERS_FILE = "secret", "other-secrets"
SECRET_CHARACTERS = 32
MOST_CANDIDATES = 100
BlockRule: TypeAlias = Literal["never", "same-category"]
"""Which advertisers a campaign may keep out of its prompts: none, or rivals in its own category."""
PSEUDONYMS = "pseudonyms"
"""The purpose, for `derived`, of the key that makes pseudonyms of user ids."""


@dataclass(frozen=True, slots=True)
class AdLoadSettings:
    """The controller of the ad load.

    `target` is the wanted value of the measured signal; `direction` is what more ads do to the signal: "rises" (ads
    per answer, rate of negative feedback) or "falls" (mean judged quality).

    `gain` is the change of the factor's logarithm for an error as large as the target; an error that persists adds as
    much in every `reset_s` seconds. The factor stays within `lowest`..`highest` and moves at most `fastest_per_hour`
    (in logarithms: 0.7 is about twofold). It is used in whole `step`s: each small change would alter every bid in every
    prompt, and with it the prefix that a model server has cached. A measurement of fewer than `least_answers` answers
    is ignored.
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
    """Limits and addresses of the router; times in seconds.

    `public_url` begins the click links; empty: the address that the request came to. `database` is a URL; empty: an
    SQLite file in the state directory. `currency` is used for requests that name none. `anonymous_chat` lets callers
    without a key chat, and read the auctions of such answers and the sums of revenue.

    `trusted_proxies` are the networks (CIDR) of load balancers, whose `forwarded_header` names the reader's address and
    scheme; from any other address the header is ignored (`serving.http.proxies`).

    `metrics_address` is a host:port that serves `/metrics`, and `/rollout` for the operator. Empty: `/metrics` alone is
    served, at the router's own address, where every client can read revenue and load; keep that address private, or set
    this one.

    `candidates` ads enter a prompt, at most `max_ads` of them are linked in one answer. `in_flight` bounds the answers
    under way, `waiting` the queue of a policy in this process. `deadline_s` applies where a request names no `tmax_ms`;
    `reserve_s` of either is kept for sending. A question that is not encoded within `encode_s` is searched by its words
    alone. `prior_ctr` is the assumed click rate of a new ad, with the weight of `prior_shown` impressions. `drain_s` is
    how long answers under way may take at shutdown.

    `allowed_topics` are sensitive topics that this router's administrator opens to ads (`serving.auction.sensitive`).
    `relevance_floor` is the least cosine of a candidate to the conversation; 0 lets any candidate into any prompt. A
    conversation has `conversation_ads` links at most, and `turns_between_ads` answers without ads after one with ads.
    Each time that it has shown an ad without a click multiplies the ad's shown bid by `repeat_fade`; 1 is off.

    An address without a key may send `address_per_minute` requests, a key `key_per_minute`, and `key_per_day` in a day;
    each router counts for itself, and 0 is no limit. A router has `connections` at most; a request's head has to arrive
    within `head_s`, its body within `body_s`. While the database is away, keys that were valid in the last
    `stale_keys_s` seconds are accepted; revocations are not seen meanwhile.

    `bid_scale` sets the highest bid of each currency, which the policy sees as 100 points. `block_advertisers` is the
    market's rule for the campaigns' field of that name.

    `log` is where events go: a folder, or "kafka" (`streaming.addresses`); empty: a folder in the state directory.
    `ledger` is where events of the log are charged: in a "process" beside the router, which keeps the work away from
    the streams; on a "thread" of the router, which starts faster; or "elsewhere" (`llm-auction worker ledger`). When an
    event of this router has waited for the ledger for `stop_ads_after_s`, answers have no ads until it is booked; 0:
    they go on.

    The newest `audited_answers` records are in memory. All routers of the database find each one for
    `shared_records_s`; 0: no router reads another's.

    `lake` is where `llm-auction worker lake` writes, a folder or s3://bucket/prefix, for `/v1/erasures`; empty: none.
    `retention_days` is how long the log keeps its records.
    """

    state_dir: Path = Path("build/serve")
    public_url: str = ""
    database: str = ""
    metrics_address: str = ""
    trusted_proxies: tuple[str, ...] = ()
    forwarded_header: Literal["x-forwarded-for", "forwarded"] = "x-forwarded-for"
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
    shared_records_s: float = 0.0
    log: str = ""
    ledger: Literal["process", "thread", "elsewhere"] = "thread"
    lake: str = ""
    retention_days: float = 30.0
    stop_ads_after_s: float = 900.0
    ad_load: AdLoadSettings | None = None
    allowed_topics: tuple[str, ...] = ()
    relevance_floor: float = 0.2
    bid_scale: BidScale = field(default_factory=BidScale)
    block_advertisers: BlockRule = "same-category"
    conversation_ads: int = 12
    turns_between_ads: int = 0
    repeat_fade: float = 0.7
    address_per_minute: int = 1_200
    key_per_minute: int = 6_000
    key_per_day: int = 0
    connections: int = 2_000
    head_s: float = 10.0
    body_s: float = 30.0
    stale_keys_s: float = 600.0

    def __post_init__(self) -> None:
        for name in (
            "routes_s",
            *("link_lifetime_s", "candidates", "max_ads", "in_flight", "waiting", "deadline_s", "encode_s", "drain_s"),
            *("refresh_s", "pacing_s", "prior_shown", "audited_answers", "connections", "head_s", "body_s"),
            "retention_days",
        ):
            if not getattr(self, name) > 0:
                raise ConfigError(name, getattr(self, name), "give a number above 0")
        if self.candidates > MOST_CANDIDATES:
            raise ConfigError("candidates", self.candidates, f"give {MOST_CANDIDATES} at most")
        if not 0 <= self.reserve_s < self.deadline_s:
            raise ConfigError("reserve_s", self.reserve_s, "give seconds from 0 to less than the deadline")
        if not self.shared_records_s >= 0:
            raise ConfigError("shared_records_s", self.shared_records_s, "give seconds, 0 for records in memory alone")
        if not self.stale_keys_s >= 0:
            raise ConfigError("stale_keys_s", self.stale_keys_s, "give seconds >= 0")
        if not 0 <= self.relevance_floor < 1:
            raise ConfigError("relevance_floor", self.relevance_floor, "give a cosine from 0 to less than 1")
        if not self.stop_ads_after_s >= 0:
            raise ConfigError("stop_ads_after_s", self.stop_ads_after_s, "give seconds, 0 for never")
        if self.conversation_ads < 0 or self.turns_between_ads < 0:
            given = (self.conversation_ads, self.turns_between_ads)
            raise ConfigError("conversation_ads, turns_between_ads", given, "give whole numbers >= 0")
        for name in ("address_per_minute", "key_per_minute", "key_per_day"):
            if getattr(self, name) < 0:
                raise ConfigError(name, getattr(self, name), "give a whole number >= 0; 0 is no limit")
        if not 0 <= self.repeat_fade <= 1:
            raise ConfigError("repeat_fade", self.repeat_fade, "give a factor from 0 to 1; 1 lets no ad fade")
        if not 0 <= self.prior_ctr <= 1:
            raise ConfigError("prior_ctr", self.prior_ctr, "give a probability")
        if not re.fullmatch("[A-Z]{3}", self.currency):
            raise ConfigError("currency", self.currency, "give an ISO 4217 code such as USD")
        if self.block_advertisers not in get_args(BlockRule):
            known = ", ".join(get_args(BlockRule))
            raise ConfigError("block_advertisers", self.block_advertisers, f"give one of {known}")
        if self.public_url and not self.public_url.startswith(("http://", "https://")):
            raise ConfigError("public_url", self.public_url, "begin it with http:// or https://")
        if self.metrics_address and not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\s]+):\d{1,5}", self.metrics_address):
            raise ConfigError("metrics_address", self.metrics_address, "give host:port such as 127.0.0.1:9090")

    @property
    def database_url(self) -> str:
        """The URL of the database with campaigns, keys and the ledger."""
        return self.database or f"sqlite:///{self.state_dir / 'router.sqlite3'}"

    @property
    def log_address(self) -> str:
        """The address of the event log."""
        return self.log or str(self.state_dir / "log")

    @property
    def spool_path(self) -> Path:
        """The folder of events that are not sent to the log yet."""
        return self.state_dir / "events"


def derived(secret: bytes, purpose: str) -> bytes:
    """Derive a key of 32 bytes for one purpose from the secret, so that no two purposes share a key."""
    return hmac.digest(secret, b"llm-auction " + purpose.encode(), hashlib.sha256)


def signing_secret(state_dir: Path, environment: Mapping[str, str] = os.environ) -> bytes:
    """Return the secret of `LLM_AUCTION_SECRET`, else that of the state directory (created at the first start, 0600).

    A secret that is too short, or that other users may read, is a ConfigError; errors never show it.
    """
    given = environment.get(SECRET_VARIABLE)
    if given is not None:
        return _checked(given, SECRET_VARIABLE)
    path = state_dir / SECRET_FILE
    state_dir.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _write_once(path, secrets.token_urlsafe(48))
    return _checked(_read(path), str(path))


def other_secrets(state_dir: Path, environment: Mapping[str, str] = os.environ) -> tuple[bytes, ...]:
    """Return the secrets that verify beside the signing one and sign nothing: former ones, or the next one.

    They are in `LLM_AUCTION_OTHER_SECRETS`, separated by white space; else, if the signing secret is in the state
    directory, in a file beside it. Errors are those of `signing_secret`.
    """
    given = environment.get(OTHERS_VARIABLE)
    if given is not None:
        return tuple(_checked(secret, OTHERS_VARIABLE) for secret in given.split())
    path = state_dir / OTHERS_FILE
    if environment.get(SECRET_VARIABLE) is not None or not path.exists():
        return ()
    return tuple(_checked(secret, str(path)) for secret in _read(path).split())


def known_secrets(state_dir: Path, environment: Mapping[str, str] = os.environ) -> tuple[bytes, ...]:
    """Return the secrets of routers that have run, the signing one first, without creating one.

    Raises:
        ConfigError: if there is none, it is too short, or other users may read it.
    """
    if environment.get(SECRET_VARIABLE) is None and not (state_dir / SECRET_FILE).exists():
        remedy = f"name the routers' state directory, or set {SECRET_VARIABLE}"
        raise ConfigError(str(state_dir / SECRET_FILE), "", remedy)
    return (signing_secret(state_dir, environment), *other_secrets(state_dir, environment))


def rotate_secret(state_dir: Path, forget: bool = False) -> int:
    """Replace the state directory's secret by a new one; return the number of former ones that still verify.

    Routers follow at their next start. With `forget`, nothing is replaced and the former ones are removed.

    Raises:
        ConfigError: if there is no secret, or the environment gives it.
    """
    if os.environ.get(SECRET_VARIABLE) is not None:
        raise ConfigError(SECRET_VARIABLE, "<set>", "it is not in the state directory: replace it where it is set")
    own, others = state_dir / SECRET_FILE, state_dir / OTHERS_FILE
    if not own.exists():
        raise ConfigError(str(own), "", "name the state directory of a router that has run")
    former = [] if forget else [_read(own), *(_read(others).split() if others.exists() else ())]
    # In this order: whatever a kill leaves, every secret that has signed verifies.
    _replace(others, " ".join(former))
    if not forget:
        _replace(own, secrets.token_urlsafe(48))
    return len(former)


def _read(path: Path) -> str:
    if path.stat().st_mode & 0o077:
        raise ConfigError(str(path), oct(path.stat().st_mode & 0o777), "others may read the secret: chmod 600 it")
    return path.read_text(encoding="ascii").strip()


def _checked(secret: str, place: str) -> bytes:
    if len(secret) < SECRET_CHARACTERS:
        remedy = f"use at least {SECRET_CHARACTERS} random characters, e.g. of `openssl rand -base64 48`"
        raise ConfigError(place, f"<{len(secret)} characters>", remedy)
    return secret.encode()


def _draft(path: Path, text: str) -> Path:
    draft = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
        file.write(text + "\n")
    return draft


def _replace(path: Path, text: str) -> None:
    _draft(path, text).replace(path)


def _write_once(path: Path, secret: str) -> None:
    """Create the complete file once: two servers that start at the same time on one directory share one secret."""
    draft = _draft(path, secret)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()

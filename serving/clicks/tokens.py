"""Click tokens: what a sponsored link carries so that a click can be charged without looking anything up.

A token is `base64url(key id, payload).base64url(mac)`, the MAC an HMAC-SHA256 cut to 128 bits. It holds no destination:
that comes from the campaign record alone, so that no token, however it was made, leads anywhere else. Keys rotate: the
newest signs, all of them verify until they are retired.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import msgspec

from mechanism.errors import AuctionError, ConfigError
from mechanism.types import AdId, Micros
from serving.campaigns.types import Pricing

DOMAIN = b"llm-auction click 2\0"
"""Keeps a MAC made for clicks from being valid for anything else under the same secret."""
LONGEST_TOKEN = 1_024
MAC_BYTES = 16
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,16}")
_PRICINGS = tuple(Pricing)


class TokenError(AuctionError):
    """A token that is not ours, was altered or is too old."""


class TokenExpired(TokenError):
    """A token of ours whose time is over; `click` is what it stood for, to redirect without a charge."""

    def __init__(self, click: Click) -> None:
        super().__init__("the token has expired")
        self.click = click


class Click(msgspec.Struct, frozen=True):
    """One clickable ad of one answer: all that a charge and its report line need, so that both hold even when the
    campaign's bid, or the campaign itself, has changed since.

    `price` is the bid in that auction, in micros of `currency`; `issued` and `expires` are Unix times in seconds,
    `issued` 0 where it is not known; `model_version` is empty where it is too long for a link. The reader and the query
    are left to the auction record.
    """

    auction_id: str
    ad_id: AdId
    price: Micros
    currency: str
    expires: int
    campaign_id: str = ""
    pricing: Pricing = Pricing.CLICK
    placement: str = ""
    issued: int = 0
    model_version: str = ""

    @property
    def id(self) -> str:
        """What is charged at most once: an ad in an answer, however often it is linked there (Eq. 7: 1(a_i in y))."""
        return f"{self.auction_id}:{self.ad_id}"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A secret with its public `id`. It signs from Unix time `since` on, so that it can be handed to every router
    before the first of them uses it, and verifies until `retired` (None: until it is taken off the list). A key should
    outlive the last link it signed."""

    id: str
    secret: bytes = field(repr=False)
    since: int = 0
    retired: int | None = None

    def __post_init__(self) -> None:
        if not _KEY_ID.fullmatch(self.id):
            raise ConfigError("signing key id", self.id, "use 1 to 16 letters, digits, _ or -")
        if len(self.secret) < 32:
            raise ConfigError(f"signing key {self.id}", f"<{len(self.secret)} bytes>", "use at least 32 random bytes")


class TokenSigner:
    """Signs and reads click tokens under one secret, or under rotating keys. Immutable: a rotation makes a new one."""

    def __init__(self, keys: bytes | Sequence[SigningKey], clock: Callable[[], float] = time.time) -> None:
        ring = [SigningKey("0", keys)] if isinstance(keys, bytes) else list(keys)
        self._keys = {key.id: key for key in ring}
        if not ring or len(self._keys) < len(ring):
            raise ConfigError("signing keys", [key.id for key in ring], "give at least one key, each with its own id")
        self._clock = clock

    def sign(self, click: Click) -> str:
        """The token of a click; safe in a URL path. Raises ConfigError when no key may sign at this time."""
        now = self._clock()
        able = [k for k in self._keys.values() if k.since <= now and (k.retired is None or now < k.retired)]
        if not able:
            raise ConfigError("signing keys", list(self._keys), "keep one key that has begun and is not retired")
        key = max(able, key=lambda k: (k.since, k.id))
        head = bytes([len(key.id)]) + key.id.encode("ascii") + _ENCODER.encode(_to_wire(click))
        return f"{_encode(head)}.{_encode(_mac(key, head))}"

    def read(self, token: str, now: float) -> Click:
        """The click that a token stands for at Unix time `now`. Raises TokenError, or TokenExpired after its time."""
        if len(token) > LONGEST_TOKEN:
            raise TokenError("the token is too long")
        first, dot, second = token.partition(".")
        if not dot:
            raise TokenError("the token has no signature")
        head, mac = _decode(first), _decode(second)
        key_id = head[1 : 1 + head[0]] if head else b""
        key = self._keys.get(key_id.decode("ascii", errors="replace"))
        if key is None or (key.retired is not None and now >= key.retired):
            raise TokenError("the token's key is not known, or retired")
        if not hmac.compare_digest(mac, _mac(key, head)):
            raise TokenError("the token's signature does not fit")
        try:
            click = _from_wire(_DECODER.decode(head[1 + len(key_id) :]))
        except (msgspec.DecodeError, ValueError, IndexError) as error:
            raise TokenError("the token is of another version") from error
        if now >= click.expires:
            raise TokenExpired(click)
        return click


class _Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A click in few bytes: the auction as "u" and a UUID's 16 bytes or "t" and text, the pricing as its place in the
    list."""

    auction_id: bytes
    ad_id: AdId
    campaign_id: str
    price: Micros
    currency: str
    pricing: int
    placement: str
    issued: int
    expires: int
    model_version: str = ""


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Wire)


def _to_wire(click: Click) -> _Wire:
    auction = b"t" + click.auction_id.encode()
    try:
        identifier = UUID(click.auction_id)
        if str(identifier) == click.auction_id:
            auction = b"u" + identifier.bytes
    except ValueError:
        pass  # not a UUID: it travels as text
    pricing = _PRICINGS.index(click.pricing)
    return _Wire(
        auction,
        click.ad_id,
        click.campaign_id,
        click.price,
        click.currency,
        pricing,
        click.placement,
        click.issued,
        click.expires,
        click.model_version,
    )


def _from_wire(wire: _Wire) -> Click:
    kind, identifier = wire.auction_id[:1], wire.auction_id[1:]
    auction = str(UUID(bytes=identifier)) if kind == b"u" else identifier.decode()
    return Click(
        auction_id=auction,
        ad_id=wire.ad_id,
        price=wire.price,
        currency=wire.currency,
        expires=wire.expires,
        campaign_id=wire.campaign_id,
        pricing=_PRICINGS[wire.pricing],
        placement=wire.placement,
        issued=wire.issued,
        model_version=wire.model_version,
    )


def _mac(key: SigningKey, head: bytes) -> bytes:
    return hmac.digest(key.secret, DOMAIN + head, hashlib.sha256)[:MAC_BYTES]


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    """Strict: only the one spelling that `_encode` would write, so that no two tokens mean the same click."""
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError) as error:
        raise TokenError("the token is not base64url") from error
    if _encode(data) != text:
        raise TokenError("the token is not canonical base64url")
    return data

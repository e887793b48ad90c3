"""Click tokens: what a sponsored link carries so that a click can be charged without looking anything up.

A token is `base64url(payload).base64url(mac)`, the MAC an HMAC-SHA256 under the server's secret. It holds the auction,
the ad and the bid of that auction, and expires. It holds no destination: that comes from the catalogue alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

import msgspec

from mechanism.errors import AuctionError
from mechanism.types import AdId, Micros

DOMAIN = b"llm-auction click 1\0"
"""Keeps a MAC made for clicks from being valid for anything else under the same secret."""
LONGEST_TOKEN = 1_024


class TokenError(AuctionError):
    """A token that is not ours, was altered or is too old."""


class TokenExpired(TokenError):
    """A token of ours whose time is over."""


class Click(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One clickable ad of one answer. `price` is the bid in that auction, in micros of `currency`; `expires` is a
    Unix time in seconds."""

    auction_id: str
    ad_id: AdId
    price: Micros
    currency: str
    expires: int

    @property
    def id(self) -> str:
        """What is charged at most once: an ad in an answer, however often it is linked there (Eq. 7: 1(a_i in y))."""
        return f"{self.auction_id}:{self.ad_id}"


class TokenSigner:
    """Signs and reads click tokens under one secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def sign(self, click: Click) -> str:
        """The token of a click; safe in a URL path."""
        payload = msgspec.msgpack.encode(click)
        return f"{_encode(payload)}.{_encode(self._mac(payload))}"

    def read(self, token: str, now: float) -> Click:
        """The click that a token stands for at Unix time `now`. Raises TokenError, or TokenExpired after its time."""
        if len(token) > LONGEST_TOKEN:
            raise TokenError("the token is too long")
        head, dot, tail = token.partition(".")
        if not dot:
            raise TokenError("the token has no signature")
        payload, mac = _decode(head), _decode(tail)
        if not hmac.compare_digest(mac, self._mac(payload)):
            raise TokenError("the token's signature does not fit")
        try:
            click = msgspec.msgpack.decode(payload, type=Click)
        except msgspec.DecodeError as error:
            raise TokenError("the token is of another version") from error
        if now >= click.expires:
            raise TokenExpired("the token has expired")
        return click

    def _mac(self, payload: bytes) -> bytes:
        return hmac.new(self._secret, DOMAIN + payload, hashlib.sha256).digest()


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

"""Sponsored links and their tokens: encrypted claims with all that a charge needs, so that a click needs no lookup.

A token is `base64url(key id, salt, AES-256-GCM of the claims)`: the holder of a link can neither read its bid nor alter
it. Each token has a key of its own, an HMAC-SHA256 over its random salt, so that no number of tokens exhausts a nonce.
It holds no destination, which comes from the campaign record. Keys rotate: the newest encrypts, all decrypt until they
are retired. Tokens of earlier versions, signed and readable (`key id, claims "." MAC`), are read until they expire.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mechanism.errors import AuctionError, ConfigError
from mechanism.types import AdId, Micros
from serving.auction.offers import Offer
from serving.campaigns.types import Pricing

DOMAIN, SIGNED_DOMAIN = b"llm-auction click 3\0", b"llm-auction click 2\0"
"""Separate the keys and MACs of clicks from those of other purposes under the same secret."""
LONGEST_TOKEN = 1_024
SALT_BYTES = MAC_BYTES = 16
NONCE = bytes(12)
"""Constant, because no key encrypts twice."""
NEVER = 2**62
"""Unix time from which a key signs that only verifies."""
NUMBER_BYTES = 9 + 5
"""Longest encoding of price and delay: shorter ones are padded, so that no token's length shows how high its bid is."""
LONGEST_DELAY_MS = 2**32 - 1
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,16}")
_PRICINGS = tuple(Pricing)


class TokenError(AuctionError):
    """A token that was not signed here, was altered or has expired."""


class TokenExpired(TokenError):
    """A valid token after its time; its `claims` allow a redirect without a charge."""

    def __init__(self, claims: ClickClaims) -> None:
        super().__init__("the token has expired")
        self.claims = claims


class ClickClaims(msgspec.Struct, frozen=True):
    """What a token claims about one ad of one answer.

    It holds all that the charge and its report line need, so that both stay correct when the campaign or its bid has
    changed since. `price` is the bid in that auction, in micros of `currency`. `issued` (the time of the answer) and
    `expires` are Unix times in seconds, `issued` 0 if unknown; the link was sent `delay_ms` after `issued`.
    `version` is the served version (`mechanism.weights`), empty if it is too long for a link. `reader` is a keyed hash
    of the reader's id, empty without consent. The query is left to the auction record.
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
    version: str = ""
    delay_ms: int = 0
    reader: str = ""

    @property
    def sent_at(self) -> float:
        """Unix time at which the reader got the link."""
        return self.issued + self.delay_ms / 1000

    @property
    def id(self) -> str:
        """The id that is charged at most once: an ad in an answer, however often it is linked (Eq. 7: 1(a_i in y))."""
        return f"{self.auction_id}:{self.ad_id}"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A secret with its public `id`.

    It signs from Unix time `since` on, so that every router can have it before the first uses it, and verifies until
    `retired` (None: until it is removed from the list). Keep a key until the last link it signed has expired.

    Raises:
        ConfigError: if the id or the secret is malformed.
    """

    id: str
    secret: bytes = field(repr=False)
    since: int = 0
    retired: int | None = None

    def __post_init__(self) -> None:
        if not _KEY_ID.fullmatch(self.id):
            raise ConfigError("signing key id", self.id, "use 1 to 16 letters, digits, _ or -")
        if len(self.secret) < 32:
            raise ConfigError(f"signing key {self.id}", f"<{len(self.secret)} bytes>", "use at least 32 random bytes")


def key_ring(secrets_: Sequence[bytes]) -> list[SigningKey]:
    """Return the keys of some secrets: the first one signs, all verify.

    A key's id derives from its secret, so that routers need not agree on ids. Tokens of earlier versions have the id
    "0", for the only secret of their time.
    """
    ring = [
        SigningKey(_encode(hmac.digest(secret, b"llm-auction key id\0", hashlib.sha256)[:6]), secret, since=-place)
        for place, secret in enumerate(secrets_)
    ]
    return [*ring, SigningKey("0", secrets_[-1], since=NEVER)]


class TokenSigner:
    """Encrypts and reads click tokens under one secret or under rotating keys. Immutable: a rotation makes a new one.

    Raises:
        ConfigError: if there is no key, or two share an id.
    """

    def __init__(self, keys: bytes | Sequence[SigningKey], clock: Callable[[], float] = time.time) -> None:
        ring = [SigningKey("0", keys)] if isinstance(keys, bytes) else list(keys)
        self._keys = {key.id: key for key in ring}
        if not ring or len(self._keys) < len(ring):
            raise ConfigError("signing keys", [key.id for key in ring], "give at least one key, each with its own id")
        self._clock = clock

    def sign(self, claims: ClickClaims) -> str:
        """Return the token of a click, safe in a URL path.

        Raises:
            ConfigError: if no key may sign at this time.
        """
        now = self._clock()
        able = [k for k in self._keys.values() if k.since <= now and (k.retired is None or now < k.retired)]
        if not able:
            raise ConfigError("signing keys", list(self._keys), "keep one key that is in use and not retired")
        key = max(able, key=lambda k: (k.since, k.id))
        padding = NUMBER_BYTES - len(_ENCODER.encode(claims.price)) - len(_ENCODER.encode(claims.delay_ms))
        text = bytes([padding]) + _ENCODER.encode(_to_wire(claims)) + bytes(padding)
        head = bytes([len(key.id)]) + key.id.encode("ascii") + secrets.token_bytes(SALT_BYTES)
        return _encode(head + _cipher(key, head).encrypt(NONCE, text, head))

    def read(self, token: str, now: float) -> ClickClaims:
        """Decrypt a token at Unix time `now` and return its claims.

        Raises:
            TokenExpired: if the token is valid but its time is over.
            TokenError: if the token was not made here or was altered.
        """
        if len(token) > LONGEST_TOKEN:
            raise TokenError("the token is too long")
        payload = self._verified(token, now) if "." in token else self._decrypted(token, now)
        try:
            claims = _from_wire(_DECODER.decode(payload))
        except (msgspec.DecodeError, ValueError, IndexError) as error:
            raise TokenError("the token is of another version") from error
        if now >= claims.expires:
            raise TokenExpired(claims)
        return claims

    def _decrypted(self, token: str, now: float) -> bytes:
        data = _decode(token)
        key = self._key(data, now)
        head = data[: 1 + len(key.id) + SALT_BYTES]
        try:
            text = _cipher(key, head).decrypt(NONCE, data[len(head) :], head)
        except (InvalidTag, ValueError) as error:
            raise TokenError("the token was altered") from error
        return text[1 : len(text) - text[0]]

    def _verified(self, token: str, now: float) -> bytes:
        """Return the payload of a signed token of an earlier version.

        Raises:
            TokenError: if the signature is wrong.
        """
        first, _, second = token.partition(".")
        head, mac = _decode(first), _decode(second)
        key = self._key(head, now)
        if not hmac.compare_digest(mac, _mac(key, head)):
            raise TokenError("the token's signature is wrong")
        return head[1 + len(key.id) :]

    def _key(self, head: bytes, now: float) -> SigningKey:
        key_id = head[1 : 1 + head[0]] if head else b""
        key = self._keys.get(key_id.decode("ascii", errors="replace"))
        if key is None or (key.retired is not None and now >= key.retired):
            raise TokenError("the token's key is unknown or retired")
        return key


@dataclass(frozen=True, slots=True)
class ClickLinks:
    """Makes the links of one auction, which began at Unix time `created`; they are valid for `lifetime_s`.

    `reader` is that of `ClickClaims`; `clock` returns the Unix time at which a link is sent.
    """

    signer: TokenSigner
    base_url: str
    auction_id: str
    created: int
    lifetime_s: int
    placement: str
    version: str
    reader: str = ""
    clock: Callable[[], float] = time.time

    def url(self, offer: Offer) -> str:
        """Return the link of an offer, under the router's address."""
        claims = ClickClaims(
            auction_id=self.auction_id,
            ad_id=offer.ad.id,
            price=offer.price,
            currency=offer.campaign.currency,
            expires=self.created + self.lifetime_s,
            campaign_id=offer.campaign.id,
            pricing=offer.campaign.pricing,
            placement=self.placement,
            issued=self.created,
            version=self.version,
            delay_ms=min(max(0, round((self.clock() - self.created) * 1000)), LONGEST_DELAY_MS),
            reader=self.reader,
        )
        return f"{self.base_url}/c/{self.signer.sign(claims)}"


class _Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Claims in few bytes.

    The auction is "u" and the 16 bytes of a UUID, or "t" and text; the pricing is its position in the enumeration.
    """

    auction_id: bytes
    ad_id: AdId
    campaign_id: str
    price: Micros
    currency: str
    pricing: int
    placement: str
    issued: int
    expires: int
    version: str = ""
    delay_ms: int = 0
    reader: str = ""


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Wire)


def _to_wire(claims: ClickClaims) -> _Wire:
    auction = b"t" + claims.auction_id.encode()
    try:
        identifier = UUID(claims.auction_id)
        if str(identifier) == claims.auction_id:
            auction = b"u" + identifier.bytes
    except ValueError:
        pass  # not a UUID: sent as text
    pricing = _PRICINGS.index(claims.pricing)
    return _Wire(
        auction,
        claims.ad_id,
        claims.campaign_id,
        claims.price,
        claims.currency,
        pricing,
        claims.placement,
        claims.issued,
        claims.expires,
        claims.version,
        claims.delay_ms,
        claims.reader,
    )


def _from_wire(wire: _Wire) -> ClickClaims:
    kind, identifier = wire.auction_id[:1], wire.auction_id[1:]
    auction = str(UUID(bytes=identifier)) if kind == b"u" else identifier.decode()
    return ClickClaims(
        auction_id=auction,
        ad_id=wire.ad_id,
        price=wire.price,
        currency=wire.currency,
        expires=wire.expires,
        campaign_id=wire.campaign_id,
        pricing=_PRICINGS[wire.pricing],
        placement=wire.placement,
        issued=wire.issued,
        version=wire.version,
        delay_ms=wire.delay_ms,
        reader=wire.reader,
    )


def _cipher(key: SigningKey, head: bytes) -> AESGCM:
    return AESGCM(hmac.digest(key.secret, DOMAIN + head, hashlib.sha256))


def _mac(key: SigningKey, head: bytes) -> bytes:
    return hmac.digest(key.secret, SIGNED_DOMAIN + head, hashlib.sha256)[:MAC_BYTES]


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    # Only the spelling that `_encode` writes is accepted, so that no two tokens are equivalent.
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError) as error:
        raise TokenError("the token is not base64url") from error
    if _encode(data) != text:
        raise TokenError("the token is not canonical base64url")
    return data

"""Disclosure receipts: what an answer showed, where, under which label; signed, so that a third party can check it.

A receipt is a JSON Web Signature (RFC 7515) with Ed25519 (RFC 8037). Its public keys are a JSON Web Key Set, so that
any JOSE library verifies it without this project. It holds neither the question nor the answer, and no amount.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mechanism.types import AdId
from serving.answering.auction_records import AnswerOutcome, AuctionRecord

TYPE = "llm-auction-receipt"


class DisclosedAd(msgspec.Struct, frozen=True):
    """One ad in the answer.

    `spans` are the places of its links, label included, in Unicode characters of the answer's text; `click_id` is the
    id that a click on it is charged under.
    """

    ad_id: AdId
    campaign_id: str
    advertiser: str
    title: str
    label: str
    spans: list[tuple[int, int]]
    click_id: str


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What the reader of one answer was shown.

    `withheld` is the reason code of an answer that may have no ads.
    """

    auction_id: str
    answered_at: datetime
    issued_at: datetime
    outcome: AnswerOutcome
    placement: str
    model: str
    model_digest: str
    withheld: str
    ads: list[DisclosedAd]


def receipt_of(record: AuctionRecord, owns: Callable[[str], bool], now: datetime) -> Receipt:
    """Return the receipt of a record, with the ads of the campaigns that the caller may see."""
    return Receipt(
        auction_id=record.auction_id,
        answered_at=datetime.fromtimestamp(record.created, UTC),
        issued_at=now,
        outcome=record.outcome,
        placement=record.placement,
        model=record.model,
        model_digest=record.model_digest,
        withheld=record.withheld,
        ads=[
            DisclosedAd(ad.ad_id, ad.campaign_id, ad.advertiser, ad.title, ad.label, ad.spans, ad.click_id)
            for ad in record.shown
            if owns(ad.campaign_id)
        ],
    )


class ReceiptSigner:
    """Signs receipts under the first of some keys of 32 bytes; all of them are published."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = [Ed25519PrivateKey.from_private_bytes(key) for key in keys]
        self._public = [_encode(key.public_key().public_bytes_raw()) for key in self._keys]

    def sign(self, receipt: Receipt) -> str:
        """Return the receipt as a compact JWS."""
        header = {"alg": "EdDSA", "typ": TYPE, "kid": _key_id(self._public[0])}
        signed = f"{_encode(msgspec.json.encode(header))}.{_encode(msgspec.json.encode(receipt))}"
        return f"{signed}.{_encode(self._keys[0].sign(signed.encode()))}"

    def public_keys(self) -> dict[str, Any]:
        """Return the JSON Web Key Set that verifies receipts."""
        fixed = {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA"}
        return {"keys": [fixed | {"kid": _key_id(public), "x": public} for public in self._public]}


def _key_id(public: str) -> str:
    """Return the key's thumbprint (RFC 7638), shortened."""
    members = f'{{"crv":"Ed25519","kty":"OKP","x":"{public}"}}'
    return _encode(hashlib.sha256(members.encode()).digest())[:16]


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")

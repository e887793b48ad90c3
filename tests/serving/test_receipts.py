"""Disclosure receipts: what was shown, where, under which label; readable by those concerned, checkable by anyone."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Start = Callable[..., Any]


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def verified(router: Any, jws: str) -> Any:
    """Return the payload of a JWS after checking it as a third party would: by the published keys alone."""
    head, payload, signature = jws.split(".")
    named = json.loads(decoded(head))["kid"]
    [key] = [key for key in router.get("/.well-known/jwks.json").json()["keys"] if key["kid"] == named]
    Ed25519PublicKey.from_public_bytes(decoded(key["x"])).verify(decoded(signature), f"{head}.{payload}".encode())
    return json.loads(decoded(payload))


def test_a_receipt_says_what_was_shown_to_those_concerned(start: Start) -> None:
    router = start("For mud {A2}, or {A3}.")
    publisher = router.key("publisher")
    body = {"model": "scripted", "messages": [{"role": "user", "content": "Good running shoes?"}]}
    body |= {"ads": {"placement": "footer"}}
    answer = router.call("POST", "/v1/chat/completions", publisher, json=body).json()
    path = f"/v1/auctions/{answer['auction']['auction_id']}/receipt"
    found = router.call("GET", path, publisher).json()
    assert verified(router, found["jws"]) == found["receipt"]
    text = answer["choices"][0]["message"]["content"]
    assert (found["receipt"]["placement"], found["receipt"]["outcome"]) == ("footer", "answered")
    for ad, title in zip(found["receipt"]["ads"], ("Brand2 Coffee Beans", "Brand3 City Hotels"), strict=True):
        [(begin, end)] = ad["spans"]
        assert text[begin:end].startswith(f"[{title}](")
        assert text[begin:end].endswith(f"({ad['label']})")
        assert ad["title"] == title
    own = router.call("GET", path, router.key("advertiser", "Brand3")).json()
    assert [ad["ad_id"] for ad in own["receipt"]["ads"]] == ["A3"]
    assert "Brand2" not in json.dumps(verified(router, own["jws"]))
    assert "_micros" not in json.dumps([found, own])
    assert "running shoes" not in json.dumps(found)
    for stranger in (router.key("advertiser", "Brand1"), router.key("publisher"), ""):
        assert router.call("GET", path, stranger).status_code == 404
    assert router.call("GET", "/v1/auctions/none/receipt").status_code == 404


def test_a_changed_receipt_does_not_verify(start: Start) -> None:
    router = start("Try {A1}.")
    auction = router.ask()["auction"]["auction_id"]
    head, payload, signature = router.get(f"/v1/auctions/{auction}/receipt").json()["jws"].split(".")
    changed = base64.urlsafe_b64encode(decoded(payload).replace(b"Sponsored", b"Advice")).rstrip(b"=").decode()
    with pytest.raises(InvalidSignature):
        verified(router, f"{head}.{changed}.{signature}")

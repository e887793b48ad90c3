"""Click tokens: only tokens made here are read, only until they expire, and by no other key."""

from __future__ import annotations

import base64
import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanism.errors import ConfigError
from serving.campaigns.types import Pricing
from serving.clicks import tokens
from serving.clicks.tokens import ClickClaims, SigningKey, TokenError, TokenExpired, TokenSigner

SIGNER = TokenSigner(b"one secret that is long enough to be one")
IDS = st.text(string.ascii_letters + string.digits + "._:-", min_size=1, max_size=64)
CLAIMS = st.builds(
    ClickClaims,
    auction_id=st.one_of(st.uuids().map(str), st.uuids().map(lambda u: u.hex), st.text("tu\0é", max_size=17)),
    ad_id=IDS,
    price=st.integers(0, 10**12),
    currency=st.sampled_from(["EUR", "USD", "JPY"]),
    expires=st.integers(1, 2**40),
    campaign_id=IDS,
    pricing=st.sampled_from(Pricing),
    placement=st.sampled_from(["", "chat", "voice assistant"]),
    issued=st.integers(0, 2**40),
    delay_ms=st.integers(0, 2**32 - 1),
    reader=st.sampled_from(["", "0123456789abcdef"]),
)
ALPHABET = string.ascii_letters + string.digits + "-_.=+/%"


@given(CLAIMS)
def test_signed_claims_are_read_back_until_they_expire(claims: ClickClaims) -> None:
    token = SIGNER.sign(claims)
    assert SIGNER.read(token, claims.expires - 1) == claims
    with pytest.raises(TokenExpired):
        SIGNER.read(token, claims.expires)


@given(CLAIMS)
def test_a_token_is_one_plain_path_segment(claims: ClickClaims) -> None:
    assert set(SIGNER.sign(claims)) <= set(string.ascii_letters + string.digits + "-_.")


@given(CLAIMS, st.data())
def test_no_changed_character_goes_unnoticed(claims: ClickClaims, data: st.DataObject) -> None:
    token = SIGNER.sign(claims)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from(ALPHABET).filter(lambda c: c != token[at]))
    for altered in (token[:at] + other + token[at + 1 :], token[:at] + token[at + 1 :], token + other):
        with pytest.raises(TokenError):
            SIGNER.read(altered, 0)


@given(CLAIMS)
def test_tokens_of_another_secret_are_rejected(claims: ClickClaims) -> None:
    with pytest.raises(TokenError):
        SIGNER.read(TokenSigner(b"another secret that is long enough too").sign(claims), 0)


@given(CLAIMS, CLAIMS)
def test_a_token_does_not_show_its_bid(one: ClickClaims, other: ClickClaims) -> None:
    twin = msgspec.structs.replace(one, price=other.price)
    first, second = SIGNER.sign(one), SIGNER.sign(twin)
    assert len(first) == len(second)
    assert first != second != SIGNER.sign(twin)
    assert msgspec.msgpack.encode(one.ad_id) not in base64.urlsafe_b64decode(first + "=" * (-len(first) % 4))


@given(CLAIMS)
def test_signed_tokens_of_earlier_versions_are_read_until_they_expire(claims: ClickClaims) -> None:
    head = b"\x010" + tokens._ENCODER.encode(tokens._to_wire(claims))
    mac = tokens._mac(SigningKey("0", b"one secret that is long enough to be one"), head)
    token = f"{tokens._encode(head)}.{tokens._encode(mac)}"
    assert SIGNER.read(token, claims.expires - 1) == claims
    with pytest.raises(TokenExpired):
        SIGNER.read(token, claims.expires)
    with pytest.raises(TokenError):
        SIGNER.read(f"{tokens._encode(head)}.{tokens._encode(mac[::-1] + b'x')}", 0)


@given(st.text(max_size=2_000))
def test_any_other_text_is_rejected(text: str) -> None:
    with pytest.raises(TokenError):
        SIGNER.read(text, 0)


KEYS = [SigningKey(f"k{i}", bytes([i]) * 32, since=100 * i) for i in range(1, 4)]


def at(moment: float, *keys: SigningKey) -> TokenSigner:
    return TokenSigner(keys, clock=lambda: moment)


@given(CLAIMS, st.permutations(KEYS))
def test_the_newest_active_key_signs_and_all_verify(claims: ClickClaims, keys: list[SigningKey]) -> None:
    for moment, key in ((100, KEYS[0]), (299, KEYS[1]), (300, KEYS[2]), (9_999, KEYS[2])):
        token = at(moment, *keys).sign(claims)
        assert at(moment, key).read(token, 0) == claims
        assert at(moment, *keys).read(token, 0) == claims
        with pytest.raises(TokenError, match="key"):
            at(moment, *(k for k in keys if k is not key)).read(token, 0)


def test_a_retired_key_neither_signs_nor_verifies() -> None:
    claims = ClickClaims("a", "A1", 1, "EUR", 2_000)
    old = SigningKey("old", b"o" * 32, retired=1_000)
    token = at(0, old).sign(claims)
    assert at(0, old).read(token, 999) == claims
    with pytest.raises(TokenError, match="retired"):
        at(0, old).read(token, 1_000)
    with pytest.raises(ConfigError, match="not retired"):
        at(1_000, old).sign(claims)


@given(CLAIMS)
def test_a_signature_depends_on_the_key_id(claims: ClickClaims) -> None:
    one, other = SigningKey("k1", b"s" * 32), SigningKey("k2", b"s" * 32)
    mixed = tokens._encode(b"\x02k2" + tokens._decode(at(0, one).sign(claims))[3:])
    with pytest.raises(TokenError):
        at(0, one, other).read(mixed, 0)


def test_an_expired_token_still_yields_its_claims() -> None:
    claims = ClickClaims("a", "A1", 1, "EUR", 10, campaign_id="C1")
    with pytest.raises(TokenExpired) as caught:
        SIGNER.read(SIGNER.sign(claims), 10)
    assert caught.value.claims == claims


def test_a_usual_token_is_short() -> None:
    claims = ClickClaims(
        "0199e5a4-7c1e-7b7e-8b7a-1f1e5a3c9d10",
        "cr_01J9ZK3V7Q",
        350_000,
        "EUR",
        1_790_086_400,
        "ca_01J9ZK3V7Q",
        Pricing.CLICK,
        "chat",
        1_790_000_000,
    )
    assert len(SIGNER.sign(claims)) <= 160


@pytest.mark.parametrize(
    "keys",
    [[], [KEYS[0], KEYS[0]], [SigningKey("a", b"x" * 32), SigningKey("a", b"y" * 32)]],
    ids=["none", "twice", "id"],
)
def test_a_key_ring_is_checked(keys: list[SigningKey]) -> None:
    with pytest.raises(ConfigError, match="its own id"):
        TokenSigner(keys)


def test_weak_and_misnamed_keys_are_rejected_without_showing_them() -> None:
    with pytest.raises(ConfigError) as caught:
        SigningKey("k", b"hunter2")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match="letters"):
        SigningKey("k 1", b"x" * 32)
    assert "xxx" not in repr(SigningKey("k", b"x" * 32))

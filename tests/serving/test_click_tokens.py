"""Click tokens: only what was signed is read, and only in time."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanism.errors import ConfigError
from serving.campaigns.types import Pricing
from serving.clicks.tokens import Click, SigningKey, TokenError, TokenExpired, TokenSigner

SIGNER = TokenSigner(b"one secret that is long enough to be one")
IDS = st.text(string.ascii_letters + string.digits + "._:-", min_size=1, max_size=64)
CLICKS = st.builds(
    Click,
    auction_id=st.one_of(st.uuids().map(str), st.uuids().map(lambda u: u.hex), st.text("tu\0é", max_size=17)),
    ad_id=IDS,
    price=st.integers(0, 10**12),
    currency=st.sampled_from(["EUR", "USD", "JPY"]),
    expires=st.integers(1, 2**40),
    campaign_id=IDS,
    pricing=st.sampled_from(Pricing),
    placement=st.sampled_from(["", "chat", "voice assistant"]),
    issued=st.integers(0, 2**40),
)
ALPHABET = string.ascii_letters + string.digits + "-_.=+/%"


@given(CLICKS)
def test_a_signed_click_is_read_back_until_it_expires(click: Click) -> None:
    token = SIGNER.sign(click)
    assert SIGNER.read(token, click.expires - 1) == click
    with pytest.raises(TokenExpired):
        SIGNER.read(token, click.expires)


@given(CLICKS)
def test_a_token_is_one_plain_path_segment(click: Click) -> None:
    assert set(SIGNER.sign(click)) <= set(string.ascii_letters + string.digits + "-_.")


@given(CLICKS, st.data())
def test_no_changed_character_goes_unnoticed(click: Click, data: st.DataObject) -> None:
    token = SIGNER.sign(click)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from(ALPHABET).filter(lambda c: c != token[at]))
    for altered in (token[:at] + other + token[at + 1 :], token[:at] + token[at + 1 :], token + other):
        with pytest.raises(TokenError):
            SIGNER.read(altered, 0)


@given(CLICKS)
def test_another_secret_signs_nothing_for_us(click: Click) -> None:
    with pytest.raises(TokenError):
        SIGNER.read(TokenSigner(b"another secret that is long enough too").sign(click), 0)


@given(CLICKS, CLICKS)
def test_a_signature_fits_one_payload_only(one: Click, other: Click) -> None:
    swapped = SIGNER.sign(one).split(".")[0] + "." + SIGNER.sign(other).split(".")[1]
    if one == other:
        assert SIGNER.read(swapped, 0) == one
    else:
        with pytest.raises(TokenError):
            SIGNER.read(swapped, 0)


@given(st.text(max_size=2_000))
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(TokenError):
        SIGNER.read(text, 0)


KEYS = [SigningKey(f"k{i}", bytes([i]) * 32, since=100 * i) for i in range(1, 4)]


def at(moment: float, *keys: SigningKey) -> TokenSigner:
    return TokenSigner(keys, clock=lambda: moment)


@given(CLICKS, st.permutations(KEYS))
def test_the_newest_key_that_has_begun_signs_and_all_verify(click: Click, keys: list[SigningKey]) -> None:
    for moment, key in ((100, KEYS[0]), (299, KEYS[1]), (300, KEYS[2]), (9_999, KEYS[2])):
        token = at(moment, *keys).sign(click)
        assert token == at(moment, key).sign(click)
        assert at(moment, *keys).read(token, 0) == click
        with pytest.raises(TokenError, match="key"):
            at(moment, *(k for k in keys if k is not key)).read(token, 0)


def test_a_retired_key_neither_signs_nor_verifies() -> None:
    click = Click("a", "A1", 1, "EUR", 2_000)
    old = SigningKey("old", b"o" * 32, retired=1_000)
    token = at(0, old).sign(click)
    assert at(0, old).read(token, 999) == click
    with pytest.raises(TokenError, match="retired"):
        at(0, old).read(token, 1_000)
    with pytest.raises(ConfigError, match="not retired"):
        at(1_000, old).sign(click)


@given(CLICKS)
def test_the_same_secret_under_another_id_signs_something_else(click: Click) -> None:
    one, other = SigningKey("k1", b"s" * 32), SigningKey("k2", b"s" * 32)
    first, second = at(0, one).sign(click), at(0, other).sign(click)
    mixed = second.split(".")[0] + "." + first.split(".")[1]
    with pytest.raises(TokenError):
        at(0, one, other).read(mixed, 0)


def test_an_expired_token_still_says_where_it_led() -> None:
    click = Click("a", "A1", 1, "EUR", 10, campaign_id="C1")
    with pytest.raises(TokenExpired) as caught:
        SIGNER.read(SIGNER.sign(click), 10)
    assert caught.value.click == click


def test_a_usual_token_is_short() -> None:
    click = Click(
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
    assert len(SIGNER.sign(click)) <= 140


@pytest.mark.parametrize(
    "keys",
    [[], [KEYS[0], KEYS[0]], [SigningKey("a", b"x" * 32), SigningKey("a", b"y" * 32)]],
    ids=["none", "twice", "id"],
)
def test_a_key_ring_is_checked(keys: list[SigningKey]) -> None:
    with pytest.raises(ConfigError, match="its own id"):
        TokenSigner(keys)


def test_weak_and_misnamed_keys_are_refused_without_showing_them() -> None:
    with pytest.raises(ConfigError) as caught:
        SigningKey("k", b"hunter2")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match="letters"):
        SigningKey("k 1", b"x" * 32)
    assert "xxx" not in repr(SigningKey("k", b"x" * 32))

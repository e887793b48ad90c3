"""Click tokens: only what was signed is read, and only in time."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.tokens import Click, TokenError, TokenExpired, TokenSigner

SIGNER = TokenSigner(b"one secret that is long enough to be one")
CLICKS = st.builds(
    Click,
    auction_id=st.uuids().map(str),
    ad_id=st.text(string.ascii_letters + string.digits + "._:-", min_size=1, max_size=64),
    price=st.integers(0, 10**12),
    currency=st.sampled_from(["EUR", "USD", "JPY"]),
    expires=st.integers(1, 2**40),
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

"""Repeated ads fade: shown and not clicked, an ad counts less in the same conversation; a click ends that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from serving.answering.repeats import RecentClicks, fades
from serving.clicks.tokens import ClickClaims, TokenSigner

SIGNER = TokenSigner(b"a secret that is long enough for these tests")


def token(auction: str, ad_id: str) -> str:
    return SIGNER.sign(ClickClaims(auction, ad_id, 5, "EUR", expires=1))


def test_each_unclicked_showing_multiplies_the_bid_by_the_fade() -> None:
    tokens = [token("one", "A1"), token("two", "A1"), token("two", "A2"), "forged"]
    clicks = RecentClicks()
    assert fades(tokens, SIGNER, clicks, 0.5) == {"A1": 0.25, "A2": 0.5}
    clicks.add("two:A1")
    assert fades(tokens, SIGNER, clicks, 0.5) == {"A1": 0.5, "A2": 0.5}
    assert fades(tokens, SIGNER, clicks, 1.0) == {}


def test_the_oldest_clicks_are_forgotten() -> None:
    clicks = RecentClicks(2)
    for name in ("a", "b", "a", "c"):
        clicks.add(name)
    assert [name in clicks for name in "abc"] == [True, False, True]


@pytest.mark.parametrize(("fade", "bids"), [(0.5, [100_000, 50_000, 50_000]), (1.0, [100_000] * 3)])
def test_an_ad_fades_in_a_conversation_until_it_is_clicked(
    start: Callable[..., Any], fade: float, bids: list[int]
) -> None:
    router = start("Try {A1}.", repeat_fade=fade)
    messages: list[dict[str, str]] = []
    for turn in range(3):
        messages.append({"role": "user", "content": "Good running shoes?"})
        answer = router.ask(messages=messages)
        messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
        if turn == 1:
            assert router.click(answer["ads"][0]["click_url"]).status_code == 302
    assert [context.bids()["A1"] for context in router.policy.contexts] == bids
    assert router.policy.contexts[-1].bids()["A2"] == 200_000
    record = router.call("GET", "/v1/auctions").json()["items"][0]
    [shown] = [c for c in record["candidates"] if c["ad_id"] == "A1"]
    assert (shown["bid_micros"], shown["shown_bid_micros"]) == (100_000, bids[-1])  # a click costs the same

"""What an ad bids is shown to its advertiser and to administrators only."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.answering.record_views import own_entries, without_amounts

BIDS = [n * 100_000 for n in range(1, 7)]


def amounts(value: Any) -> list[str]:
    """Return the names of all fields of amounts, at any depth."""
    if isinstance(value, list):
        return [name for one in value for name in amounts(one)]
    if not isinstance(value, dict):
        return []
    return [name for name in value if name.endswith("_micros")] + [n for one in value.values() for n in amounts(one)]


@pytest.mark.parametrize("stream", [False, True])
def test_no_answer_holds_a_bid(start: Callable[..., Any], stream: bool) -> None:
    text = start("Try {A2} or {A3}.").post(stream=stream).text
    assert "_micros" not in text
    assert not [bid for bid in BIDS if re.search(rf"\b{bid}\b", re.sub(r"/c/[\w-]+", "", text))]


def test_records_show_amounts_to_administrators_alone(start: Callable[..., Any]) -> None:
    server = start("Try {A2}.")
    path = "/v1/auctions/" + server.ask()["auction"]["auction_id"]
    for key in ("", None):
        for answer in (server.call("GET", path, key), server.call("GET", "/v1/auctions", key)):
            assert answer.status_code == 200
            assert bool(amounts(answer.json())) == (key is None)
    publisher = server.key("publisher")
    assert server.call("GET", path, publisher).status_code == 404
    body = {"model": "scripted", "messages": [{"role": "user", "content": "Good running shoes?"}]}
    own = server.call("POST", "/v1/chat/completions", publisher, json=body).json()["auction"]["auction_id"]
    assert amounts(server.call("GET", f"/v1/auctions/{own}", publisher).json()) == []


def test_advertiser_sees_its_own_campaigns_and_no_other(start: Callable[..., Any]) -> None:
    server = start("Try {A2}.")
    path = "/v1/auctions/" + server.ask()["auction"]["auction_id"]
    record = server.call("GET", path, server.key("advertiser", "Brand2")).json()
    assert [(one["ad_id"], one["bid_micros"]) for one in record["candidates"]] == [("A2", 200_000)]
    assert [one["bid_micros"] for one in record["shown"]] == [200_000]
    assert not re.search(r"Brand[13456]|A[13456]\b", json.dumps(record))
    assert server.call("GET", path, server.key("advertiser", "Stranger")).status_code == 404
    assert server.call("GET", "/v1/auctions", server.key("advertiser", "Brand2")).status_code == 403


ENTRIES = st.lists(
    st.fixed_dictionaries(
        {"campaign_id": st.sampled_from("abc"), "ad_id": st.sampled_from("xyz"), "winner": st.sampled_from("xyz")},
        optional={"bid_micros": st.integers(0, 9), "price_micros": st.integers(0, 9), "new_micros": st.integers(0, 9)},
    ),
    max_size=5,
)


@given(ENTRIES, ENTRIES, st.sets(st.sampled_from("abc")))
def test_no_amount_of_another_campaign_is_shown(some: Any, others: Any, owned: set[str]) -> None:
    record: Any = {"candidates": some, "apart": others, "markers": [], "left_out": ["x"], "spare_micros": 1}
    shown = without_amounts(record, owned.__contains__)
    assert "spare_micros" not in shown
    for entry in [*shown["candidates"], *shown["apart"]]:
        assert amounts(entry) == [] or entry["campaign_id"] in owned
    own = own_entries(record, owned.__contains__)
    assert own is None or all(entry["campaign_id"] in owned for entry in [*own["candidates"], *own["apart"]])

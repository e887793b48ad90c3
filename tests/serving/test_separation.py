"""Competitors never share a prompt: the better one stays, and the record says why the other does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as replace_fields

from serving.auction.separation import Contender, SeparationReason, separate
from serving.campaigns.types import Priority

contenders = st.lists(
    st.builds(
        Contender,
        creative_id=st.integers(0, 30).map(lambda i: f"A{i}"),
        campaign_id=st.integers(0, 5).map(lambda i: f"C{i}"),
        advertiser=st.sampled_from("uvw"),
        group=st.sampled_from(["", "", "cola", "cars"]),
        relevance=st.integers(0, 4).map(lambda n: n / 4),
        bid=st.integers(0, 4),
        priority=st.sampled_from([priority.rank for priority in Priority]),
        category=st.sampled_from(["", "shoes", "shoes", "kites"]),
        blocked=st.frozensets(st.sampled_from("uvw"), max_size=2),
    ),
    max_size=14,
    unique_by=lambda c: c.creative_id,
)


def rank(one: Contender) -> tuple[int, float, float]:
    return one.priority, one.relevance * one.bid, one.relevance


def are_blocked(a: Contender, b: Contender) -> bool:
    if not a.category or a.category != b.category or a.advertiser == b.advertiser:
        return False
    return b.advertiser in a.blocked or a.advertiser in b.blocked


APART = {
    SeparationReason.SAME_CAMPAIGN: lambda a, b: a.campaign_id == b.campaign_id,
    SeparationReason.SEPARATION_GROUP: lambda a, b: bool(a.group) and a.group == b.group,
    SeparationReason.BLOCKED_COMPETITOR: are_blocked,
}


@given(contenders)
def test_kept_contenders_may_share_a_prompt_and_the_others_lose_to_a_better_one(given_: list[Contender]) -> None:
    kept, displaced = separate(given_)
    assert max(Counter(c.campaign_id for c in kept).values(), default=0) <= 1
    assert max(Counter(c.group for c in kept if c.group).values(), default=0) <= 1
    assert not [(a, b) for a in kept for b in kept if a != b and any(apart(a, b) for apart in APART.values())]
    assert list(kept) == [c for c in given_ if c in kept]
    by_id = {c.creative_id: c for c in given_}
    assert {one.creative_id for one in displaced} == by_id.keys() - {c.creative_id for c in kept}
    for one in displaced:
        loser, winner = by_id[one.creative_id], by_id[one.winner]
        assert winner in kept
        assert rank(winner) >= rank(loser)
        assert APART[one.reason](loser, winner)


@given(contenders, st.randoms())
def test_the_given_order_has_no_effect(given_: list[Contender], chance: object) -> None:
    shuffled = sorted(given_, key=lambda c: hash((c.creative_id, repr(chance))))
    (kept, displaced), (kept_again, displaced_again) = separate(shuffled), separate(given_)
    assert (set(kept), displaced) == (set(kept_again), displaced_again)


@given(contenders, st.data())
def test_a_higher_bid_never_costs_a_place(given_: list[Contender], data: st.DataObject) -> None:
    kept, _ = separate(given_)
    if kept:
        one = data.draw(st.sampled_from(kept))
        raised = [c._replace(bid=c.bid + 3) if c == one else c for c in given_]
        assert one.creative_id in {c.creative_id for c in separate(raised)[0]}


def test_a_more_relevant_ad_wins_against_a_slightly_higher_bid() -> None:
    cola = Contender("A1", "C1", "u", "cola", 0.9, 100)
    other = Contender("A2", "C2", "v", "cola", 0.5, 150)
    assert separate([other, cola])[0] == (cola,)
    assert separate([other._replace(bid=200), cola])[0] == (other._replace(bid=200),)


def test_the_record_names_a_blocked_competitor_and_its_winner(
    start: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    router = start("Try {*}.")
    path, rival = "/v1/campaigns/catalogue-A1", "/v1/campaigns/catalogue-A2"
    version = router.call("GET", path).json()["version"]
    assert router.call("PATCH", rival, json={"version": 2, "category": "Running Shoes"}).status_code == 200
    wait_until(lambda: router.router.marketplace.index.get("catalogue-A2").category == "Running Shoes")
    answer = router.ask()
    record = router.call("GET", f"/v1/auctions/{answer['auction']['auction_id']}").json()
    assert {"A1", "A2"} <= {c["ad_id"] for c in record["candidates"]}
    assert record["apart"] == []
    # Brand3's ad is of another category, so that it stays.
    blocking = {"version": version, "block_advertisers": [" brand2", "brand3"], "bid_micros": 1_000_000}
    changed = router.call("PATCH", path, json=blocking)
    assert changed.status_code == 200, changed.text
    assert changed.json()["block_advertisers"] == [" brand2", "brand3"]
    wait_until(lambda: router.router.marketplace.index.get("catalogue-A1").block_advertisers)
    record = router.call("GET", f"/v1/auctions/{router.ask()['auction']['auction_id']}").json()
    assert {c["ad_id"] for c in record["candidates"]} == {"A1", "A3", "A4", "A5", "A6"}
    assert record["apart"] == [
        {"ad_id": "A2", "campaign_id": "catalogue-A2", "reason": "blocked_competitor", "winner": "A1"}
    ]
    assert 'exclusions_total{reason="blocked_competitor"} 1.0' in router.get("/metrics").text
    own = router.call("PATCH", path, json={"version": changed.json()["version"], "block_advertisers": ["BRAND1"]})
    assert own.json()["error"]["param"] == "block_advertisers[0]"


def test_where_the_administrator_forbids_it_no_campaign_blocks_another(
    start: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    router = start("Try {*}.", block_advertisers="never")
    path = "/v1/campaigns/catalogue-A1"
    refused = router.call("PATCH", path, json={"version": 2, "block_advertisers": ["Brand2"]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "block_advertisers")
    assert "--block-advertisers" in refused.json()["error"]["message"]
    # A block from before the rule has no effect.
    store = router.router.campaigns
    for number in (1, 2):
        blocking = replace_fields(
            store.get(f"catalogue-A{number}"), category="shoes", block_advertisers=("Brand1", "Brand2")
        )
        store.update(blocking, datetime.now(UTC))
    wait_until(lambda: router.router.marketplace.index.get("catalogue-A2").block_advertisers)
    record = router.call("GET", f"/v1/auctions/{router.ask()['auction']['auction_id']}").json()
    assert {"A1", "A2"} <= {c["ad_id"] for c in record["candidates"]}


def test_blocking_needs_a_category(start: Callable[..., Any]) -> None:
    router = start("Try {*}.")
    body = {"version": 2, "block_advertisers": ["Brand2"], "category": ""}
    refused = router.call("PATCH", "/v1/campaigns/catalogue-A1", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "category")

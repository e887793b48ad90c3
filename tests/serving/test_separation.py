"""Competitors never share a prompt, whoever they are and however many; the better one stands."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from serving.separation import Contender, separate

contenders = st.lists(
    st.builds(
        Contender,
        creative_id=st.integers(0, 30).map(lambda i: f"A{i}"),
        campaign_id=st.integers(0, 5).map(lambda i: f"C{i}"),
        advertiser_id=st.sampled_from("uvw"),
        group=st.sampled_from(["", "", "cola", "cars"]),
        relevance=st.integers(0, 4).map(lambda n: n / 4),
        bid=st.integers(0, 4),
    ),
    max_size=14,
    unique_by=lambda c: c.creative_id,
)
conflicts = st.dictionaries(st.sampled_from("uvw"), st.frozensets(st.sampled_from("uvw"), max_size=2))


def worth(one: Contender) -> tuple[float, float]:
    return one.relevance * one.bid, one.relevance


@given(contenders, conflicts)
def test_what_is_kept_may_stand_together_and_what_is_not_lost_to_a_better_one(
    arrived: list[Contender], named: dict[str, frozenset[str]]
) -> None:
    kept = separate(arrived, named)
    assert max(Counter(c.campaign_id for c in kept).values(), default=0) <= 1
    assert max(Counter(c.group for c in kept if c.group).values(), default=0) <= 1

    def apart(a: Contender, b: Contender) -> bool:
        foes = b.advertiser_id in named.get(a.advertiser_id, ()) or a.advertiser_id in named.get(b.advertiser_id, ())
        rivals = bool(a.group) and a.group == b.group
        return a.campaign_id == b.campaign_id or rivals or (a.advertiser_id != b.advertiser_id and foes)

    assert not [(a, b) for a in kept for b in kept if a != b and apart(a, b)]
    for lost in set(arrived) - set(kept):
        assert any(apart(lost, winner) and worth(winner) >= worth(lost) for winner in kept)
    assert list(kept) == [c for c in arrived if c in kept]


@given(contenders, conflicts, st.randoms())
def test_the_order_of_arrival_decides_nothing(
    arrived: list[Contender], named: dict[str, frozenset[str]], chance: object
) -> None:
    shuffled = sorted(arrived, key=lambda c: hash((c.creative_id, repr(chance))))
    assert set(separate(shuffled, named)) == set(separate(arrived, named))


@given(contenders, st.data())
def test_a_higher_bid_never_costs_a_place(arrived: list[Contender], data: st.DataObject) -> None:
    kept = separate(arrived)
    if kept:
        one = data.draw(st.sampled_from(kept))
        raised = [replace(c, bid=c.bid + 3) if c == one else c for c in arrived]
        assert one.creative_id in {c.creative_id for c in separate(raised)}


def test_the_more_relevant_wins_over_the_slightly_higher_bid() -> None:
    cola = Contender("A1", "C1", "u", "cola", 0.9, 100)
    other = Contender("A2", "C2", "v", "cola", 0.5, 150)
    assert separate([other, cola]) == (cola,)
    assert separate([replace(other, bid=200), cola]) == (replace(other, bid=200),)

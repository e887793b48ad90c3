"""Retrieval finds the best-fitting eligible creatives after any changes, in a deterministic order."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving.auction.eligibility import EligibilityIndex, PlacementRequest
from serving.auction.eligibility.request import words
from serving.auction.offers import choose_offers
from serving.auction.retrieval import CreativeIndex, Hit, creative_text
from serving.auction.retrieval.keywords import KeywordIndex
from serving.auction.retrieval.vectors import Admits, VectorIndex
from serving.campaigns.types import Campaign, CampaignState, Creative, Priority, ReviewState

NOW = datetime(2026, 6, 10, 12, tzinfo=UTC)
ASK = PlacementRequest(auction_id="x", now=NOW, currency="EUR")
THINGS = ["running shoes", "coffee beans", "city hotels", "memory mattress", "tax software", "garden tools"]
WORDS = ["red", "shoes", "shoe", "coffee", "Beans", "hotel", "straße", "x"]


def campaign(number: int, *texts: str, **fields: Any) -> Campaign:
    creatives = tuple(
        Creative(id=f"A{number}.{i}", title=t, landing_url="https://x.example", review=ReviewState.APPROVED)
        for i, t in enumerate(texts)
    )
    made = Campaign(
        id=f"C{number}",
        advertiser_id=f"v{number}",
        name="n",
        category="c",
        state=CampaignState.ACTIVE,
        creatives=creatives,
        bid_micros=100,
        currency="EUR",
        starts_at=NOW - timedelta(days=1),
        created_at=NOW,
        updated_at=NOW,
    )
    return msgspec.structs.replace(made, **fields)


def unit(text: str, width: int = 64) -> NDArray[np.float32]:
    """Hashed bag of words, as one unit vector."""
    vector = np.full(width, 1e-3, np.float32)
    for word in words(text):
        vector[random.Random(word).randrange(width)] += 1
    return vector / np.linalg.norm(vector)


class Indexes:
    """An eligibility index and a creative index, updated together as the marketplace does."""

    def __init__(self, width: int = 64) -> None:
        self.eligibility, self.creatives, self.width = EligibilityIndex(), CreativeIndex(width), width

    def put(self, one: Campaign) -> None:
        if self.eligibility.get(one.id):
            self.creatives.remove(self.eligibility.rows_of(one.id))
        self.eligibility.put(one)
        rows = self.eligibility.rows_of(one.id)
        self.creatives.put(rows, one.creatives)
        if self.width:
            self.creatives.put_vectors(rows, np.array([unit(creative_text(c)) for c in one.creatives]))

    def remove(self, campaign_id: str) -> None:
        if self.eligibility.get(campaign_id):
            self.creatives.remove(self.eligibility.rows_of(campaign_id))
            self.eligibility.remove(campaign_id)

    def ask(self, query: str, count: int = 5, **fields: Any) -> tuple[Hit, ...]:
        query_D = unit(query) if self.width else None
        return self.creatives.search(query, query_D, self.eligibility.evaluate(ASK, **fields), count)


@pytest.mark.parametrize("width", [0, 64])
def test_the_ad_about_the_question_comes_first(width: int) -> None:
    indexes = Indexes(width)
    for i, thing in enumerate(THINGS):
        indexes.put(campaign(i, f"{thing} for everyone", f"cheap {thing}"))
    for i, thing in enumerate(THINGS):
        found = indexes.ask(f"where do I get {thing}")
        assert {f.eligible.campaign.id for f in found[:2]} == {f"C{i}"}
        assert all(0 <= f.relevance <= 1 + 1e-6 for f in found)


def test_only_eligible_creatives_are_found() -> None:
    indexes = Indexes()
    indexes.put(campaign(1, "running shoes", state=CampaignState.PAUSED))
    indexes.put(campaign(2, "coffee"))
    assert [f.eligible.creative.id for f in indexes.ask("running shoes")] == ["A2.0"]


@pytest.mark.parametrize("width", [0, 64])
def test_a_priority_of_few_creatives_is_searched_like_any_other(width: int) -> None:
    indexes = Indexes(width)
    kinds = [Priority.STANDARD, Priority.STANDARD, Priority.SPONSORSHIP, Priority.HOUSE]
    for i, thing in enumerate(THINGS * 8):
        state = CampaignState.PAUSED if i % 7 == 0 else CampaignState.ACTIVE
        indexes.put(campaign(i, f"{thing} {i}", f"cheap {thing}", priority=kinds[i % 4], state=state))
    evaluation, query = indexes.eligibility.evaluate(ASK), "cheap running shoes"
    searched = []
    for priority, tier in evaluation.tiers():
        asked = (query, unit(query) if width else None)
        found = indexes.creatives.search(*asked, tier, 3)
        assert found == indexes.creatives.search(*asked, replace(tier, few_rows=None), 3)
        assert {one.eligible.campaign.priority for one in found} == {priority}
        searched.append((priority, tier.few_rows is not None))
    assert searched == [(Priority.SPONSORSHIP, True), (Priority.STANDARD, False), (Priority.HOUSE, True)]


texts = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join)
changes = st.lists(
    st.tuples(st.integers(0, 5), st.one_of(st.none(), st.lists(texts, max_size=3))), min_size=1, max_size=20
)


@settings(deadline=None)
@given(changes, texts, st.integers(1, 6))
def test_the_result_does_not_depend_on_the_history_of_changes(
    history: list[tuple[int, list[str] | None]], query: str, count: int
) -> None:
    lived = Indexes()
    known: dict[int, Campaign] = {}
    for number, titles in history:
        if titles is None:
            lived.remove(f"C{number}")
            known.pop(number, None)
        else:
            known[number] = campaign(number, *titles)
            lived.put(known[number])
    fresh = Indexes()
    for number in sorted(known, reverse=True):
        fresh.put(known[number])
    here, there = lived.ask(query, count), fresh.ask(query, count)
    assert [(f.eligible.creative.id, round(f.score, 9)) for f in here] == [
        (f.eligible.creative.id, round(f.score, 9)) for f in there
    ]
    assert len(here) == min(count, sum(len(c.creatives) for c in known.values()))


@given(st.lists(texts, min_size=1, max_size=12), texts, st.data())
def test_keyword_scores_are_those_of_the_formula(documents: list[str], query: str, data: st.DataObject) -> None:
    index = KeywordIndex()
    for row, text in enumerate(documents):
        index.put(row, "former text")
        index.put(row, text)
    rows = data.draw(st.lists(st.sampled_from(range(len(documents))), unique=True).map(lambda r: np.array(r, np.int64)))
    best, scores = index.search(query, among(rows), count=100)
    found = dict(zip(best.tolist(), scores.tolist(), strict=True))
    bags = [Counter(words(text)) for text in documents]
    average = sum(b.total() for b in bags) / len(bags)
    for row in rows.tolist():
        expected = 0.0
        for term in set(words(query)):
            having, times = sum(term in b for b in bags), bags[row][term]
            if times:
                idf = math.log(1 + (len(bags) - having + 0.5) / (having + 0.5))
                norm = 1.2 * (1 - 0.75 + 0.75 * bags[row].total() / average)
                expected += idf * 2.2 * times / (times + norm)
        assert found.get(row, 0.0) == pytest.approx(expected, rel=1e-4)


def among(rows: NDArray[np.int64]) -> Admits:
    """Admit these rows alone."""
    return lambda asked: np.isin(asked, rows)


def cloud(rows: int, topics: int, seed: int = 3) -> NDArray[np.float32]:
    """Unit vectors around topics, as texts have them."""
    noise = np.random.default_rng(seed)
    centres = noise.standard_normal((topics, 32))
    vectors = centres[noise.integers(0, topics, rows)] + 0.5 * noise.standard_normal((rows, 32))
    unit_vectors: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit_vectors


def cluster(index: VectorIndex) -> None:
    clustering = index.start_clustering()
    assert clustering is not None
    clustering.run()
    index.adopt(clustering)


def test_a_search_by_clusters_finds_nearly_all_that_an_exact_one_finds() -> None:
    vectors = cloud(12_000, 60)
    index, exact = VectorIndex(32, compared=1_000), VectorIndex(32, compared=10**9)
    for row, vector in enumerate(vectors):
        index.put(row, vector)
        exact.put(row, vector)
    cluster(index)
    assert index.start_clustering() is None
    hits = 0
    for query in cloud(50, 60)[:50]:
        rows = np.arange(0, 12_000, 2)
        best, cosines = index.search(query, among(rows), 20)
        assert set(best.tolist()) <= set(rows.tolist())
        assert np.allclose(cosines, vectors[best] @ query)
        hits += len(set(best.tolist()) & set(exact.search(query, among(rows), 20)[0].tolist()))
    assert hits / (50 * 20) > 0.95


def test_equal_creatives_score_equally_wherever_they_are_filed() -> None:
    """To the last bit: ties go to the creative's id, not to the row."""
    index, query = VectorIndex(384), cloud(2, 2)[0].repeat(12)
    vector = (cloud(2, 2)[1].repeat(12) + np.arange(384, dtype=np.float32) / 77).astype(np.float32)
    for row in range(203):
        index.put(row, vector)
    for size in range(1, 204):
        assert len(set(index.search(query, among(np.arange(203 - size, 203)), 300)[1].tolist())) == 1
    assert len(index.search(query, among(np.arange(203)), 5)[0]) == 203  # ties are not cut


def test_vectors_put_after_a_clustering_are_found_and_removed_ones_are_not() -> None:
    index, vectors = VectorIndex(32, compared=100), cloud(5_000, 20)
    for row, vector in enumerate(vectors):
        index.put(row, vector)
    cluster(index)
    new = cloud(1, 20, seed=9)[0]
    index.put(6_000, new)
    index.remove(7)
    rows = np.array([*range(6_001)])
    assert index.search(new, among(rows), 1)[0].tolist() == [6_000]
    assert 7 not in index.search(vectors[7], among(rows), 50)[0]
    assert len(index) == 5_000


def test_vectors_put_during_a_clustering_are_found() -> None:
    index, vectors, later = VectorIndex(32, compared=100), cloud(5_000, 20), cloud(300, 20, seed=9)
    for row, vector in enumerate(vectors):
        index.put(row, vector)
    clustering = index.start_clustering()
    assert clustering is not None
    changed = [*range(0, 200), *range(8_000, 8_100)]
    for row, vector in zip(changed, later, strict=True):
        index.put(row, vector)
    index.remove(4_999)
    clustering.run()
    index.adopt(clustering)
    rows = np.array([*range(5_000), *range(8_000, 8_100)])
    for row, vector in zip(changed, later, strict=True):
        assert index.search(vector, among(rows), 1)[0].tolist() == [row]
    assert 4_999 not in index.search(vectors[4_999], among(rows), 50)[0]


def test_the_prompt_holds_one_of_a_group_in_the_order_of_ids() -> None:
    indexes = Indexes()
    for number in (10, 2, 1):
        indexes.put(campaign(number, "red shoes", separation="" if number == 1 else "shoes", bid_micros=number))
    hits = indexes.ask("red shoes", count=10)
    offers, displaced = choose_offers(hits, 5)
    assert [offer.ad.id for offer in offers] == ["A1.0", "A10.0"]
    assert [(one.creative_id, one.winner) for one in displaced] == [("A2.0", "A10.0")]
    assert choose_offers(hits, 5) == choose_offers(hits, 5)
    assert len(choose_offers(hits, 1)[0]) == 1


BRANDS = ("Falcon", "Eagle", "Heron", "Straße")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(BRANDS),
            st.lists(st.sampled_from([*BRANDS, "falcon ", " EAGLE", "STRASSE"]), max_size=2),
            st.integers(1, 4),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_no_prompt_holds_an_offer_that_blocks_another(booked: list[tuple[str, list[str], int]]) -> None:
    indexes = Indexes(width=0)
    for number, (advertiser, blocked, bid) in enumerate(booked):
        terms = {"advertiser_id": advertiser, "block_advertisers": tuple(blocked), "bid_micros": bid}
        indexes.put(campaign(number, "red shoes", **terms))
    offers, displaced = choose_offers(indexes.ask("red shoes", count=20), 20)
    assert len(offers) + len(displaced) == len(booked)
    for one in offers:
        names = {name.strip().casefold() for name in one.campaign.block_advertisers}
        names -= {one.campaign.advertiser_id.casefold()}
        assert not names & {other.campaign.advertiser_id.casefold() for other in offers}

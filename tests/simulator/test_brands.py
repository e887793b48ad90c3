"""Invented brands are clean, distinct and new; what an offer is and bids stays."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mechanism.sanitize import clean_ad
from simulator.brands import HELD_OUT_WORDS, THINGS, WORDS, brand_title, new_need, renamed
from simulator.world import World

WORLD = World(0, profiles=20)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 1))
def test_renaming_changes_titles_and_ids_and_nothing_else(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    before = WORLD.sample_context(WORLD.train_queries[seed % 80], rng, 20)
    after = renamed(before, rng, share)
    assert [(c.bid, c.ad.text, c.ad.category) for c in before.candidates] == [
        (c.bid, c.ad.text, c.ad.category) for c in after.candidates
    ]
    assert (after.query, after.profile) == (before.query, before.profile)
    assert len({c.ad.id for c in after.candidates}) == len({c.ad.title for c in after.candidates}) == 20
    for old, new in zip(before.candidates, after.candidates, strict=True):
        assert (old.ad.title == new.ad.title) == (old.ad.id == new.ad.id)
        cleaned = clean_ad(new.ad, "ad")
        assert (cleaned.id, cleaned.title) == (new.ad.id, new.ad.title)


def test_only_the_named_offers_are_renamed() -> None:
    context = WORLD.sample_context(WORLD.train_queries[0], np.random.default_rng(0), 10)
    changed = renamed(context, np.random.default_rng(1), only=frozenset({context.candidates[3].ad.id}))
    assert [a.ad == b.ad for a, b in zip(context.candidates, changed.candidates, strict=True)].count(False) == 1
    assert changed.candidates[3].ad != context.candidates[3].ad


def test_a_share_of_one_leaves_no_known_title_and_of_none_all() -> None:
    context = WORLD.sample_context(WORLD.train_queries[0], np.random.default_rng(0), 20)
    known = {ad.title for ad in WORLD.ads}
    assert not known & {c.ad.title for c in renamed(context, np.random.default_rng(1)).candidates}
    assert renamed(context, np.random.default_rng(1), 0.0) == context


def test_titles_and_needs_hardly_repeat() -> None:
    rng = np.random.default_rng(2)
    assert len({brand_title(rng, "kites") for _ in range(500)}) > 450
    assert len({new_need(rng) for _ in range(300)}) > 200
    assert not {c.name for c in WORLD.categories} & {new_need(rng) for _ in range(300)}


def test_what_measures_new_titles_is_in_no_training_word() -> None:
    assert not set(HELD_OUT_WORDS) & {*WORDS, *THINGS}

"""The ground truth of clicks as a model: always probabilities, for exactly what is shown, drawn as they are.

What each of its causes does is in test_click_causes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechanism.markers import parse, render_marker
from mechanism.types import Answer, Candidate, Context
from simulator.clicks import ClickModel, ClickSettings
from simulator.world import World

WORLD = World(seed=0, profiles=60)
MODEL = ClickModel()
CANDIDATES = tuple(Candidate(ad, 500_000) for ad in WORLD.ads)


def context_of(number: int) -> Context:
    query = WORLD.test_queries[number]
    return Context(query.id, query.text, CANDIDATES, query.profile, query.turns, query.category)


def answer_of(*pieces: str) -> Answer:
    return parse(" ".join(pieces), WORLD.ads)


pieces = st.lists(
    st.one_of(
        st.sampled_from([render_marker(ad) for ad in WORLD.ads[:6]]),
        st.sampled_from(["Buy now!", "For muddy trails", ".", "\n", "…", "", "@", "[A1]", "東京?", "a" * 300]),
        st.text(max_size=20),
    ),
    max_size=9,
)


@settings(max_examples=60, deadline=None)
@given(pieces, st.integers(0, len(WORLD.test_queries) - 1), st.booleans())
def test_every_answer_gets_probabilities_for_exactly_what_it_shows(parts: list[str], number: int, known: bool) -> None:
    context = context_of(number)
    if not known:
        context = replace(context, profile=None)
    answer = answer_of(*parts)
    causes = MODEL.causes(context, answer)
    assert tuple(causes) == answer.shown()
    assert MODEL.probabilities(context, answer) == {ad_id: cause.probability for ad_id, cause in causes.items()}
    for cause in causes.values():
        assert 0.0 <= cause.probability <= MODEL.settings.best
        assert 0.0 <= cause.relevance <= 1.0
        assert 0.0 <= cause.nativeness <= 1.0


@settings(max_examples=40, deadline=None)
@given(pieces, st.integers(0, len(WORLD.test_queries) - 1))
def test_no_cause_beside_relevance_and_nativeness_raises_a_probability(parts: list[str], number: int) -> None:
    context, answer = context_of(number), answer_of(*parts)
    for cause in MODEL.causes(context, answer).values():
        assert cause.probability <= MODEL.settings.best * cause.relevance * cause.nativeness + 1e-12


def test_bids_do_not_make_an_ad_more_attractive() -> None:
    context, ad = context_of(5), WORLD.ads[0]
    answer = answer_of("You could look at", render_marker(ad), "for this.")
    raised = context.with_bids({ad.id: 1_000_000})
    assert MODEL.probabilities(context, answer) == MODEL.probabilities(raised, answer)


def test_titles_do_not_make_an_ad_more_attractive() -> None:
    context, ad = context_of(5), WORLD.ads[0]
    renamed = replace(ad, title="Quite Another Name")
    other = replace(context, candidates=(Candidate(renamed, 500_000),))
    text = "There are a few points to it. You could look at {} for this."
    before = MODEL.probabilities(context, answer_of(text.format(render_marker(ad))))
    assert MODEL.probabilities(other, parse(text.format(render_marker(renamed)), [renamed])) == before


def test_it_is_deterministic_and_separate_models_agree() -> None:
    context = context_of(6)
    answer = answer_of(*(f"Some like {render_marker(ad)}." for ad in WORLD.ads[:3]))
    assert MODEL.probabilities(context, answer) == ClickModel(ClickSettings()).probabilities(context, answer)


def test_no_ads_no_clicks() -> None:
    assert MODEL.probabilities(context_of(0), answer_of("Nothing fits.")) == {}
    assert MODEL.click({}, np.random.default_rng(0)) == {}


def test_an_ad_that_is_no_candidate_is_left_out() -> None:
    context = replace(context_of(0), candidates=CANDIDATES[:1])
    answer = answer_of(*(f"Some like {render_marker(ad)}." for ad in WORLD.ads[:2]))
    assert tuple(MODEL.probabilities(context, answer)) == (WORLD.ads[0].id,)


def test_clicks_are_drawn_with_their_probabilities() -> None:
    shares = {"A1": 0.0, "A2": 0.3, "A3": 1.0}
    rng = np.random.default_rng(0)
    drawn = [MODEL.click(shares, rng) for _ in range(4_000)]
    rates = {ad: float(np.mean([d[ad] for d in drawn])) for ad in shares}
    assert (rates["A1"], rates["A3"]) == (0.0, 1.0)
    assert rates["A2"] == pytest.approx(0.3, abs=0.03)
    first, again = (MODEL.click(shares, np.random.default_rng(9)) for _ in range(2))
    assert first == again

"""The ground truth of clicks: what raises it, what lowers it, and that it is always a probability."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechanism.markers import parse, render_marker
from mechanism.prose import carrier
from mechanism.types import Ad, Answer, Context
from simulator.clicks import ClickModel, ClickSettings
from simulator.language import STYLES, fill
from simulator.world import Query, World

WORLD = World(seed=0, profiles=60)
MODEL = ClickModel()
LEAD = "There is no single answer here."


def own_category(query: Query) -> tuple[Ad, Ad]:
    first, second = (ad for ad in WORLD.ads if ad.category == query.category)
    return first, second


def context_of(query: Query) -> Context:
    return WORLD.sample_context(query, np.random.default_rng(0), 100)


def answer_of(context: Context, *sentences: str) -> Answer:
    return parse(" ".join([LEAD, *sentences]), [c.ad for c in context.candidates])


def sentence(query: Query, ad: Ad, style: str, which: int = 0) -> str:
    category = next(c for c in WORLD.categories if c.name == query.category)
    aspect = next(a for a in category.aspects if a in query.text)
    return fill(STYLES[style][which], query.category, aspect, render_marker(ad))


@pytest.mark.parametrize("which", range(4))
def test_native_beats_plain_beats_pushy(which: int) -> None:
    shares: dict[str, list[float]] = {style: [] for style in STYLES}
    for query in WORLD.test_queries[:40]:
        context, ad = context_of(query), own_category(query)[0]
        for style in STYLES:
            answer = answer_of(context, sentence(query, ad, style, which))
            shares[style].append(MODEL.probabilities(context, answer)[ad.id])
    native, plain, pushy = (np.array(shares[s]) for s in ("native", "plain", "pushy"))
    assert native.mean() > 1.1 * plain.mean() > 1.3 * pushy.mean() > 0
    assert np.all(native >= plain)
    assert np.all(plain >= pushy)


def test_a_relevant_ad_beats_a_foreign_one() -> None:
    for query in WORLD.test_queries[:40]:
        context = replace(context_of(query), profile=None)
        own = own_category(query)[0]
        others = [ad for ad in WORLD.ads if ad.category != query.category]
        relevance = MODEL.relevance(context, [own, *others])
        assert relevance[0] > np.quantile(relevance[1:], 0.9)


def test_each_further_ad_lowers_every_click() -> None:
    query = WORLD.test_queries[1]
    context, (first, second) = context_of(query), own_category(query)
    third = next(ad for ad in WORLD.ads if ad.category != query.category)
    texts = [sentence(query, ad, "native", i) for i, ad in enumerate((first, second, third))]
    one, two, three = (
        MODEL.probabilities(context, answer_of(context, *texts[:count]))[first.id] for count in (1, 2, 3)
    )
    assert one > two > three > 0
    assert one / two == pytest.approx(1 + MODEL.settings.competition)


def test_flooding_and_repeating_stop_all_clicks() -> None:
    query = WORLD.test_queries[2]
    context, (first, second) = context_of(query), own_category(query)
    crowd = [first, second, *[ad for ad in WORLD.ads if ad.category != query.category][:2]]
    flooded = answer_of(context, *(sentence(query, ad, "native", i) for i, ad in enumerate(crowd)))
    twice = answer_of(context, *(sentence(query, first, "native", i) for i in range(2)))
    assert MODEL.probabilities(context, flooded) == {ad.id: 0.0 for ad in crowd}
    assert MODEL.probabilities(context, twice) == {first.id: 0.0}
    three = answer_of(context, *(sentence(query, ad, "native", i) for i, ad in enumerate(crowd[:3])))
    assert all(p >= 0 for p in MODEL.probabilities(context, three).values())
    assert MODEL.probabilities(context, three)[first.id] > 0


def test_without_a_profile_only_the_query_counts() -> None:
    query = WORLD.test_queries[3]
    known, ads = context_of(query), list(WORLD.ads)
    unknown = replace(known, profile=None)
    other = replace(known, profile=replace(query.profile, interests=("chess sets",)))
    nothing = replace(known, profile=replace(query.profile, interests=()))
    without = MODEL.relevance(unknown, ads)
    assert np.array_equal(without, MODEL.relevance(nothing, ads))
    assert np.all(MODEL.relevance(known, ads) >= without)
    assert not np.array_equal(MODEL.relevance(known, ads), MODEL.relevance(other, ads))
    # nothing else that is known of the user is looked at
    renamed = replace(known, profile=replace(query.profile, age="18-24", gender="", location="", history=()))
    assert np.array_equal(MODEL.relevance(known, ads), MODEL.relevance(renamed, ads))


def test_an_ad_that_opens_the_answer_loses() -> None:
    query = WORLD.test_queries[4]
    context, ad = context_of(query), own_category(query)[0]
    text, ads = sentence(query, ad, "native"), [c.ad for c in context.candidates]
    opening, later = parse(f"{text} {LEAD}", ads), parse(f"{LEAD} {text}", ads)
    share = MODEL.probabilities(context, opening)[ad.id] / MODEL.probabilities(context, later)[ad.id]
    assert share == pytest.approx(MODEL.settings.opening, abs=0.02)


def test_bids_do_not_make_an_ad_more_attractive() -> None:
    query = WORLD.test_queries[5]
    context, ad = context_of(query), own_category(query)[0]
    answer = answer_of(context, sentence(query, ad, "native"))
    raised = context.with_bids({ad.id: 1_000_000})
    assert MODEL.probabilities(context, answer) == MODEL.probabilities(raised, answer)


def test_it_is_deterministic_and_separate_models_agree() -> None:
    query = WORLD.test_queries[6]
    context = context_of(query)
    answer = answer_of(context, *(sentence(query, ad, "plain", i) for i, ad in enumerate(own_category(query))))
    assert MODEL.probabilities(context, answer) == ClickModel(ClickSettings()).probabilities(context, answer)


def test_no_ads_no_clicks() -> None:
    context = context_of(WORLD.test_queries[0])
    assert MODEL.probabilities(context, answer_of(context)) == {}
    assert MODEL.click({}, np.random.default_rng(0)) == {}


def test_clicks_are_drawn_with_their_probabilities() -> None:
    shares = {"A1": 0.0, "A2": 0.3, "A3": 1.0}
    rng = np.random.default_rng(0)
    drawn = [MODEL.click(shares, rng) for _ in range(4_000)]
    rates = {ad: float(np.mean([d[ad] for d in drawn])) for ad in shares}
    assert (rates["A1"], rates["A3"]) == (0.0, 1.0)
    assert rates["A2"] == pytest.approx(0.3, abs=0.03)
    first, again = (MODEL.click(shares, np.random.default_rng(9)) for _ in range(2))
    assert first == again


def test_an_ad_in_a_repeated_sentence_gets_fewer_clicks() -> None:
    query = WORLD.test_queries[0]
    context, (first, second) = context_of(query), own_category(query)
    distinct, repeated = (
        answer_of(context, sentence(query, first, "native", 0), sentence(query, second, "native", which))
        for which in (2, 0)
    )
    assert carrier(repeated, second).echo == pytest.approx(1.0)
    assert carrier(distinct, second).echo < 0.5
    before, after = (MODEL.probabilities(context, a) for a in (distinct, repeated))
    assert after[first.id] == before[first.id]
    assert after[second.id] < before[second.id]


pieces = st.lists(
    st.one_of(
        st.sampled_from([render_marker(ad) for ad in WORLD.ads[:6]]),
        st.sampled_from(["Buy now!", "For muddy trails", ".", "\n", "…", "", "@", "[A1]", "東京?", "a" * 300]),
        st.text(max_size=20),
    ),
    max_size=9,
)


@settings(max_examples=60)
@given(pieces, st.integers(0, len(WORLD.test_queries) - 1), st.booleans())
def test_every_answer_gets_probabilities_for_exactly_what_it_shows(parts: list[str], number: int, known: bool) -> None:
    context = context_of(WORLD.test_queries[number])
    if not known:
        context = replace(context, profile=None)
    answer = parse(" ".join(parts), [c.ad for c in context.candidates])
    causes = MODEL.causes(context, answer)
    assert tuple(causes) == answer.shown()
    for cause in causes.values():
        assert 0.0 <= cause.probability <= MODEL.settings.best
        assert 0.0 <= cause.relevance <= 1.0
        assert 0.0 <= cause.nativeness <= 1.0

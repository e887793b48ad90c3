"""What raises and lowers a click: each cause by itself, and by the factor that its setting says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mechanism.markers import parse, render_marker
from mechanism.prose import carrier
from mechanism.types import Ad, AdId, Answer, Candidate, Context, Profile
from simulator.clicks import ClickModel, ClickSettings
from simulator.language import FITTING, FOLLOW_UPS, NAMING, QUERY_TEMPLATES, STYLES, TWO_NEEDS, fill
from simulator.world import Category, builtin_categories

CATEGORIES = builtin_categories()
ADS = tuple(ad for category in CATEGORIES for ad in category.ads)
DEFAULTS = ClickSettings()
MODEL = ClickModel()
LEAD = "There is no single answer here."


def without(**changes: float) -> ClickModel:
    """The click model with some causes switched off."""
    return ClickModel(replace(DEFAULTS, **changes))


def context_of(query: str, profile: Profile | None = None, turns: tuple[tuple[str, str], ...] = ()) -> Context:
    return Context("q", query, tuple(Candidate(ad, 500_000) for ad in ADS), profile, turns)


def asking(category: Category) -> Context:
    return context_of(fill(QUERY_TEMPLATES[0], category.name, category.aspects[0]))


def related(category: Category) -> Category:
    return next(c for c in CATEGORIES if c.domain == category.domain and c is not category)


def asking_for_both(category: Category) -> Context:
    text = fill(TWO_NEEDS[1], category.name, category.aspects[0], other=related(category).name)
    return context_of(text)


def fitting(category: Category, ad: Ad, which: int = 1) -> str:
    return fill(FITTING[which], category.name, category.aspects[0], render_marker(ad))


def naming(category: Category, ad: Ad, which: int = 1) -> str:
    return fill(NAMING[which], category.name, "", render_marker(ad))


def answer_of(*sentences: str) -> Answer:
    return parse(" ".join([LEAD, *sentences]), ADS)


def clicks(context: Context, *sentences: str, model: ClickModel = MODEL) -> dict[AdId, float]:
    return model.probabilities(context, answer_of(*sentences))


def mean(measure: Callable[[Category], float]) -> float:
    return float(np.mean([measure(category) for category in CATEGORIES]))


@pytest.mark.parametrize("which", range(4))
def test_fitting_beats_naming_beats_plain_beats_pushy(which: int) -> None:
    def rate(style: str) -> float:
        def of(c: Category) -> float:
            sentence = fill(STYLES[style][which], c.name, c.aspects[0], render_marker(c.ads[0]))
            return clicks(asking(c), sentence)[c.ads[0].id]

        return mean(of)

    fit, named, plain, pushy = (rate(style) for style in ("fitting", "naming", "plain", "pushy"))
    assert fit >= named > 1.2 * plain
    assert plain > pushy > 0
    # A pushy sentence never counts more than its setting, whatever it says of the ad.
    loud = f"Among running shoes for muddy trails, buy {render_marker(ADS[0])} now!"
    assert MODEL.causes(asking(CATEGORIES[0]), answer_of(loud))[ADS[0].id].nativeness <= DEFAULTS.pushy


def test_two_ads_for_one_need_take_each_others_clicks() -> None:
    def gain(c: Category, model: ClickModel = MODEL) -> float:
        one, other = fitting(c, c.ads[0], 1), fitting(c, c.ads[1], 2)
        alone = [sum(clicks(asking(c), sentence, model=model).values()) for sentence in (one, other)]
        return sum(clicks(asking(c), one, other, model=model).values()) / max(alone)

    assert mean(gain) < 1.0
    assert mean(lambda c: gain(c, without(substitution=0.0))) > 1.3


def test_two_ads_for_different_needs_do_not() -> None:
    def loss(c: Category) -> float:
        one, other = fitting(c, c.ads[0]), naming(related(c), related(c).ads[0])
        taken = clicks(asking_for_both(c), one, other)
        free = clicks(asking_for_both(c), one, other, model=without(substitution=0.0))
        return sum(taken.values()) / sum(free.values())

    assert np.median([loss(c) for c in CATEGORIES]) > 0.9
    shares = MODEL.same_need(ADS)
    own = np.array([shares[k, k + 1] for k in range(0, len(ADS), 2)])
    assert own.mean() > 0.6
    assert (shares.sum() - 2 * own.sum()) / (shares.size - 3 * len(ADS)) < 0.1
    assert np.array_equal(shares, shares.T)
    assert not shares.diagonal().any()


def test_substitution_follows_its_formula() -> None:
    c = CATEGORIES[0]
    one, other = fitting(c, c.ads[0], 1), fitting(c, c.ads[1], 2)
    appeal = np.array(list(clicks(asking(c), one, other, model=without(substitution=0.0)).values()))
    share = MODEL.same_need(c.ads)[0, 1]
    assert share > 0
    expected = appeal / (1 + DEFAULTS.substitution * share * appeal[::-1])
    assert list(clicks(asking(c), one, other).values()) == pytest.approx(list(expected))


def test_a_sentence_fits_one_ad_and_not_another() -> None:
    for c in CATEGORIES:
        first, second = c.ads[0], related(c).ads[0]
        right = clicks(asking_for_both(c), fitting(c, first), naming(related(c), second))
        swapped = clicks(asking_for_both(c), fitting(c, second), naming(related(c), first))
        assert sum(swapped.values()) < sum(right.values())


def test_a_sentence_off_the_question_counts_less() -> None:
    c, far = CATEGORIES[0], CATEGORIES[20]
    sentence = answer_of(fitting(c, c.ads[0]))
    carriers = [carrier(sentence, c.ads[0])]
    on, off = (MODEL.nativeness(context, c.ads[:1], carriers)[0] for context in (asking(c), asking(far)))
    assert on > off >= DEFAULTS.foreign * on


def test_what_the_answer_says_before_an_ad_moves_its_relevance() -> None:
    for c in CATEGORIES:
        ad, name = related(c).ads[:1], related(c).name
        before, off = (
            MODEL.relevance(asking(c), ad, [said])[0] for said in (f"People also think of {name}.", c.advice[0])
        )
        assert before >= off
    c, ad = CATEGORIES[0], related(CATEGORIES[0]).ads[0]
    sentence, about = naming(related(c), ad), f"You may want {related(c).name} as well."
    late, early = (clicks(asking(c), *texts)[ad.id] for texts in ((about, sentence), (sentence, about)))
    assert late > early
    assert clicks(asking(c), about, sentence, model=without(content_weight=0.0, place=0.0))[ad.id] == pytest.approx(
        clicks(asking(c), sentence, about, model=without(content_weight=0.0, place=0.0))[ad.id]
    )


def test_earlier_turns_say_what_a_follow_up_is_about() -> None:
    def gain(c: Category, model: ClickModel = MODEL) -> float:
        follow_up = context_of(fill(FOLLOW_UPS[1], c.name, c.aspects[1]))
        after = replace(follow_up, turns=(("user", asking(c).query),))
        assert c.name not in follow_up.query
        return float((model.relevance(after, c.ads) - model.relevance(follow_up, c.ads)).mean())

    assert mean(gain) > 0.2
    assert mean(lambda c: gain(c, without(turn_weight=0.0))) == 0.0


@pytest.mark.parametrize("field", ["interests", "history"])
def test_what_a_user_likes_and_has_read_raises_relevance_with_consent_only(field: str) -> None:
    asked = context_of("What is new this week?")
    weight = {"interests": "taste_weight", "history": "history_weight"}[field]
    gains = []
    for c in CATEGORIES:
        topic = c.name if field == "interests" else f"read about {c.name}"
        known = replace(asked, profile=Profile("u", **{field: (topic,)}))
        gains.append(MODEL.relevance(known, c.ads) - MODEL.relevance(asked, c.ads))
        off = without(**{weight: 0.0})
        assert np.allclose(off.relevance(known, c.ads), off.relevance(asked, c.ads))
    assert np.min(gains) > -1e-9
    assert np.mean(gains) > 0.5 * getattr(DEFAULTS, weight)
    assert np.max(gains) < getattr(DEFAULTS, weight) + 1e-9


def test_an_interest_counts_by_itself_and_not_in_a_mean_of_all() -> None:
    asked = context_of("What is new this week?")
    one = replace(asked, profile=Profile("u", interests=("headphones",)))
    many = replace(asked, profile=Profile("u", interests=("headphones", "wine", "mortgages")))
    assert np.all(MODEL.relevance(many, ADS) >= MODEL.relevance(one, ADS))


def test_nothing_else_that_is_known_of_a_user_counts() -> None:
    profile = Profile("u", age="18-24", gender="female", occupation="cook", location="an island")
    asked = asking(CATEGORIES[0])
    assert np.allclose(MODEL.relevance(asked, ADS), MODEL.relevance(replace(asked, profile=profile), ADS))


def test_a_relevant_ad_beats_a_foreign_one() -> None:
    for c in CATEGORIES:
        relevance = MODEL.relevance(asking(c), ADS)
        own = max(relevance[k] for k, ad in enumerate(ADS) if ad in c.ads)
        foreign = [relevance[k] for k, ad in enumerate(ADS) if ad not in c.ads]
        assert own > np.quantile(foreign, 0.9)


def test_each_further_ad_and_each_ad_before_distract_by_their_settings() -> None:
    c, other = CATEGORIES[0], related(CATEGORIES[0])
    first, second = fitting(c, c.ads[0]), naming(other, other.ads[0])
    free = {"substitution": 0.0, "content_weight": 0.0}
    alone, both = (clicks(asking(c), *t, model=without(**free))[c.ads[0].id] for t in ((first,), (first, second)))
    assert alone / both == pytest.approx(1 + DEFAULTS.load)
    behind = clicks(asking(c), second, first, model=without(**free))[c.ads[0].id]
    assert both / behind == pytest.approx(1 + DEFAULTS.place)


def test_an_ad_that_opens_the_answer_loses_by_its_setting() -> None:
    c = CATEGORIES[0]
    opening = parse(f"{fitting(c, c.ads[0])} {LEAD}", ADS)
    rates = [m.probabilities(asking(c), opening)[c.ads[0].id] for m in (MODEL, without(opening=1.0))]
    assert rates[0] / rates[1] == pytest.approx(DEFAULTS.opening)
    later = clicks(asking(c), fitting(c, c.ads[0]), model=without(content_weight=0.0))[c.ads[0].id]
    assert later == pytest.approx(rates[1], rel=1e-6)


def test_an_ad_in_a_repeated_sentence_gets_fewer_clicks() -> None:
    c = CATEGORIES[0]
    distinct, repeated = (answer_of(fitting(c, c.ads[0], 0), fitting(c, c.ads[1], which)) for which in (2, 0))
    assert carrier(repeated, c.ads[1]).echo == pytest.approx(1.0)
    assert carrier(distinct, c.ads[1]).echo < 0.5
    model, free = without(substitution=0.0), without(substitution=0.0, repeated=1.0)
    for answer, factor in ((distinct, 1.0), (repeated, DEFAULTS.repeated)):
        with_rule, none = (m.probabilities(asking(c), answer) for m in (model, free))
        assert with_rule[c.ads[0].id] == none[c.ads[0].id]
        assert with_rule[c.ads[1].id] == pytest.approx(factor * none[c.ads[1].id])


def test_flooding_and_repeating_an_ad_stop_all_clicks() -> None:
    c, other = CATEGORIES[0], related(CATEGORIES[0])
    crowd = [fitting(c, c.ads[0]), naming(other, other.ads[0], 0), naming(other, other.ads[1], 2), fitting(c, c.ads[1])]
    assert set(clicks(asking_for_both(c), *crowd).values()) == {0.0}
    assert clicks(asking_for_both(c), *crowd[: DEFAULTS.flood_after])[c.ads[0].id] > 0
    twice = clicks(asking(c), fitting(c, c.ads[0], 1), fitting(c, c.ads[0], 2))
    assert twice == {c.ads[0].id: 0.0}

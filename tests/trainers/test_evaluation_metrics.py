"""Records become figures whose intervals cover the truth, weigh ads rightly, and pair queries in comparisons."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechanism.errors import InputError
from tests.trainers.evaluation_report import made_up_records
from trainers.evaluation.metrics import (
    BASELINES,
    METHODS,
    METRICS,
    SINGLE_GENERATION,
    AnswerRecord,
    best_single_generation,
    compare,
    ratios,
    summarise,
)


def record(query: str = "q", method: str = "mosaic_20", **figures: float) -> AnswerRecord:
    base = AnswerRecord(query, method, 10.0, 5.0, 0.4, 0.6, 1, 0, 0.7, 1, 0.1)
    return replace(base, **figures)


def test_the_names_are_those_of_the_report() -> None:
    assert METRICS == (
        "revenue_per_query",
        "reward_per_query",
        "ctr",
        "relevance",
        "ads_per_answer",
        "invalid_insertions",
        "answer_quality",
        "generations_per_query",
        "seconds_per_query",
    )
    assert {*SINGLE_GENERATION, *BASELINES, "llm_auction"} <= set(METHODS)
    assert tuple(summarise([record()], seed=0)) == METRICS


def test_rates_weigh_every_shown_ad_the_same() -> None:
    """Two ads in one answer, none in another: the rate is over ads, and an answer without ads says nothing of it."""
    found = summarise(
        [
            record("a", ads=2, clicks_expected=0.2, relevance_sum=1.0),
            record("b", ads=1, clicks_expected=0.7, relevance_sum=0.2),
            record("c", ads=0, clicks_expected=0.0, relevance_sum=0.0),
        ],
        seed=0,
    )
    assert found["ctr"].mean == pytest.approx(0.9 / 3)
    assert found["relevance"].mean == pytest.approx(1.2 / 3)
    assert found["ads_per_answer"].mean == pytest.approx(1.0)


def test_without_any_ad_the_rates_are_undefined() -> None:
    found = summarise([record(ads=0, clicks_expected=0, relevance_sum=0)], seed=0)
    assert math.isnan(found["ctr"].mean)
    assert found["ctr"].to_dict() == {"mean": None, "lo": None, "hi": None}


def test_several_answers_to_one_query_are_one_measurement() -> None:
    twice = [r for k in range(30) for r in [record(f"q{k}", revenue=float(k))] * 2]
    once = [record(f"q{k}", revenue=float(k)) for k in range(30)]
    assert summarise(twice, seed=1) == summarise(once, seed=1)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1), st.floats(-200, 200)), min_size=1, max_size=40))
def test_every_interval_encloses_its_mean_and_stays_in_range(rows: list[tuple[int, float, float]]) -> None:
    answers = [
        record(f"q{k}", ads=ads, clicks_expected=ads * rate, relevance_sum=ads * rate, reward=reward)
        for k, (ads, rate, reward) in enumerate(rows)
    ]
    for metric, found in summarise(answers, seed=0).items():
        if metric in ("ctr", "relevance") and not any(ads for ads, _, _ in rows):
            assert math.isnan(found.mean)
            continue
        assert found.lo <= found.mean <= found.hi
        if metric in ("ctr", "relevance"):
            assert found.lo >= -1
            assert found.hi <= 1 + 1e-9


def test_the_interval_of_a_rate_covers_the_true_rate_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(120):
        answers = []
        for k in range(100):
            ads = int(rng.poisson(1.2))
            clicks = float(rng.beta(2, 6, size=ads).sum())
            answers.append(record(f"q{k}", ads=ads, clicks_expected=clicks, relevance_sum=0.0))
        found = summarise(answers, seed=trial)["ctr"]
        covered += found.lo <= 0.25 <= found.hi
    assert 0.86 <= covered / 120 <= 1.0


def test_no_fault_seen_does_not_claim_that_none_can_happen() -> None:
    found = summarise([record(f"q{k}") for k in range(10_000)], seed=0)["invalid_insertions"]
    assert found.mean == found.lo == 0
    assert 0 < found.hi < 0.0005


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("revenue", -1.0),
        ("reward", math.nan),
        ("clicks_expected", 1.5),
        ("quality", 1.2),
        ("seconds", math.inf),
        ("ads", -1),
    ],
)
def test_an_impossible_figure_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"mosaic_20, query q: .*{field if field != 'ads' else ''}"):
        record(**{field: value})


def test_records_of_two_methods_are_not_mixed() -> None:
    with pytest.raises(InputError, match="one method"):
        summarise([record(), record(method="gsp")], seed=0)
    with pytest.raises(InputError, match="at least one"):
        summarise([], seed=0)


def test_pairing_makes_a_constant_ratio_certain_whatever_the_order() -> None:
    baseline = [record(f"q{k}", revenue=float(k + 1)) for k in range(50)]
    ours = [replace(r, method="llm_auction", revenue=2 * r.revenue) for r in reversed(baseline)]
    found = compare(ours, baseline, seed=0)["revenue_per_query"]
    assert found.ratio is not None
    assert found.ratio.ends == pytest.approx((2.0, 2.0, 2.0))
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(25.5)


def test_a_baseline_that_is_not_positive_has_a_difference_and_no_ratio() -> None:
    baseline = [record(f"q{k}", method="pretrained", reward=-4.0) for k in range(5)]
    ours = [record(f"q{k}", method="llm_auction", reward=6.0) for k in range(5)]
    found = compare(ours, baseline, seed=0)["reward_per_query"]
    assert found.ratio is None
    assert found.difference is not None
    assert found.difference.ends == (10.0, 10.0, 10.0)


def test_a_baseline_that_cannot_be_told_from_zero_leaves_the_ratio_unbounded() -> None:
    rng = np.random.default_rng(3)
    baseline = [record(f"q{k}", reward=float(r)) for k, r in enumerate(rng.normal(0.1, 5, size=60))]
    baseline[0] = replace(
        baseline[0], reward=baseline[0].reward + 60 * max(0.0, 0.05 - np.mean([r.reward for r in baseline]))
    )
    ours = [record(f"q{k}", method="llm_auction", reward=6.0) for k in range(60)]
    found = compare(ours, baseline, seed=0)["reward_per_query"].ratio
    assert found is not None
    assert found.hi == math.inf


def test_a_method_without_ads_has_no_comparable_rate() -> None:
    baseline = [record("q", ads=0, clicks_expected=0, relevance_sum=0)]
    found = compare([record("q", method="llm_auction")], baseline, seed=0)["ctr"]
    assert found.ratio is None
    assert found.difference is None


def test_methods_on_other_queries_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="same queries"):
        compare([record("a", method="llm_auction")], [record("b")], seed=0)


def test_only_baselines_that_ran_are_compared() -> None:
    records = {method: made_up_records(method, queries=30) for method in ("llm_auction", "mosaic_20", "token", "gsp")}
    assert list(ratios(records, seed=0)) == ["gsp", "mosaic_20"]
    assert best_single_generation(records) == "gsp"
    assert best_single_generation({"llm_auction": records["llm_auction"]}) is None
    del records["llm_auction"]
    assert ratios(records, seed=0) == {}

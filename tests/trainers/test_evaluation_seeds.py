"""Several seeds as one table: means over seeds, intervals over seeds and queries, paired ratios."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from mechanism.errors import InputError
from tests.trainers.evaluation_report import made_up_report
from trainers.evaluation.report import PerQuery, Report
from trainers.evaluation.seeds import merge, seeds_table

METHODS = ("pretrained", "gsp", "mosaic_20", "llm_auction")


@pytest.fixture(scope="module")
def reports() -> list[Report]:
    return [made_up_report(METHODS, seed=seed) for seed in range(3)]


def shifted(report: Report, method: str, points: float) -> Report:
    """Return the report with every reward of a method raised."""
    own = report.per_query[method]
    raised = PerQuery.model_validate(own.model_dump() | {"reward": [r + points for r in own.reward]})
    return report.model_copy(update={"per_query": {**report.per_query, method: raised}})


def test_figures_are_means_over_seeds_and_repeat(reports: list[Report]) -> None:
    table = merge(reports)
    assert table == merge(reports)
    assert table.seeds == (0, 1, 2)
    assert table.best_single_generation == "gsp"
    for method in METHODS:
        found = table.methods[method]["reward_per_query"]
        expected = [float(np.mean(r.per_query[method].reward)) for r in reports]
        assert list(found.each) == pytest.approx(expected)
        assert found.interval.mean == pytest.approx(np.mean(expected))
        assert found.interval.lo < found.interval.mean < found.interval.hi


def test_the_interval_covers_the_spread_between_seeds_not_of_queries_alone(reports: list[Report]) -> None:
    together = merge(reports).methods["llm_auction"]["reward_per_query"].interval
    apart = merge([shifted(r, "llm_auction", 20.0 * k) for k, r in enumerate(reports)])
    spread = apart.methods["llm_auction"]["reward_per_query"].interval
    assert spread.hi - spread.lo > 5 * (together.hi - together.lo)
    # Queries count too: a single query of three differs far more than 400.
    assert together.hi - together.lo > 0


def test_a_ratio_is_paired_and_left_out_where_the_rival_earns_nothing(reports: list[Report]) -> None:
    table = merge(reports)
    assert "reward_per_query" not in table.ratios["pretrained"]
    ratio = table.ratios["gsp"]["reward_per_query"]
    ours, theirs = (table.methods[m]["reward_per_query"].interval.mean for m in ("llm_auction", "gsp"))
    assert ratio.interval.mean == pytest.approx(ours / theirs)
    equal = {**reports[0].per_query, "gsp": reports[0].per_query["llm_auction"]}
    same = merge([reports[0].model_copy(update={"per_query": equal}), reports[1]]).ratios["gsp"]["reward_per_query"]
    assert same.each[0] == pytest.approx(1.0)


def test_a_method_equal_to_its_rival_has_a_ratio_of_one_without_spread(reports: list[Report]) -> None:
    equal = [r.model_copy(update={"per_query": {**r.per_query, "gsp": r.per_query["llm_auction"]}}) for r in reports]
    ratio = merge(equal).ratios["gsp"]["reward_per_query"].interval
    assert (ratio.lo, ratio.mean, ratio.hi) == pytest.approx((1.0, 1.0, 1.0))


def test_a_rival_that_one_report_lacks_is_left_out(reports: list[Report]) -> None:
    fewer = {m: own for m, own in reports[1].per_query.items() if m != "gsp"}
    table = merge([reports[0], reports[1].model_copy(update={"per_query": fewer})])
    assert set(table.methods) == {"pretrained", "mosaic_20", "llm_auction"}


def test_seeds_must_differ_and_queries_match(reports: list[Report]) -> None:
    with pytest.raises(InputError, match="seeds"):
        merge([reports[0], reports[0]])
    with pytest.raises(InputError, match="seeds"):
        merge(reports[:1])
    own = reports[1].per_query["gsp"]
    other = PerQuery.model_validate(own.model_dump() | {"query": [f"{q}!" for q in own.query]})
    changed = reports[1].model_copy(update={"per_query": {**reports[1].per_query, "gsp": other}})
    with pytest.raises(InputError, match="queries of seed 1"):
        merge([reports[0], changed])


def test_the_table_is_plain_json_and_text(reports: list[Report]) -> None:
    table = merge(reports)
    plain = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    assert set(plain["methods"]["gsp"]["reward_per_query"]) == {"mean", "lo", "hi", "each"}
    console = Console(width=160, file=io.StringIO())
    with console.capture() as capture:
        console.print(seeds_table(table))
    assert "3 seeds, 1200 queries" in capture.get()
    assert "best of one generation" in capture.get()

"""Cohorts of a router: clicks count in their answer's minute, at whichever router, once and within the window."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from mechanism.canary.cohorts import CLICK_WINDOW_S, Tally, minute_of, total
from serving.cohorts import KEPT_MINUTES, CohortCounters, CountedAnswer

NOON = 1_795_000_020


class Clock:
    def __init__(self) -> None:
        self.now = float(NOON)

    def __call__(self) -> float:
        return self.now


def answer(number: int, created: int = NOON, **changes: Any) -> CountedAnswer:
    usual: dict[str, Any] = {
        "auction_id": f"a{number}",
        "created": created,
        "version": "v1",
        "failed": False,
        "asked_for_ads": True,
        "shown": 2,
        "seconds": 0.4,
        "penalty": 10.0,
        "revenue": 0,
        "currency": "USD",
    }
    return CountedAnswer(**{**usual, **changes})


def click(counters: CohortCounters, number: int, ad_id: str = "A0", issued: int = NOON, **changes: Any) -> None:
    usual: dict[str, Any] = {"version": "v1", "price": 100, "currency": "USD"}
    counters.count_click(auction_id=f"a{number}", ad_id=ad_id, issued=issued, **{**usual, **changes})


def counted(*routers: CohortCounters, minute: int = minute_of(NOON), version: str = "v1") -> Tally:
    rows = [row for router in routers for row in router.report(0)]
    return total(Tally.from_dict(row) for row in rows if (row["minute"], row["version"]) == (minute, version))


def test_a_click_counts_in_its_answers_minute_at_any_router() -> None:
    clock = Clock()
    first, second = CohortCounters("USD", clock), CohortCounters("USD", clock)
    first.count_answer(answer(1))
    first.count_answer(answer(2, NOON + 30))
    clock.now += 100
    click(second, 1)
    click(first, 2, issued=NOON + 30)
    found = counted(first, second)
    assert (found.answers, found.clicks, found.revenue, found.revenue_squares) == (2, 2, 200, 20_000)
    assert [row["minute"] for row in second.report(0)] == [minute_of(NOON)]


def test_late_repeated_and_unattributed_clicks_count_nothing() -> None:
    clock = Clock()
    counters = CohortCounters("USD", clock)
    counters.count_answer(answer(1))
    click(counters, 1)
    click(counters, 1)
    click(counters, 1, issued=0)
    click(counters, 1, version="")
    clock.now += CLICK_WINDOW_S + 1
    click(counters, 2)
    assert counted(counters).clicks == 1


def test_revenue_of_one_answer_is_one_value_and_of_one_currency() -> None:
    counters = CohortCounters("USD", Clock())
    counters.count_answer(answer(1, revenue=50))
    click(counters, 1, "A0")
    click(counters, 1, "A1")
    counters.count_answer(answer(2, revenue=70, currency="EUR"))
    click(counters, 2, currency="EUR")
    found = counted(counters)
    assert (found.answers, found.priced, found.clicks) == (2, 1, 3)
    assert (found.revenue, found.revenue_squares) == (250, 250**2)


def test_answers_that_wanted_no_ads_do_not_count_as_answers_without_ads() -> None:
    counters = CohortCounters("USD", Clock())
    counters.count_answer(answer(1, shown=0))
    counters.count_answer(answer(2, shown=0, asked_for_ads=False))
    counters.count_answer(answer(3, shown=0, failed=True))
    found = counted(counters)
    assert (found.answers, found.failed, found.ad_free) == (3, 1, 1)


def test_old_cohorts_are_dropped_and_a_report_may_begin_later() -> None:
    clock = Clock()
    counters = CohortCounters("USD", clock)
    counters.count_answer(answer(1))
    later = NOON + KEPT_MINUTES * 60
    counters.count_answer(answer(2, later - 60))
    assert len(counters.report(0)) == 2
    assert [row["minute"] for row in counters.report(minute_of(later) - 1)] == [minute_of(later) - 1]
    counters.count_answer(answer(3, later))
    assert minute_of(NOON) not in {row["minute"] for row in counters.report(0)}


def test_a_router_reports_its_answers_and_clicks_at_the_address_of_its_metrics(
    router: Callable[..., Any], scripted: Callable[..., Any], tmp_path: Path
) -> None:
    with router(tmp_path, scripted("Try {A1}."), metrics_address="127.0.0.1:0", currency="EUR") as running:
        asked = running.ask()
        assert running.click(asked["ads"][0]["click_url"]).status_code == 302
        assert running.click(asked["ads"][0]["click_url"]).status_code == 302
        address = f"http://127.0.0.1:{running.router.metrics_port}/rollout"
        report = httpx.get(address).json()
        [cohort] = report["cohorts"]
        assert (report["generation"], report["versions"]) == (None, [])
        assert cohort["version"] == "0" * 16
        found = Tally.from_dict(cohort)
        assert (found.answers, found.shown, found.clicks, found.priced, found.failed) == (1, 1, 1, 1, 0)
        assert found.revenue > 0
        assert found.penalty > 0
        assert httpx.get(address, params={"since": cohort["minute"] + 1}).json()["cohorts"] == []
        assert httpx.get(address, params={"since": "soon"}).status_code == 400
        assert running.get("/rollout").status_code == 404

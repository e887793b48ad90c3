"""The meter: cohorts of several routers, read again and again, lost routers, and a restarted operator."""

from __future__ import annotations

import heapq

import numpy as np

from mechanism.canary.cohorts import MINUTE_S
from mechanism.canary.decision import Action
from operators.auctionservice.guard import decision_on
from operators.auctionservice.meter import FINAL_S, Meter, Report, parsed, read_all
from operators.resources.auctionservice import Guards
from serving.cohorts import CohortCounters, CountedAnswer
from serving.metrics import Metrics

BEGIN = 30_000_000
START_S = BEGIN * MINUTE_S


class Router:
    """A router's own counters behind a clock that the test sets."""

    def __init__(self) -> None:
        self.now = float(START_S)
        self.metrics = Metrics()
        self.metrics.cohorts = CohortCounters("USD", lambda: self.now)

    def answer(self, auction: str, at: float, version: str, *, failed: bool = False) -> None:
        self.metrics.cohorts.count_answer(
            CountedAnswer(
                auction_id=auction,
                created=int(at),
                version=version,
                failed=failed,
                asked_for_ads=True,
                shown=1,
                seconds=0.4,
                penalty=5.0,
                revenue=0,
                currency="USD",
            )
        )

    def click(self, auction: str, issued: float, version: str, at: float, price: int = 100) -> None:
        self.now = at
        self.metrics.cohorts.count_click(
            auction_id=auction, ad_id="A0", issued=int(issued), version=version, price=price, currency="USD"
        )

    def report(self, since: int = 0) -> Report:
        report = parsed(self.metrics.rollout_report(since).decode())
        assert report is not None
        return report


def counted(meter: Meter, now: float) -> list[tuple[float, float]]:
    """Return answers and clicks of the new version by minute."""
    found = meter.evidence("ads", ("new", "old"), BEGIN, now).early.new
    return list(zip(found.answers.tolist(), found.clicks.tolist(), strict=True))


def test_reports_are_parsed_and_those_that_cannot_be_read_are_left_out() -> None:
    router = Router()
    router.metrics.follow(7, False, {"v1": ("new", 40.0, True), "v2": ("old", 60.0, False)})
    router.answer("a", START_S, "new")
    asked: list[tuple[str, int]] = []

    def read(address: str, since: int) -> str | None:
        asked.append((address, since))
        texts = {"new": router.metrics.rollout_report(since).decode(), "older": router.metrics.render().decode()}
        return texts.get(address, '{"cohorts": []}' if address == "another" else None)

    found = read_all(["new", "older", "another", "silent"], BEGIN, read)
    assert set(asked) == {(address, BEGIN) for address in ("new", "older", "another", "silent")}
    [report] = found.values()
    assert (report.generation, report.versions["v1", "new"].share) == (7, 40.0)
    assert not report.versions["v2", "old"].ready
    assert report.cohorts[BEGIN, "new"].answers == 1


def test_a_cohort_that_is_read_again_is_not_counted_again() -> None:
    router, meter = Router(), Meter()
    router.answer("a", START_S, "new")
    for _ in range(3):
        meter.add("ads", "canary", [router.report()], START_S + 5)
    router.answer("b", START_S + 1, "new")
    meter.add("ads", "canary", [router.report()], START_S + 10)
    assert counted(meter, START_S + 10) == [(2, 0)]


def test_a_router_that_restarts_keeps_what_it_had_counted() -> None:
    before, after, meter = Router(), Router(), Meter()
    before.answer("a", START_S, "new")
    before.answer("b", START_S, "new")
    after.answer("c", START_S + 20, "new")
    for now, router in enumerate((before, after, after)):
        meter.add("ads", "canary", [router.report()], START_S + now)
    assert counted(meter, START_S + 5) == [(3, 0)]


def test_a_click_at_another_router_counts_for_the_answer() -> None:
    first, second, meter = Router(), Router(), Meter()
    first.answer("a", START_S, "new")
    second.click("a", START_S, "new", START_S + 90)
    meter.add("ads", "canary", [first.report(), second.report()], START_S + 95)
    assert counted(meter, START_S + 95) == [(1, 1)]


def test_final_cohorts_are_kept_when_their_router_is_gone_and_not_read_again() -> None:
    router, meter = Router(), Meter()
    router.answer("a", START_S, "new")
    meter.add("ads", "canary", [router.report()], START_S + 5)
    later = START_S + FINAL_S + 2 * MINUTE_S
    meter.add("ads", "canary", [], later)
    assert meter.since("ads", "canary", BEGIN) > BEGIN
    meter.add("ads", "canary", [router.report()], later + 5)  # a router that ignores `since`
    assert counted(meter, later + 5) == [(1, 0)]


def test_an_operator_that_restarts_reads_the_canary_from_its_beginning() -> None:
    router = Router()
    for minute in range(40):
        router.answer(f"a{minute}", START_S + minute * MINUTE_S, "new")
    now = START_S + 40 * MINUTE_S
    old, new = Meter(), Meter()
    for minute in range(41):
        at = START_S + minute * MINUTE_S
        old.add("ads", "canary", [router.report(old.since("ads", "canary", BEGIN))], at)
    new.add("ads", "canary", [router.report(new.since("ads", "canary", BEGIN))], now)
    assert counted(new, now) == counted(old, now) == [(1, 0)] * 40


def test_another_canary_starts_from_nothing_and_a_deleted_service_leaves_nothing() -> None:
    router, meter = Router(), Meter()
    router.answer("a", START_S, "new")
    meter.add("ads", "first", [router.report()], START_S + 5)
    meter.add("ads", "second", [], START_S + 6)
    assert counted(meter, START_S + 6) == [(0, 0)]
    meter.add("ads", "second", [router.report()], START_S + 7)
    meter.forget("ads")
    assert counted(meter, START_S + 7) == [(0, 0)]


def test_identical_versions_with_late_clicks_are_never_rolled_back_and_found_safe() -> None:
    """Half of the clicks go to another router, 30 s late on average; the operator looks every five seconds."""
    rng = np.random.default_rng(11)
    routers, meter = [Router(), Router()], Meter()
    pending: list[tuple[float, str, float, str, int]] = []
    actions = []
    number = 0
    guards = Guards(min_answers=200)
    for tick in range(0, 6 * MINUTE_S, 5):
        now = START_S + tick
        for _ in range(rng.poisson(5 * 60)):
            number += 1
            at, version = now + 5 * float(rng.random()), "new" if rng.random() < 0.25 else "old"
            routers[number % 2].answer(f"a{number}", at, version, failed=bool(rng.random() < 0.004))
            if rng.random() < 0.4:
                heapq.heappush(pending, (at + float(rng.exponential(30.0)), f"a{number}", at, version, number))
        while pending and pending[0][0] <= now + 5:
            clicked, auction, at, version, _ = heapq.heappop(pending)
            routers[int(rng.integers(2))].click(auction, at, version, clicked, int(rng.lognormal(10.0, 0.5)))
        reports = [router.report(meter.since("ads", "canary", BEGIN)) for router in routers]
        meter.add("ads", "canary", reports, now + 5)
        found = meter.evidence("ads", ("new", "old"), BEGIN, now + 5)
        actions.append(decision_on(found, guards).action)
    assert Action.ROLL_BACK not in actions
    assert actions[-1] is Action.SAFE

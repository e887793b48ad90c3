"""Cohorts from the event log: independent of the order and the repetition of events."""

from __future__ import annotations

import random
from datetime import timedelta

import msgspec
import pytest

from benchmarks.streaming.event_samples import BEGINNING, click, interaction
from mechanism.canary.cohorts import Tally, minute_of, total
from mechanism.canary.latency import bucket_of
from mechanism.errors import ConfigError
from mechanism.objective import Penalty
from serving.canary.log_cohorts import MAX_COHORTS, LogCohorts, newest
from streaming.events import AnyEvent

DIGEST = "0" * 64


def cohorts(click_window_s: float = 60.0) -> LogCohorts:
    return LogCohorts(click_window_s, Penalty(per_ad=5.0, flood_after=2, per_fault=50.0))


def test_an_answer_counts_each_clicked_ad_once() -> None:
    seen = cohorts()
    event = msgspec.structs.replace(interaction(1), answer_s=0.4)
    for each in (event, click(event, "A0", 5), click(event, "A0", 6), click(event, "A1", 7, reason="bot")):
        seen.add(each)
    [(minute, tally)] = seen.of(DIGEST).items()
    assert minute == minute_of(BEGINNING.timestamp())
    assert (tally.answers, tally.shown, tally.clicks, tally.penalty) == (1, 2, 1, 10.0)
    assert (tally.revenue, tally.revenue_squares) == (200_000, 200_000.0**2)
    assert tally.seconds == {bucket_of(0.4): 1}
    assert seen.of("another") == {}


def test_a_click_counts_in_its_answers_minute_and_only_within_the_window() -> None:
    seen = cohorts(click_window_s=90)
    late = interaction(1, BEGINNING + timedelta(seconds=50))
    for each in (late, click(late, "A0", 89), click(late, "A1", 91)):
        seen.add(each)
    [(minute, tally)] = seen.of(DIGEST).items()
    assert (minute, tally.clicks) == (minute_of(late.occurred_at.timestamp()), 1)


def test_order_and_repetition_change_nothing() -> None:
    events: list[AnyEvent] = []
    for number in range(90):
        answer = interaction(number, BEGINNING + timedelta(seconds=3 * number))
        events += [answer, click(answer, "A0", 3), click(answer, "A1", 9)] if number % 3 else [answer]
    straight, mixed = cohorts(), cohorts()
    for event in events:
        straight.add(event)
    shuffled = [*events, *events[::4]]
    random.Random(5).shuffle(shuffled)
    for event in shuffled:
        mixed.add(event)
    found = mixed.of(DIGEST)
    assert found == straight.of(DIGEST)
    assert len(found) == 5
    assert total(found.values()).revenue == 60 * 2 * 200_000


def test_cut_and_failed_answers_fail_and_cancelled_ones_are_ignored() -> None:
    seen = cohorts()
    for number, outcome in enumerate(("answered", "cut", "failed", "cancelled")):
        seen.add(msgspec.structs.replace(interaction(number), outcome=outcome))
    tally = total(seen.of(DIGEST).values())
    assert (tally.answers, tally.failed) == (3, 2)


def test_cohorts_are_bounded_and_start_at_since() -> None:
    seen = cohorts()
    for number in range(MAX_COHORTS + 5):
        seen.add(interaction(number, BEGINNING + timedelta(minutes=number)))
    assert len(seen.of(DIGEST)) == MAX_COHORTS
    assert len(seen.of(DIGEST, BEGINNING + timedelta(minutes=MAX_COHORTS))) == 5


def test_the_newest_versions_are_kept() -> None:
    seen = cohorts()
    for number in range(12):
        seen.add(msgspec.structs.replace(interaction(number), model_digest=f"{number:064x}"))
    assert seen.of(f"{1:064x}") == {}
    assert len(seen.of(f"{2:064x}")) == 1


def test_the_newest_answers_are_whole_minutes() -> None:
    minutes = {minute: Tally(answers=10) for minute in range(5)}
    assert sorted(newest(minutes, 20)) == [3, 4]
    assert sorted(newest(minutes, 21)) == [2, 3, 4]
    assert newest(minutes, 1_000) == minutes


def test_a_click_window_is_a_number_of_seconds() -> None:
    with pytest.raises(ConfigError, match="click_window_s"):
        cohorts(-1)

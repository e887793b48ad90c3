"""Cohorts from the lake: each answer and each clicked ad once, read again only while events may still be added."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from benchmarks.streaming.event_samples import BEGINNING, click, interaction
from mechanism.canary.cohorts import Tally, minute_of, total
from mechanism.canary.latency import bucket_of
from mechanism.errors import InputError
from mechanism.objective import Penalty
from serving.canary import lake_cohorts
from serving.canary.lake_cohorts import MAX_COHORTS, LakeCohorts, newest
from streaming.events import AnyEvent, Participation, ShownAd
from streaming.lake import TrainingSet
from tests.streaming.lake_tables import append

DIGEST = "0" * 64
PENALTY = Penalty(per_ad=5.0, flood_after=2, per_fault=50.0)
Seen = Callable[..., LakeCohorts]


@pytest.fixture
def seen(tmp_path: Path) -> Seen:
    """Return `seen(events, ...)`: cohorts that have read a lake of these events, ten minutes after the beginning."""

    def make(*events: AnyEvent, click_window_s: float = 60.0, after: timedelta = timedelta(minutes=10)) -> LakeCohorts:
        append(str(tmp_path / "lake"), *events, watermark=BEGINNING + after)
        found = LakeCohorts(str(tmp_path / "lake"), click_window_s, PENALTY, lambda: BEGINNING + after)
        found.refresh()
        return found

    return make


def test_an_answer_counts_each_clicked_ad_once(seen: Seen) -> None:
    event = msgspec.structs.replace(interaction(1), answer_s=0.4)
    clicks = (click(event, "A0", 5), click(event, "A0", 6), click(event, "A1", 7, reason="bot"))
    found = seen(event, *clicks)
    [(minute, tally)] = found.of(DIGEST).items()
    assert minute == minute_of(BEGINNING.timestamp())
    assert (tally.answers, tally.shown, tally.clicks, tally.penalty) == (1, 2, 1, 10.0)
    assert (tally.revenue, tally.revenue_squares) == (200_000, 200_000.0**2)
    assert tally.seconds == {bucket_of(0.4): 1}
    assert found.of("another") == {}


def test_impressions_and_participations_earn_without_a_click(seen: Seen) -> None:
    event = interaction(1)
    shown = tuple(ShownAd(ad_id=ad.ad_id, pricing="impression", price_micros=7) for ad in event.shown)
    paid = (Participation(ad_id="A2", price_micros=100),)
    tally = total(seen(msgspec.structs.replace(event, shown=shown, participations=paid)).of(DIGEST).values())
    assert (tally.revenue, tally.revenue_squares, tally.clicks) == (114, 114**2, 0)


def test_revenue_counts_one_currency(seen: Seen) -> None:
    currencies = ("EUR", "EUR", "USD")
    events = [msgspec.structs.replace(interaction(n), currency=currency) for n, currency in enumerate(currencies)]
    tally = total(seen(*events, *(click(event, "A0", 1) for event in events)).of(DIGEST).values())
    assert (tally.answers, tally.clicks) == (3, 3)
    assert (tally.priced, tally.revenue) in {(2, 400_000), (1, 200_000)}


def test_a_click_counts_in_its_answers_minute_and_only_within_the_window(seen: Seen) -> None:
    late = interaction(1, BEGINNING + timedelta(seconds=50))
    found = seen(late, click(late, "A0", 89), click(late, "A1", 91), click_window_s=90.0)
    [(minute, tally)] = found.of(DIGEST).items()
    assert (minute, tally.clicks) == (minute_of(late.occurred_at.timestamp()), 1)


def test_order_and_repetition_change_nothing(seen: Seen) -> None:
    events: list[AnyEvent] = []
    for number in range(90):
        answer = interaction(number, BEGINNING + timedelta(seconds=3 * number))
        events += [answer, click(answer, "A0", 3), click(answer, "A1", 9)] if number % 3 else [answer]
    shuffled = [*events, *events[::4]]
    random.Random(5).shuffle(shuffled)
    found = seen(*shuffled).of(DIGEST)
    assert [tally.answers for tally in found.values()] == [20, 20, 20, 20, 10]
    assert total(found.values()).revenue == 60 * (200_000 + 200_001)


def test_cut_and_failed_answers_fail_and_cancelled_ones_and_those_without_candidates_are_ignored(seen: Seen) -> None:
    outcomes = ("answered", "cut", "failed", "cancelled")
    events = [msgspec.structs.replace(interaction(n), outcome=outcome) for n, outcome in enumerate(outcomes)]
    withheld = msgspec.structs.replace(interaction(9), candidates=(), markers=(), shown=(), reader=None)
    tally = total(seen(*events, withheld).of(DIGEST).values())
    assert (tally.answers, tally.failed) == (3, 2)


def test_what_arrives_later_is_added_and_finished_minutes_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, now = str(tmp_path / "lake"), [BEGINNING]
    cohorts = LakeCohorts(url, 60.0, PENALTY, lambda: now[0])
    cohorts.refresh()
    assert (cohorts.of(DIGEST), cohorts.until) == ({}, None), "there is no lake yet"
    read: list[datetime | None] = []
    select = TrainingSet.select
    monkeypatch.setattr(
        TrainingSet, "select", lambda self, sql, since, until: (read.append(since), select(self, sql, since, until))[1]
    )
    straight: list[AnyEvent] = []
    for minute in range(10):
        answer = interaction(minute, BEGINNING + timedelta(minutes=minute))
        earlier = interaction(minute - 1, BEGINNING + timedelta(minutes=minute - 1))
        events = [answer] if minute == 0 else [answer, click(earlier, "A0", 30.0)]
        now[0] = BEGINNING + timedelta(minutes=minute, seconds=30)
        append(url, *events, watermark=now[0] - timedelta(seconds=10))
        straight += events
        cohorts.refresh()
    assert [tally.clicks for tally in cohorts.of(DIGEST).values()] == [1] * 9 + [0]
    assert cohorts.until == now[0] - timedelta(seconds=10)
    assert read[-1] is not None
    assert timedelta(minutes=3) <= now[0] - read[-1] <= timedelta(minutes=5)
    again = LakeCohorts(url, 60.0, PENALTY, lambda: now[0])
    again.refresh()
    assert again.of(DIGEST) == cohorts.of(DIGEST), "a restart reads the same"


def test_without_a_watermark_everything_stays_open(tmp_path: Path) -> None:
    url = str(tmp_path / "lake")
    cohorts = LakeCohorts(url, 60.0, PENALTY, lambda: BEGINNING + timedelta(hours=1))
    append(url, interaction(1))
    cohorts.refresh()
    assert cohorts.until is None
    append(url, interaction(2))
    cohorts.refresh()
    assert total(cohorts.of(DIGEST).values()).answers == 2


def test_the_first_read_ends_with_enough_answers_and_at_two_days(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    hours = [interaction(hour, BEGINNING - timedelta(hours=hour)) for hour in range(60)]
    found = seen(*hours, after=timedelta(seconds=30))
    assert len(found.of(DIGEST)) == MAX_COHORTS // 60
    assert len(found.of(DIGEST, BEGINNING - timedelta(hours=5))) == 6
    monkeypatch.setattr(lake_cohorts, "ENOUGH", 4)
    assert len(seen(after=timedelta(seconds=30)).of(DIGEST)) == 1 + 1 + 2


def test_the_newest_answers_are_whole_minutes() -> None:
    minutes = {minute: Tally(answers=10) for minute in range(5)}
    assert sorted(newest(minutes, 20)) == [3, 4]
    assert sorted(newest(minutes, 21)) == [2, 3, 4]
    assert newest(minutes, 1_000) == minutes


def test_a_click_window_is_a_number_of_seconds(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="window_s"):
        LakeCohorts(str(tmp_path), 0, PENALTY, lambda: datetime.now(UTC))

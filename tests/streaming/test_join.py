"""Interactions and clicks joined by event time: what is said last depends on what happened, not on how it arrived."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.streaming.event_samples import BEGINNING, click, interaction
from judge.rules import RuleJudge
from mechanism.errors import ConfigError
from streaming.events import Click, Interaction, Judgement
from streaming.log import Partition
from streaming.workers.join import Attribution, Join, JudgedAuction
from streaming.workers.replay import ReplayPoint

ATTRIBUTION = Attribution(window_s=60, settle_s=5, lateness_s=30)


def after(seconds: float) -> datetime:
    return BEGINNING + timedelta(seconds=seconds)


def feed(join: Join, event: Any) -> None:
    join.interaction(event, 0) if isinstance(event, Interaction) else join.click(event, 0)


def judged_now(join: Join) -> list[JudgedAuction]:
    judge = RuleJudge()
    answers = [event.to_grade() for event in join.ungraded(100)]
    join.grade({answer.auction_id: grades for answer, grades in zip(answers, judge.grade(answers), strict=True)})
    return join.judged_auctions()


def last(judged: Iterable[JudgedAuction]) -> dict[str, JudgedAuction]:
    """The newest revision of each auction."""
    found: dict[str, JudgedAuction] = {}
    for auction in judged:
        if auction.auction_id not in found or found[auction.auction_id].revision < auction.revision:
            found[auction.auction_id] = auction
    return found


@st.composite
def histories(draw: st.DrawFn) -> list[Interaction | Click]:
    """A few answers within some seconds of each other, with clicks in and out of their windows, some twice."""
    events: list[Interaction | Click] = []
    for number in range(draw(st.integers(1, 4))):
        answer = interaction(number, after(draw(st.integers(0, 20))))
        events.append(answer)
        for ad, at, reason in draw(
            st.lists(st.tuples(st.sampled_from(["A0", "A1"]), st.integers(-1, 80), st.sampled_from(["", "", "bot"])))
        ):
            events.append(click(answer, ad, at, reason=reason))
    return events


@given(history=histories(), data=st.data())
def test_order_repetitions_and_lateness_do_not_change_the_last_judgement(
    history: list[Any], data: st.DataObject
) -> None:
    def run(events: list[Any], watermarks: list[int]) -> dict[str, JudgedAuction]:
        join, found = Join(ATTRIBUTION), []
        for event, mark in zip(events, watermarks, strict=True):
            feed(join, event)
            join.advance(after(mark))
            found += judged_now(join)
            join.close()
        join.advance(after(300))
        return last(found + judged_now(join))

    expected = run(history, [0] * len(history))
    arrivals = data.draw(st.permutations(history + data.draw(st.lists(st.sampled_from(history), max_size=5))))
    # A watermark of at most 85 keeps open whatever is 0 seconds old, as long as it is within the allowed lateness.
    marks = sorted(data.draw(st.lists(st.integers(0, 85), min_size=len(arrivals), max_size=len(arrivals))))
    found = run(arrivals, marks)
    assert {a: (v.ads, v.quality) for a, v in found.items()} == {a: (v.ads, v.quality) for a, v in expected.items()}


@given(history=histories())
def test_the_last_judgement_holds_the_first_valid_click_within_the_window(history: list[Any]) -> None:
    join = Join(ATTRIBUTION)
    for event in history:
        feed(join, event)
    join.advance(after(300))
    found = last(judged_now(join))
    for answer in [event for event in history if isinstance(event, Interaction)]:
        for ad in found[answer.auction_id].ads:
            times = [
                (e.occurred_at - answer.occurred_at).total_seconds()
                for e in history
                if isinstance(e, Click) and (e.auction_id, e.ad_id, e.verdict) == (answer.auction_id, ad.ad_id, "valid")
            ]
            within = [max(0.0, time) for time in times if time <= ATTRIBUTION.window_s]
            assert ad.clicked_after_s == (min(within) if within else None)


def test_the_first_judgement_waits_for_its_time_and_a_late_click_amends_it() -> None:
    join, answer = Join(ATTRIBUTION), interaction(1)
    assert join.interaction(answer, 0)
    join.advance(after(4))
    assert judged_now(join) == []
    join.advance(after(5))
    (first,) = judged_now(join)
    assert (first.revision, [ad.clicked for ad in first.ads]) == (0, [False, False])
    assert first.quality is not None
    assert all(ad.relevance is not None for ad in first.ads)
    join.click(click(answer, "A1", 7), 0)
    (second,) = judged_now(join)
    assert (second.revision, [ad.clicked_after_s for ad in second.ads]) == (1, [None, 7.0])
    join.click(click(answer, "A1", 9), 0)
    assert judged_now(join) == [], "nothing changed"


def test_a_closed_auction_is_forgotten_and_its_clicks_are_counted_as_unmatched() -> None:
    join, answer = Join(ATTRIBUTION), interaction(1)
    join.interaction(answer, 7)
    join.advance(after(89))
    assert judged_now(join)
    assert list(join.close()) == []
    join.advance(after(91))
    assert list(join.close()) == [7]
    assert join.click(click(answer, "A0", 3), 8)
    join.advance(after(300))
    assert list(join.close()) == [8]
    assert (join.unmatched, len(join)) == (1, 0)


def test_an_interaction_that_comes_hours_late_is_still_given_its_clicks() -> None:
    join, answer = Join(ATTRIBUTION), interaction(1)
    join.advance(after(7_200))
    join.interaction(answer, 0)
    join.advance(after(7_200))
    assert len(judged_now(join)) == 1
    join.close()
    join.click(click(answer, "A0", 30), 0)
    assert [auction.revision for auction in judged_now(join)] == [1]


def test_what_was_said_before_a_restart_is_not_said_again() -> None:
    answer = interaction(1)
    clicked = click(answer, "A0", 3)
    before = Join(ATTRIBUTION)
    feed(before, answer)
    feed(before, clicked)
    before.advance(after(10))
    (auction,) = judged_now(before)
    judgement = Judgement(
        occurred_at=after(10),
        auction_id=answer.auction_id,
        answered_at=answer.occurred_at,
        window_s=60,
        judge="rules",
        judge_version="1",
        revision=auction.revision,
        ads=auction.ads,
        answer_quality=auction.quality,
    )
    for order in ([judgement, answer, clicked], [answer, clicked, judgement]):
        again = Join(ATTRIBUTION)
        for event in order:
            if isinstance(event, Judgement):
                again.judged(event, 0, opening=True)
            else:
                feed(again, event)
        assert again.ungraded(10) == [], "a judge is not paid twice"
        again.advance(after(10))
        assert again.judged_auctions() == []
        again.click(click(answer, "A1", 8), 0)
        assert [v.revision for v in again.judged_auctions()] == [2]


def test_reading_starts_again_where_the_oldest_open_auction_began() -> None:
    topic, other = Partition("interactions", 0), Partition("clicks", 0)
    point = ReplayPoint()
    point.passed({topic: 10, other: 4})
    first = point.mark
    point.hold(first)
    point.hold(first)
    point.passed({topic: 20})
    second = point.mark
    point.hold(second)
    point.passed({topic: 30, other: 9})
    assert point.offsets() == {topic: 10, other: 4}
    point.release(first)
    assert point.offsets() == {topic: 10, other: 4}
    point.release(first)
    assert point.offsets() == {topic: 20, other: 4}
    point.release(second)
    assert point.offsets() == {topic: 30, other: 9}


@pytest.mark.parametrize("bad", [{"window_s": 0}, {"settle_s": 2_000}, {"settle_s": -1}, {"lateness_s": -1}])
def test_times_that_cannot_be_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"judge.{next(iter(bad))}"):
        Attribution(**bad)

"""Samples of served answers: independent of the order and the repetition of events."""

from __future__ import annotations

import random
from datetime import timedelta

import msgspec

from benchmarks.streaming.event_samples import BEGINNING, click, interaction
from mechanism.objective import Penalty
from serving.canary.guard import ServedAnswer
from serving.canary.samples import AnswerSamples, SampleSettings
from streaming.events import AnyEvent

DIGEST = "0" * 64
LATER = BEGINNING + timedelta(hours=1)


def samples(answers: int = 100, click_window_s: float = 60.0) -> AnswerSamples:
    return AnswerSamples(SampleSettings(answers, click_window_s), Penalty(per_ad=5.0, flood_after=2, per_fault=50.0))


def test_an_answer_counts_each_clicked_ad_once() -> None:
    seen = samples()
    event = msgspec.structs.replace(interaction(1), answer_s=0.4)
    for each in (event, click(event, "A0", 5), click(event, "A0", 6), click(event, "A1", 7, reason="bot")):
        seen.add(each)
    assert seen.of(DIGEST, LATER) == [ServedAnswer(0.4, False, True, 10.0, 200_000)]
    assert seen.of("another", LATER) == []


def test_late_clicks_and_open_click_windows_do_not_count() -> None:
    seen = samples(click_window_s=60)
    event = interaction(1)
    seen.add(event)
    seen.add(click(event, "A0", 61))
    assert seen.of(DIGEST, BEGINNING + timedelta(seconds=59))[0].revenue is None
    assert seen.of(DIGEST, BEGINNING + timedelta(seconds=60))[0].revenue == 0


def test_order_and_repetition_change_nothing() -> None:
    events: list[AnyEvent] = []
    for number in range(30):
        answer = interaction(number, BEGINNING + timedelta(seconds=number))
        events += [answer, click(answer, "A0", 3), click(answer, "A1", 9)] if number % 3 else [answer]
    straight, mixed = samples(), samples()
    for event in events:
        straight.add(event)
    shuffled = [*events, *events[::4]]
    random.Random(5).shuffle(shuffled)
    for event in shuffled:
        mixed.add(event)
    found = mixed.of(DIGEST, LATER)
    assert sorted(map(repr, found)) == sorted(map(repr, straight.of(DIGEST, LATER)))
    assert sum(answer.revenue or 0 for answer in found) == 20 * 2 * 200_000


def test_cut_and_failed_answers_fail_and_cancelled_ones_are_ignored() -> None:
    seen = samples()
    for number, outcome in enumerate(("answered", "cut", "failed", "cancelled")):
        seen.add(msgspec.structs.replace(interaction(number), outcome=outcome))
    assert [answer.failed for answer in seen.of(DIGEST, LATER)] == [False, True, True]


def test_a_sample_is_bounded_and_starts_at_since() -> None:
    seen = samples(answers=10)
    for number in range(25):
        seen.add(interaction(number, BEGINNING + timedelta(seconds=number)))
    assert len(seen.of(DIGEST, LATER)) == 10
    assert len(seen.of(DIGEST, LATER, BEGINNING + timedelta(seconds=22))) == 3


def test_the_newest_versions_are_kept() -> None:
    seen = samples()
    for number in range(12):
        seen.add(msgspec.structs.replace(interaction(number), model_digest=f"{number:064x}"))
    assert seen.of(f"{1:064x}", LATER) == []
    assert len(seen.of(f"{2:064x}", LATER)) == 1

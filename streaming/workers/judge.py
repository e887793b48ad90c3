"""The judge worker: every interaction is judged with its clicks, first shortly after the answer, then whenever a click
changes what is known.

Its state is in memory and comes back from the log: the group's offsets stay at the oldest auction that is open, and the
worker reads its own judgements back, so after a start it neither says again what it said nor pays a judge twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from prometheus_client import CollectorRegistry, Counter, Gauge

from judge.grades import Judge
from mechanism.errors import ConfigError
from streaming.codec import encode
from streaming.events import Click, Interaction, Judgement
from streaming.log import EventLog, LogProducer, LogUnavailable, Partition
from streaming.topics import CLICKS, INTERACTIONS, JUDGEMENTS
from streaming.workers.join import Attribution, Join, JudgedAuction
from streaming.workers.replay import ReplayPoint
from streaming.workers.task import Batch

FLUSH_S = 30.0
_INPUTS = (INTERACTIONS, CLICKS)


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """`idle_s`: a partition that was read to its end and brought nothing for so long holds the watermark no more; that
    then follows the clock. Answers are given to the judge `graded` at a time."""

    attribution: Attribution = field(default_factory=Attribution)
    idle_s: float = 5.0
    graded: int = 500

    def __post_init__(self) -> None:
        if not self.idle_s > 0:
            raise ConfigError("judge.idle_s", self.idle_s, "give more than 0 seconds")
        if self.graded < 1:
            raise ConfigError("judge.graded", self.graded, "give 1 or more")


class JudgeMetrics:
    """What the judge says, and what it holds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        prefix = "llm_auction_judge_"
        self.judgements = Counter(prefix + "judgements", "Judgements written.", ("kind",), registry=registry)
        self.unmatched = Counter(
            prefix + "unmatched_clicks", "Clicks whose auction was not open any more.", registry=registry
        )
        self.open = Gauge(prefix + "open", "Auctions that clicks may still amend.", registry=registry)
        self.watermark = Gauge(
            prefix + "watermark_seconds", "Event time of the judge.", ("partition",), registry=registry
        )


class _Input:
    """What is known about the times of one topic's partition."""

    def __init__(self, now: datetime) -> None:
        self.latest: datetime | None = None
        self.heard_at = now
        self.look = -1
        self.behind = True

    def heard(self, at: datetime, now: datetime, looks: int) -> None:
        """An event of that time came."""
        self.latest = at if self.latest is None else max(self.latest, at)
        self.heard_at, self.look = now, looks

    def mark(self, now: datetime, idle: timedelta, looks: int) -> datetime | None:
        """The event time before which it brings nothing more."""
        if not self.behind and looks > self.look and now - self.heard_at >= idle:
            quiet = now - idle
            return quiet if self.latest is None else max(quiet, self.latest)
        return self.latest


class _Part:
    """One partition that is ours in all three topics. `started` once its judgements were read back."""

    def __init__(self, attribution: Attribution, now: datetime) -> None:
        self.join = Join(attribution)
        self.replay = ReplayPoint()
        self.inputs = {topic: _Input(now) for topic in _INPUTS}
        self.started = False
        self.unmatched = 0


class JudgeTask:
    """Implements `streaming.workers.task.Task`."""

    name = "judge"
    topics = (INTERACTIONS, CLICKS, JUDGEMENTS)
    transient: tuple[type[Exception], ...] = ()

    def __init__(
        self,
        log: EventLog,
        judge: Judge,
        settings: JudgeSettings | None = None,
        *,
        registry: CollectorRegistry | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._log = log
        self._judge = judge
        self._settings = settings or JudgeSettings()
        self._idle = timedelta(seconds=self._settings.idle_s)
        self._clock = clock
        self.metrics = JudgeMetrics(registry or CollectorRegistry())
        self._owned: set[Partition] = set()
        self._parts: dict[int, _Part] = {}
        self._producer: LogProducer | None = None

    def assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int] | None:
        """A partition is worked on once it is ours in all topics."""
        self._owned.update(partitions)
        for number in {partition.number for partition in partitions}:
            if all(Partition(topic, number) in self._owned for topic in self.topics):
                self._parts[number] = _Part(self._settings.attribution, self._clock())
        return None

    def process(self, batch: Batch) -> Mapping[Partition, int]:
        """Joins a batch, and says what is due."""
        now = self._clock()
        for record, event in batch.arrivals:
            part = self._parts.get(record.partition)
            if part is not None and isinstance(event, Interaction | Click | Judgement):
                self._take(part, record.topic, event, now, batch.looks)
        done: dict[Partition, int] = {}
        judged: list[JudgedAuction] = []
        for number, part in self._parts.items():
            part.replay.passed({p: offset for p, offset in batch.after.items() if p.number == number})
            part.started |= batch.looks > 0 and Partition(JUDGEMENTS, number) not in batch.behind
            if part.started:
                self._grade(part)
                self._advance(number, part, batch, now)
                judged += part.join.judged_auctions()
        self._write(judged, now)
        for part in self._parts.values():
            for mark in part.join.close():
                part.replay.release(mark)
            self.metrics.unmatched.inc(part.join.unmatched - part.unmatched)
            part.unmatched = part.join.unmatched
            done |= part.replay.offsets()
        self.metrics.open.set(sum(len(part.join) for part in self._parts.values()))
        return done

    def paused(self) -> frozenset[Partition]:
        """The input that ran so far ahead of the other that auctions would be closed before their clicks were read."""
        found = set()
        for number, part in self._parts.items():
            times = {topic: part.inputs[topic].latest for topic in _INPUTS}
            for topic, other in (_INPUTS, _INPUTS[::-1]):
                ahead, behind = times[topic], times[other]
                if ahead and behind and ahead - behind > self._settings.attribution.kept and part.inputs[other].behind:
                    found.add(Partition(topic, number))
        return frozenset(found)

    def finish(self) -> Mapping[Partition, int]:
        """What is open stays so, and is read again."""
        self._free()
        return {}

    def _take(self, part: _Part, topic: str, event: Interaction | Click | Judgement, now: datetime, looks: int) -> None:
        mark = part.replay.mark
        if isinstance(event, Judgement):
            ours = (event.judge, event.judge_version) == (self._judge.name, self._judge.version)
            kept = ours and part.join.judged(event, mark, opening=not part.started)
        else:
            part.inputs[topic].heard(event.occurred_at, now, looks)
            join = part.join
            kept = join.interaction(event, mark) if isinstance(event, Interaction) else join.click(event, mark)
        if kept:
            part.replay.hold(mark)

    def _grade(self, part: _Part) -> None:
        answers = [event.to_grade() for event in part.join.ungraded(self._settings.graded)]
        if answers:
            grades = self._judge.grade(answers)
            part.join.grade({answer.auction_id: grade for answer, grade in zip(answers, grades, strict=True)})

    def _advance(self, number: int, part: _Part, batch: Batch, now: datetime) -> None:
        """The slowest input decides; a clock of the future moves nothing."""
        marks = []
        for topic, heard in part.inputs.items():
            heard.behind = Partition(topic, number) in batch.behind
            marks.append(heard.mark(now, self._idle, batch.looks))
        known = [mark for mark in marks if mark is not None]
        if len(known) == len(marks):
            part.join.advance(min(now, *known))
        if part.join.watermark is not None:
            self.metrics.watermark.labels(number).set(part.join.watermark.timestamp())

    def _write(self, judged: Sequence[JudgedAuction], now: datetime) -> None:
        """Durably; where the log is away the session ends, and what was open is judged again."""
        if not judged:
            return
        judge, version = self._judge.name, self._judge.version
        window_s = self._settings.attribution.window_s
        try:
            producer = self._producer = self._producer or self._log.producer()
            for auction in judged:
                event = Judgement(
                    occurred_at=now,
                    auction_id=auction.auction_id,
                    answered_at=auction.answered_at,
                    window_s=window_s,
                    judge=judge,
                    judge_version=version,
                    revision=auction.revision,
                    ads=auction.ads,
                    answer_quality=auction.quality,
                )
                producer.append(JUDGEMENTS, event.key.encode(), encode(event))
            producer.flush(FLUSH_S)
        except LogUnavailable:
            self._free()
            raise
        amended = sum(auction.revision > 0 for auction in judged)
        self.metrics.judgements.labels("with_clicks").inc(amended)
        self.metrics.judgements.labels("without_clicks").inc(len(judged) - amended)

    def _free(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()

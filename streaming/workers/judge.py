"""The judge worker: one interaction in, one judgement out.

It has no state. Offsets are committed once the judgements are durable, so a batch may be judged again after a kill; of
several judgements of an answer the latest counts. The cache of a paid judge keeps it from paying twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter

from judge.grades import Grades, Judge
from streaming.codec import encode
from streaming.events import GradedAd, Interaction, Judgement
from streaming.log import EventLog, LogProducer, LogUnavailable, Partition
from streaming.topics import INTERACTIONS, JUDGEMENTS
from streaming.workers.task import Batch

FLUSH_S = 30.0


class JudgeTask:
    """Implements `streaming.workers.task.Task`."""

    name = "judge"
    topics = (INTERACTIONS,)
    transient: tuple[type[Exception], ...] = ()

    def __init__(
        self,
        log: EventLog,
        judge: Judge,
        *,
        registry: CollectorRegistry | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._log = log
        self._judge = judge
        self._clock = clock
        self._judgements = Counter(
            "llm_auction_judge_judgements",
            "Judgements written, by whether the judge gave grades.",
            ("graded",),
            registry=registry or CollectorRegistry(),
        )
        self._producer: LogProducer | None = None

    def assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int] | None:
        return None

    def process(self, batch: Batch) -> Mapping[Partition, int]:
        """Judge a batch, and write the judgements durably.

        LogUnavailable propagates if they may not be durable; the batch is then judged again.
        """
        events = {event.auction_id: event for _, event in batch.arrivals if isinstance(event, Interaction)}
        if events:
            grades = self._judge.grade([event.to_grade() for event in events.values()])
            self._write([self._judgement(*pair) for pair in zip(events.values(), grades, strict=True)])
        return batch.after

    def finish(self) -> Mapping[Partition, int]:
        self._close()
        return {}

    def _judgement(self, event: Interaction, grades: Grades) -> Judgement:
        return Judgement(
            occurred_at=self._clock(),
            auction_id=event.auction_id,
            answered_at=event.occurred_at,
            judge=self._judge.name,
            judge_version=self._judge.version,
            ads=tuple(
                GradedAd(
                    ad_id=shown.ad_id,
                    relevance=grades.relevance.get(shown.ad_id),
                    nativeness=grades.nativeness.get(shown.ad_id),
                )
                for shown in event.shown
            ),
            answer_quality=grades.quality,
        )

    def _write(self, judgements: Sequence[Judgement]) -> None:
        try:
            producer = self._producer = self._producer or self._log.producer()
            for event in judgements:
                producer.append(JUDGEMENTS, event.key.encode(), encode(event))
            producer.flush(FLUSH_S)
        except LogUnavailable:
            self._close()
            raise
        for event in judgements:
            self._judgements.labels("no" if event.answer_quality is None else "yes").inc()

    def _close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()

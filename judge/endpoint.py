"""A judge behind an OpenAI-compatible endpoint: the user model grades a sample of the answers, within a budget.

Answers outside the sample, beyond the budget, or for which the endpoint fails stay ungraded and are counted by reason;
the judge worker still writes their judgements, with clicks and without grades.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from zlib import crc32

import structlog
from prometheus_client import CollectorRegistry, Counter

from judge.cache import ReplyCache
from judge.click_feedback import unit_grade
from judge.client import ChatClient, EndpointSettings
from judge.cost import CostMeter, Prices
from judge.grades import UNGRADED, AnswerToGrade, Grades
from judge.user_model import UserModel
from mechanism.errors import AuctionError, BudgetSpentError, ConfigError, JudgeError
from mechanism.types import Micros

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EndpointJudgeSettings:
    """Settings of an `EndpointJudge`.

    `sample` is the share of answers to grade, the same ones in every process. `daily_budget` (micros; None: no limit)
    applies to this process and UTC day. Accepted replies are cached in the folder `cache` (empty: no cache), so none is
    paid twice.
    """

    endpoint: EndpointSettings
    sample: float = 1.0
    daily_budget: Micros | None = None
    prices: Prices = field(default_factory=Prices)
    cache: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.sample <= 1:
            raise ConfigError("judge.sample", self.sample, "give a share from 0 to 1")
        if self.daily_budget is not None and self.daily_budget < 0:
            raise ConfigError("judge.daily_budget", self.daily_budget, "give micros, or none for no limit")


class EndpointJudge:
    """Implements `judge.grades.Judge`. A missing API key and a cache folder that cannot be written are InputErrors."""

    version = "1"

    def __init__(
        self,
        settings: EndpointJudgeSettings,
        *,
        registry: CollectorRegistry | None = None,
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
    ) -> None:
        self._settings = settings
        self._today = today
        self._day = today()
        self._client = ChatClient(settings.endpoint, self._new_meter())
        cache = ReplyCache(Path(settings.cache)) if settings.cache else None
        self._model = UserModel(self._client, cache)
        registry = registry or CollectorRegistry()
        prefix = "llm_auction_judge_"
        self._ungraded_total = Counter(
            prefix + "ungraded", "Answers not graded, by reason.", ("reason",), registry=registry
        )
        self._spent_total = Counter(prefix + "spent_micros", "Money spent on the endpoint.", registry=registry)

    @property
    def name(self) -> str:
        return f"endpoint:{self._settings.endpoint.model}"[:200]

    def grade(self, answers: Sequence[AnswerToGrade]) -> list[Grades]:
        if (day := self._today()) != self._day:
            self._day, self._client.meter = day, self._new_meter()
        before = self._client.meter.usage.spent
        halted: list[str] = []
        with ThreadPoolExecutor(self._settings.endpoint.concurrency, thread_name_prefix="judge") as pool:
            grades = list(pool.map(lambda item: self._grade(item, halted), answers))
        self._spent_total.inc(self._client.meter.usage.spent - before)
        return grades

    def close(self) -> None:
        self._client.close()

    def _grade(self, item: AnswerToGrade, halted: list[str]) -> Grades:
        context, answer = item.context, item.answer
        if context is None or answer is None:
            return self._ungraded("no_reader")
        if not in_sample(item.auction_id, self._settings.sample):
            return self._ungraded("sample")
        if halted:
            # The failed answer used up its retries; the rest of the batch does not wait through them again.
            return self._ungraded(halted[0])
        try:
            feedback = self._model.click_feedback(context, answer)
        except AuctionError as error:
            reason = _reason(error)
            if isinstance(error, JudgeError):
                halted.append(reason)
            log.warning("judge.answer_ungraded", auction=item.auction_id, reason=reason, error=str(error)[:200])
            return self._ungraded(reason)
        shown = answer.shown()
        return Grades(
            dict.fromkeys(shown, unit_grade(feedback.relevance)),
            dict.fromkeys(shown, unit_grade(feedback.nativeness)),
            unit_grade(feedback.answer_quality),
        )

    def _ungraded(self, reason: str) -> Grades:
        self._ungraded_total.labels(reason).inc()
        return UNGRADED

    def _new_meter(self) -> CostMeter:
        return CostMeter(self._settings.prices, self._settings.daily_budget)


def in_sample(auction_id: str, share: float) -> bool:
    """Return whether an auction is in the sample, by its id: the same in every process and at every repetition."""
    return crc32(b"judge" + auction_id.encode()) < share * 2**32


def _reason(error: AuctionError) -> str:
    if isinstance(error, BudgetSpentError):
        return "budget"
    return "endpoint" if isinstance(error, JudgeError) else "answer"

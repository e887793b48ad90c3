"""A judge behind an OpenAI-compatible endpoint: the simulator's user model, asked about a sample, within a budget.

What cannot be asked (outside the sample, no money left, an endpoint that fails) is left ungraded and counted by its
reason; judgements with their clicks go on being written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from zlib import crc32

import structlog
from prometheus_client import CollectorRegistry, Counter

from judge.cache import ReplyCache
from judge.client import ChatClient, EndpointSettings
from judge.cost import CostMeter, Prices
from judge.grades import UNGRADED, AnswerToGrade, Grades
from judge.schemas import unit_grade
from judge.user_model import UserModel
from mechanism.errors import AuctionError, ConfigError, JudgeError
from mechanism.types import Micros

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EndpointJudgeSettings:
    """`sample` is the share of answers asked about, always the same ones. `daily_budget` (micros; None: no limit) holds
    for this process and UTC day. Accepted replies are kept in `cache` (empty: nowhere), so nothing is paid twice."""

    endpoint: EndpointSettings
    sample: float = 1.0
    daily_budget: Micros | None = None
    prices: Prices = field(default_factory=Prices)
    cache: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.sample <= 1:
            raise ConfigError("judge.sample", self.sample, "give a share from 0 to 1")
        if self.daily_budget is not None and self.daily_budget < 0:
            raise ConfigError("judge.daily_budget", self.daily_budget, "give micros, or nothing for no limit")


class EndpointJudge:
    """Implements `judge.grades.Judge`. Raises InputError for a missing key or cache folder."""

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
        self._client = ChatClient(settings.endpoint, self._meter())
        cache = ReplyCache(Path(settings.cache)) if settings.cache else None
        self._model = UserModel(self._client, cache)
        registry = registry or CollectorRegistry()
        prefix = "llm_auction_judge_"
        self._ungraded = Counter(prefix + "ungraded", "Answers not graded, by reason.", ("reason",), registry=registry)
        self._spent = Counter(prefix + "spent_micros", "Money spent on the endpoint.", registry=registry)

    @property
    def name(self) -> str:
        return f"endpoint:{self._settings.endpoint.model}"[:200]

    def grade(self, answers: Sequence[AnswerToGrade]) -> list[Grades]:
        if (day := self._today()) != self._day:
            self._day, self._client.meter = day, self._meter()
        before = self._client.meter.usage.spent
        failed = threading.Event()
        with ThreadPoolExecutor(self._settings.endpoint.concurrency, thread_name_prefix="judge") as pool:
            grades = list(pool.map(lambda given: self._grade(given, failed), answers))
        self._spent.inc(self._client.meter.usage.spent - before)
        return grades

    def close(self) -> None:
        self._client.close()

    def _grade(self, given: AnswerToGrade, failed: threading.Event) -> Grades:
        context, answer = given.context, given.answer
        if context is None or answer is None:
            return self._not("no_reader")
        if not sampled(given.auction_id, self._settings.sample):
            return self._not("sample")
        if failed.is_set():
            # One failure took all its retries: the rest of the batch does not wait as long again.
            return self._not("endpoint")
        try:
            feedback = self._model.click_feedback(context, answer)
        except JudgeError as error:
            failed.set()
            reason = "budget" if str(error).startswith("judge budget") else "endpoint"
            log.warning("not judged", auction=given.auction_id, reason=str(error)[:200])
            return self._not(reason)
        except AuctionError as error:
            log.warning("not judged", auction=given.auction_id, reason=str(error)[:200])
            return self._not("answer")
        shown = answer.shown()
        return Grades(
            dict.fromkeys(shown, unit_grade(feedback.relevance)),
            dict.fromkeys(shown, unit_grade(feedback.nativeness)),
            unit_grade(feedback.answer_quality),
        )

    def _not(self, reason: str) -> Grades:
        self._ungraded.labels(reason).inc()
        return UNGRADED

    def _meter(self) -> CostMeter:
        return CostMeter(self._settings.prices, self._settings.daily_budget)


def sampled(auction_id: str, share: float) -> bool:
    """Whether an auction is in the sample: by its id, so that every process and every repetition says the same."""
    return crc32(b"judge" + auction_id.encode()) < share * 2**32

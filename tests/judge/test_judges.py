"""The judges: by rules, and at an endpoint within its sample and its budget."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from benchmarks.streaming.event_samples import interaction
from judge.client import EndpointSettings
from judge.cost import Prices
from judge.endpoint import EndpointJudge, EndpointJudgeSettings, in_sample
from judge.grades import UNGRADED
from judge.rules import RuleJudge
from judge.user_model import UserModel
from mechanism.errors import AuctionError, BudgetSpentError, ConfigError, InputError, JudgeError
from streaming.events import Interaction, Reader, ShownAd, Span
from tests.support.openai_server import Reply, Request, completion, serving


def answered(text: str, *titles: str, query: str = "What do I wear for a walk on wet hills?") -> Interaction:
    """Return an interaction whose answer has this text, with these titles as links."""
    event, ids = interaction(1), {"Trail Boots": "A0", "Rain Shell": "A1", "Camp Stove": "A2"}
    spans = tuple(Span(ids[title], text.index(title), text.index(title) + len(title)) for title in titles)
    reader = Reader(query=query, raw=text, text=text, spans=spans)
    shown = tuple(ShownAd(ad_id=ids[title], pricing="click", price_micros=1) for title in titles)
    return msgspec.structs.replace(event, reader=reader, shown=shown)


GOOD = (
    "On wet hills you want dry feet first, so walk in something like Trail Boots with a deep sole. Then wear layers: a "
    "thin wool shirt, a fleece, and on top what keeps rain away. Take a map, too, and tell somebody your route."
)


def test_rules_grade_a_good_answer_above_bad_ones() -> None:
    judge = RuleJudge()
    pushy = GOOD.replace("so walk in something like Trail Boots with a deep sole.", "Buy now: Trail Boots!")
    good, pushed, short, again, foreign, twice = judge.grade(
        [
            answered(GOOD, "Trail Boots").to_grade(),
            answered(pushy, "Trail Boots").to_grade(),
            answered("Trail Boots.", "Trail Boots").to_grade(),
            answered("Wear boots on wet hills. " * 12).to_grade(),
            answered(GOOD, "Trail Boots", query="Which violin concerto opens softly?").to_grade(),
            answered(GOOD, "Trail Boots").to_grade(),
        ]
    )
    assert good == twice
    assert pushed.nativeness["A0"] < good.nativeness["A0"]
    assert short.quality is not None
    assert good.quality is not None
    assert again.quality is not None
    assert foreign.quality is not None
    assert max(short.quality, again.quality, foreign.quality) < good.quality
    assert foreign.relevance["A0"] < good.relevance["A0"]


def test_every_shown_ad_has_grades_within_0_to_1_and_an_answer_without_reader_none() -> None:
    judge = RuleJudge()
    events = [interaction(n, shown=n % 4) for n in range(8)] + [answered("", query="")]
    for event, grades in zip(events, judge.grade([e.to_grade() for e in events]), strict=True):
        values = [*grades.relevance.values(), *grades.nativeness.values(), grades.quality]
        assert all(value is not None and 0 <= value <= 1 for value in values)
        assert list(grades.relevance) == list(grades.nativeness) == [shown.ad_id for shown in event.shown]
    assert judge.grade([interaction(1, reader=False).to_grade()]) == [UNGRADED]


def test_the_rules_import_neither_torch_nor_an_http_client() -> None:
    code = (
        "import sys; from judge.rules import RuleJudge; from benchmarks.streaming.event_samples import interaction;"
        "RuleJudge().grade([interaction(1).to_grade()]); import streaming.workers.judge;"
        "print([name for name in ('torch', 'httpx', 'kafka', 'inference.encoder') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


class Endpoint:
    """A chat endpoint that grades all answers alike, counts its requests, and can be broken."""

    def __init__(self) -> None:
        self.url = ""
        self.calls = 0
        self.broken = False

    def __call__(self, request: Request) -> Reply:
        self.calls += 1
        if self.broken:
            return Reply(400, {"error": {"code": "broken"}})
        shown = request.body["response_format"]["json_schema"]["schema"]["properties"]["clicks"]["properties"]
        clicks = {ad_id: {"reason": "r", "clicked": False} for ad_id in shown}
        return completion({"clicks": clicks, "relevance": 5, "nativeness": 3, "answer_quality": 2}, 1_000, 1_000)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    with serving(endpoint) as server:
        endpoint.url = server.base_url
        yield endpoint


def settings(endpoint: Endpoint, **options: Any) -> EndpointJudgeSettings:
    chat = EndpointSettings(endpoint.url, "m", None, attempts=1, max_tokens=1_000, concurrency=1)
    return EndpointJudgeSettings(chat, **options)


def test_the_endpoint_judge_always_grades_the_same_sample(endpoint: Endpoint, tmp_path: Path) -> None:
    events = [interaction(n).to_grade() for n in range(40)]
    registry = CollectorRegistry()
    judge = EndpointJudge(settings(endpoint, sample=0.5, cache=str(tmp_path)), registry=registry)
    grades = judge.grade(events)
    chosen = [in_sample(event.auction_id, 0.5) for event in events]
    assert [grade is not UNGRADED for grade in grades] == chosen
    assert 5 < sum(chosen) < 35
    assert next(g for g in grades if g is not UNGRADED).relevance == {"A0": 1.0, "A1": 1.0}
    assert {(g.nativeness["A0"], g.quality) for g in grades if g is not UNGRADED} == {(0.5, 0.25)}
    left = registry.get_sample_value("llm_auction_judge_ungraded_total", {"reason": "sample"})
    assert left == 40 - sum(chosen)
    calls = endpoint.calls
    judge.close()
    again = EndpointJudge(settings(endpoint, sample=0.5, cache=str(tmp_path)))
    assert again.grade(events) == grades
    assert endpoint.calls == calls, "accepted replies are cached"
    again.close()


def test_a_spent_budget_and_a_broken_endpoint_leave_answers_ungraded(endpoint: Endpoint) -> None:
    days = [date(2026, 11, 24)]
    registry = CollectorRegistry()
    prices = Prices(read=1_000_000, written=1_000_000)
    judge = EndpointJudge(
        settings(endpoint, daily_budget=30_000, prices=prices), registry=registry, today=lambda: days[-1]
    )
    first = [judge.grade([interaction(n).to_grade()])[0] is UNGRADED for n in range(40)]
    assert first[0] is False
    assert first[-1] is True
    assert (registry.get_sample_value("llm_auction_judge_spent_micros_total") or 0) <= 30_000
    assert (registry.get_sample_value("llm_auction_judge_ungraded_total", {"reason": "budget"}) or 0) > 0
    days.append(date(2026, 11, 25))
    assert judge.grade([interaction(99).to_grade()]) != [UNGRADED]
    endpoint.broken = True
    calls = endpoint.calls
    assert judge.grade([interaction(n).to_grade() for n in range(100, 110)]) == [UNGRADED] * 10
    assert endpoint.calls == calls + 1, "a batch sends one request to a failing endpoint"
    assert registry.get_sample_value("llm_auction_judge_ungraded_total", {"reason": "endpoint"}) == 10
    judge.close()


def test_the_reason_of_an_ungraded_answer_is_the_exception_not_its_text(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = CollectorRegistry()
    judge = EndpointJudge(settings(endpoint), registry=registry)
    raised: list[AuctionError] = [JudgeError("judge budget?"), BudgetSpentError("empty"), InputError("a", "b", "c")]

    def fail(*_: object) -> None:
        raise raised[0]

    monkeypatch.setattr(UserModel, "click_feedback", fail)
    for reason in ("endpoint", "budget", "answer"):
        assert judge.grade([interaction(n).to_grade() for n in (1, 2)]) == [UNGRADED] * 2
        assert registry.get_sample_value("llm_auction_judge_ungraded_total", {"reason": reason}) == 2
        raised.pop(0)
    judge.close()


@pytest.mark.parametrize("bad", [{"sample": 1.5}, {"daily_budget": -1}])
def test_settings_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"judge.{next(iter(bad))}"):
        EndpointJudgeSettings(EndpointSettings("http://x", "m"), **bad)

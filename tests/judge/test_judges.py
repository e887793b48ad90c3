"""Judges: by rules, and at an endpoint within its sample and its budget."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from benchmarks.streaming.event_samples import interaction
from judge.client import EndpointSettings
from judge.cost import Prices
from judge.endpoint import EndpointJudge, EndpointJudgeSettings, sampled
from judge.grades import UNGRADED
from judge.rules import RuleJudge
from mechanism.errors import ConfigError
from streaming.events import Interaction, Reader, ShownAd, Span


def saying(text: str, *titles: str, query: str = "What do I wear for a walk on wet hills?") -> Interaction:
    """An answer with this text, in which these titles are links."""
    event, ids = interaction(1), {"Trail Boots": "A0", "Rain Shell": "A1", "Camp Stove": "A2"}
    spans = tuple(Span(ids[title], text.index(title), text.index(title) + len(title)) for title in titles)
    reader = Reader(query=query, raw=text, text=text, spans=spans)
    shown = tuple(ShownAd(ad_id=ids[title], pricing="click", price_micros=1) for title in titles)
    return msgspec.structs.replace(event, reader=reader, shown=shown)


GOOD = (
    "On wet hills you want dry feet first, so walk in something like Trail Boots with a deep sole. Then wear layers: a "
    "thin wool shirt, a fleece, and on top what keeps rain away. Take a map, too, and tell somebody your route."
)


def test_rules_tell_good_from_bad() -> None:
    judge = RuleJudge()
    pushy = GOOD.replace("so walk in something like Trail Boots with a deep sole.", "Buy now: Trail Boots!")
    good, pushed, short, again, foreign, twice = judge.grade(
        [
            saying(GOOD, "Trail Boots").to_grade(),
            saying(pushy, "Trail Boots").to_grade(),
            saying("Trail Boots.", "Trail Boots").to_grade(),
            saying("Wear boots on wet hills. " * 12).to_grade(),
            saying(GOOD, "Trail Boots", query="Which violin concerto opens softly?").to_grade(),
            saying(GOOD, "Trail Boots").to_grade(),
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


def test_grades_are_shares_for_every_shown_ad_and_none_without_a_reader() -> None:
    judge = RuleJudge()
    events = [interaction(n, shown=n % 4) for n in range(8)] + [saying("", query="")]
    for event, grades in zip(events, judge.grade([e.to_grade() for e in events]), strict=True):
        values = [*grades.relevance.values(), *grades.nativeness.values(), grades.quality]
        assert all(value is not None and 0 <= value <= 1 for value in values)
        assert list(grades.relevance) == list(grades.nativeness) == [shown.ad_id for shown in event.shown]
    assert judge.grade([interaction(1, reader=False).to_grade()]) == [UNGRADED]


def test_the_rules_need_neither_torch_nor_a_client_for_endpoints() -> None:
    code = (
        "import sys; from judge.rules import RuleJudge; from benchmarks.streaming.event_samples import interaction;"
        "RuleJudge().grade([interaction(1).to_grade()]); import streaming.workers.judge;"
        "print([name for name in ('torch', 'httpx', 'kafka', 'inference.encoder') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


class Endpoint:
    """A chat endpoint that grades everything alike; counts calls, and may be out of order."""

    def __init__(self) -> None:
        self.calls = 0
        self.broken = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.calls += 1
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                properties = asked["response_format"]["json_schema"]["schema"]["properties"]["clicks"]["properties"]
                said: dict[str, Any] = {"clicks": {ad: {"reason": "r", "clicked": False} for ad in properties}}
                said |= {"relevance": 5, "nativeness": 3, "answer_quality": 2}
                body = {
                    "choices": [{"message": {"content": json.dumps(said)}}],
                    "usage": {"prompt_tokens": 1_000, "completion_tokens": 1_000},
                }
                data = json.dumps(body).encode()
                self.send_response(400 if outer.broken else 200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.close()


def asked_at(endpoint: Endpoint, **options: Any) -> EndpointJudgeSettings:
    settings = EndpointSettings(endpoint.url, "m", None, attempts=1, max_tokens=1_000, concurrency=1)
    return EndpointJudgeSettings(settings, **options)


def test_an_endpoint_grades_a_sample_that_is_always_the_same(endpoint: Endpoint, tmp_path: Any) -> None:
    events = [interaction(n).to_grade() for n in range(40)]
    registry = CollectorRegistry()
    judge = EndpointJudge(asked_at(endpoint, sample=0.5, cache=str(tmp_path)), registry=registry)
    grades = judge.grade(events)
    chosen = [sampled(event.auction_id, 0.5) for event in events]
    assert [grade is not UNGRADED for grade in grades] == chosen
    assert 5 < sum(chosen) < 35
    assert next(g for g in grades if g is not UNGRADED).relevance == {"A0": 1.0, "A1": 1.0}
    assert {(g.nativeness["A0"], g.quality) for g in grades if g is not UNGRADED} == {(0.5, 0.25)}
    left = registry.get_sample_value("llm_auction_judge_ungraded_total", {"reason": "sample"})
    assert left == 40 - sum(chosen)
    calls = endpoint.calls
    judge.close()
    again = EndpointJudge(asked_at(endpoint, sample=0.5, cache=str(tmp_path)))
    assert again.grade(events) == grades
    assert endpoint.calls == calls, "accepted replies are kept"
    again.close()


def test_a_spent_budget_and_a_broken_endpoint_leave_answers_ungraded(endpoint: Endpoint) -> None:
    days = [date(2026, 11, 24)]
    registry = CollectorRegistry()
    prices = Prices(read=1_000_000, written=1_000_000)
    judge = EndpointJudge(
        asked_at(endpoint, daily_budget=30_000, prices=prices), registry=registry, today=lambda: days[-1]
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
    assert endpoint.calls == calls + 1, "a batch asks an endpoint that fails once"
    judge.close()


@pytest.mark.parametrize("bad", [{"sample": 1.5}, {"daily_budget": -1}])
def test_settings_that_cannot_be_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"judge.{next(iter(bad))}"):
        EndpointJudgeSettings(EndpointSettings("http://x", "m"), **bad)

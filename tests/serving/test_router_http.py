"""A request over real HTTP: consent, exclusions, deadlines, overload, clients that leave, SIGTERM."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import structlog

from mechanism.errors import PolicyError
from mechanism.types import Context
from serving.errors import PolicyTimeout
from serving.policies.protocol import AnswerLimits, AsyncPolicyBackend, Completed, PolicyEvent, TextDelta

Start = Callable[..., Any]
Router = Callable[..., Any]
Until = Callable[..., None]
REPOSITORY = Path(__file__).parents[2]


class AsyncScript(AsyncPolicyBackend):
    """An asynchronous backend whose events come from the given function."""

    digest = "1" * 64
    breaker_open = False

    def __init__(self, write: Callable[[Context, float], AsyncGenerator[PolicyEvent, None]]) -> None:
        self._write = write
        self.open = 0

    async def stream(
        self, context: Context, seed: int, max_ads: int, deadline: float, limits: AnswerLimits
    ) -> AsyncGenerator[PolicyEvent, None]:
        self.open += 1
        try:
            async for event in self._write(context, deadline):
                yield event
        finally:
            self.open -= 1

    async def ready(self) -> bool:
        return True

    async def close(self) -> None:
        return None


DONE = Completed((), -1.0, 3, 5)


def test_without_consent_nothing_of_the_reader_is_used_or_kept(start: Start) -> None:
    router = start("Try {A1}.")
    ads = {"user_id": "reader-77", "profile": {"interests": ["xylophones"], "location": "Timbuktu"}, "country": "PT"}
    with structlog.testing.capture_logs() as logs:
        refused = router.ask(ads=ads | {"consent": False})
        given = router.ask(ads=ads | {"consent": True})
    without, with_consent = router.policy.contexts
    assert without.profile is None
    assert with_consent.profile.location == "Timbuktu"
    records = [router.get("/v1/auctions/" + a["auction"]["auction_id"]) for a in (refused, given)]
    assert [r.json()["profile_used"] for r in records] == [False, True]
    everything = repr(logs) + "".join(r.text for r in records) + router.get("/metrics").text
    for word in ("reader-77", "xylophones", "Timbuktu"):
        assert word not in everything


def test_a_client_that_leaves_before_its_body_has_arrived_is_no_fault_of_the_server(
    start: Start, wait_until: Until
) -> None:
    router = start("Hello.")
    where = urlsplit(router.url)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: 500\r\n\r\n"
    with structlog.testing.capture_logs() as logs:
        with socket.create_connection((where.hostname, where.port)) as client:
            client.sendall(head.encode() + b'{"model":')
            time.sleep(0.2)  # until the server waits for the rest
        counted = 'llm_auction_http_requests_total{route="/v1/chat/completions",status="499"} 1.0'
        wait_until(lambda: counted in router.get("/metrics").text)
    assert not [log for log in logs if log["event"] == "http.unexpected_error"]


def test_the_record_lists_every_creative(start: Start) -> None:
    router = start("Try {A1}.")
    ads = {"blocked_categories": ["coffee beans"], "user_blocked_advertisers": ["brand3"], "floor_micros": 450_000}
    record = router.call("GET", "/v1/auctions/" + router.ask(ads=ads)["auction"]["auction_id"]).json()
    assert {e["ad_id"]: e["reason"] for e in record["exclusions"]} == {
        "A1": "bid_below_floor",
        "A2": "blocked_by_publisher",
        "A3": "blocked_by_user",
        "A4": "bid_below_floor",
    }
    assert {e["ad_id"]: e["bid_micros"] for e in record["eligible_creatives"]} == {"A5": 500_000, "A6": 600_000}
    excluded = {"bid_below_floor": 2, "blocked_by_publisher": 1, "blocked_by_user": 1}
    assert (record["excluded"], record["campaigns"], record["eligible"]) == (excluded, 6, 2)
    figures = router.get("/metrics").text
    assert 'llm_auction_exclusions_total{reason="bid_below_floor"} 2.0' in figures
    assert "llm_auction_auctions_total 1.0" in figures


def test_metrics_count_requests_fill_and_revenue(start: Start) -> None:
    router = start("Try {A1}.")
    answer = router.ask()
    router.ask(ads={"enabled": False})
    router.post(model="other")
    router.click(answer["ads"][0]["click_url"])
    router.wait_until_charged()
    figures = router.get("/metrics").text
    for line in (
        'http_requests_total{route="/v1/chat/completions",status="200"} 2.0',
        'http_requests_total{route="/v1/chat/completions",status="404"} 1.0',
        "filled_auctions_total 1.0",
        "auctions_total 1.0",
        'clicks_total{model_version="0000000000000000",validity="valid"} 1.0',
        'revenue_micros_total{currency="EUR",model_version="0000000000000000",pricing="click"} 100000.0',
        "router_overhead_seconds_count 2.0",
        "time_to_first_token_seconds_count 2.0",
        "campaigns 6.0",
        "answers_in_flight 0.0",
    ):
        assert "llm_auction_" + line in figures


def test_the_text_written_by_the_deadline_is_the_answer(router: Router, tmp_path: Path) -> None:
    async def slow(context: Context, deadline: float) -> AsyncGenerator[PolicyEvent, None]:
        yield TextDelta("A whole sentence. And an")
        await asyncio.sleep(max(0.0, deadline - asyncio.get_running_loop().time()))
        raise PolicyTimeout("late")

    with router(tmp_path, None, backend=AsyncScript(slow)) as running:
        began = time.monotonic()
        answer = running.ask(ads={"tmax_ms": 300})
        assert time.monotonic() - began < 5
        assert answer["choices"][0]["message"]["content"] == "A whole sentence. And an"
        assert answer["choices"][0]["finish_reason"] == "length"
        record = running.get("/v1/auctions/" + answer["auction"]["auction_id"]).json()
        assert record["outcome"] == "cut"
        streamed = running.post(stream=True, ads={"tmax_ms": 300})
        assert streamed.text.rstrip().endswith("data: [DONE]")


@pytest.mark.parametrize("stream", [False, True])
def test_a_backend_that_ignores_its_deadline_is_cancelled(router: Router, tmp_path: Path, stream: bool) -> None:
    async def hangs(context: Context, deadline: float) -> AsyncGenerator[PolicyEvent, None]:
        await asyncio.sleep(60)
        yield DONE

    backend = AsyncScript(hangs)
    with router(tmp_path, None, backend=backend) as running:
        response = running.post(stream=stream, ads={"tmax_ms": 100})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "timeout")
        assert response.headers["retry-after"]
        assert backend.open == 0


@pytest.mark.parametrize("text", ["", "@Ghost Ad@[Z9]", "   "])
def test_an_answer_without_visible_text_is_repeated_without_ads(start: Start, text: str) -> None:
    def script(context: Context) -> Iterator[str]:
        yield text if context.candidates else "A plain answer."

    router = start(script=script)
    for stream in (False, True):
        response = router.post(stream=stream)
        assert response.status_code == 200
        assert "A plain answer." in response.text
        assert "Ghost" not in response.text
    assert "ad_free_retries_total 2.0" in router.get("/metrics").text


def test_an_answer_without_any_visible_text_is_a_503(start: Start) -> None:
    response = start("@Ghost Ad@[Z9]").post()
    assert (response.status_code, response.json()["error"]["code"]) == (503, "policy_unavailable")


def test_answers_under_way_are_bounded(router: Router, tmp_path: Path, wait_until: Until) -> None:
    gate = threading.Event()

    async def waits(context: Context, deadline: float) -> AsyncGenerator[PolicyEvent, None]:
        yield TextDelta("Wait")
        while not gate.is_set():
            await asyncio.sleep(0.01)
        yield DONE

    backend = AsyncScript(waits)
    with router(tmp_path, None, backend=backend, in_flight=3) as running, ThreadPoolExecutor(8) as threads:
        sent = [threads.submit(running.post) for _ in range(8)]
        wait_until(lambda: sum(answer.done() for answer in sent) == 5)
        refused = [answer.result() for answer in sent if answer.done()]
        assert {(r.status_code, r.headers["retry-after"], r.json()["error"]["code"]) for r in refused} == {
            (503, "2", "overloaded")
        }
        gate.set()
        assert sorted(answer.result().status_code for answer in sent) == [200] * 3 + [503] * 5
        assert running.post().status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_its_generation(
    router: Router, tmp_path: Path, wait_until: Until, stream: bool
) -> None:
    async def endless(context: Context, deadline: float) -> AsyncGenerator[PolicyEvent, None]:
        while True:
            yield TextDelta("word ")
            await asyncio.sleep(0.01)

    backend = AsyncScript(endless)
    body = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    with router(tmp_path, None, backend=backend) as running, httpx.Client() as client:
        if stream:
            with client.stream("POST", f"{running.url}/v1/chat/completions", json=body) as response:
                chunks = response.iter_text()  # kept: the iterator closes the connection when it is freed
                next(chunks)
                assert backend.open == 1
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(f"{running.url}/v1/chat/completions", json=body, timeout=0.3)
        wait_until(lambda: backend.open == 0)
        wait_until(lambda: running.router.in_flight == 0)
        (record,) = running.get("/v1/auctions").json()["items"]
        assert record["outcome"] == "cancelled"


def test_a_router_whose_policy_is_down_is_not_ready(router: Router, tmp_path: Path) -> None:
    class Down(AsyncScript):
        async def ready(self) -> bool:
            return False

    async def fails(context: Context, deadline: float) -> AsyncGenerator[PolicyEvent, None]:
        raise PolicyError("down")
        yield DONE

    with router(tmp_path, None, backend=Down(fails)) as running:
        assert running.get("/readyz").status_code == 503
        assert running.get("/livez").status_code == 200
        assert running.post().json()["error"]["code"] == "policy_unavailable"


def test_the_ad_load_scales_the_bids_that_the_policy_sees(router: Router, tmp_path: Path) -> None:
    async def records_its_context(context: Context, deadline: float) -> AsyncGenerator[PolicyEvent, None]:
        contexts.append(context)
        yield TextDelta("Hello.")
        yield DONE

    contexts: list[Context] = []
    with router(tmp_path, None, backend=AsyncScript(records_its_context)) as running:
        running.router.context.ad_load = 0.5
        record = running.call("GET", "/v1/auctions/" + running.ask()["auction"]["auction_id"]).json()
        candidate = next(c for c in record["candidates"] if c["ad_id"] == "A2")
        assert (candidate["bid_micros"], candidate["shown_bid_micros"], record["ad_load"]) == (200_000, 100_000, 0.5)
        assert contexts[0].bids()["A2"] == 100_000


SERVER = """
import asyncio, sys
import structlog
from pathlib import Path
import uvicorn
from serving.http.app import create_app
from serving.policies.protocol import AsyncPolicyBackend, Completed, TextDelta
from serving.router import Router
from serving.settings import ServeSettings

class Slow(AsyncPolicyBackend):
    digest = "2" * 64
    breaker_open = False
    async def stream(self, context, seed, max_ads, deadline, limits):
        for number in range(20):
            yield TextDelta(f"word{number} ")
            await asyncio.sleep(0.05)
        yield Completed((), -1.0, 20, 5)
    async def ready(self):
        return True
    async def close(self):
        pass

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
settings = ServeSettings(state_dir=Path(sys.argv[1]), anonymous_chat=True)
router = Router(Slow(), "slow", b"s" * 40, settings, None)
config = uvicorn.Config(create_app(router), port=0, log_config=None, timeout_graceful_shutdown=20)
server = uvicorn.Server(config)
async def main():
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    await serving
try:
    asyncio.run(main())
except KeyboardInterrupt:
    pass
"""


def test_a_running_stream_ends_normally_after_sigterm(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVER, str(tmp_path / "state")]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        body = {"model": "slow", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        with httpx.stream("POST", f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=30) as response:
            text = ""
            for chunk in response.iter_text():
                if not text:
                    process.send_signal(signal.SIGTERM)
                text += chunk
        assert process.wait(30) in (0, -signal.SIGTERM)
    words = re.findall(r"word\d+", text)
    assert words == [f"word{number}" for number in range(20)]
    assert text.rstrip().endswith("data: [DONE]")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/livez")


def test_the_router_runs_on_postgresql(router: Router, scripted: Router, tmp_path: Path) -> None:
    from tests.support.postgres import PostgresMissing, PostgresServer

    try:
        server = PostgresServer(durable=False)
    except PostgresMissing as missing:
        pytest.skip(str(missing))
    policy = scripted("Try {A2}.")
    with server, router(tmp_path, policy, database=server.create("router")) as running:
        answer = running.ask()
        running.click(answer["ads"][0]["click_url"])
        running.wait_until_charged()
        assert running.revenue() == {"EUR": 200_000}
        events = running.call("GET", f"/v1/reports/events?auction_id={answer['auction']['auction_id']}").json()["items"]
        assert [e["model_version"] for e in events] == ["0" * 16]


def test_spans_cover_the_request_without_any_user_text(
    router: Router, scripted: Router, tmp_path: Path, spans: Callable[[], dict[str, Any]]
) -> None:
    with router(tmp_path, scripted("Try {A1}.")) as running:
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        body = {"model": "scripted", "messages": [{"role": "user", "content": "zanzibar running shoes?"}]}
        httpx.post(f"{running.url}/v1/chat/completions", json=body, headers={"traceparent": parent})
    assert set(spans()) == {"auction", "sensitive", "eligibility", "retrieval", "policy"}
    assert {f"{span.context.trace_id:032x}" for span in spans().values()} == {parent.split("-")[1]}
    assert "zanzibar" not in "".join(span.to_json() for span in spans().values())

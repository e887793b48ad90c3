"""The router benchmark's mock model server, and its load generator, which must notice a server's faults."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import httpx
import openai
import pytest

from benchmarks.figures import percentile
from benchmarks.serving import load, router_traffic
from benchmarks.serving.mock_upstream import DELTAS, MockSettings, missing, numbered, serve
from serving.auction.eligibility.request import words
from serving.campaigns.snapshots import snapshot
from serving.campaigns.types import CampaignState, ReviewState
from serving.database.engine import Database

TEXT = "".join(map(numbered, range(DELTAS)))
OFFERS = "Offers:\n- bid 7: @Acme Socks@[A1] - Warm.\n- bid 9: @Other@[A2]"


def with_mock(work: Callable[[int], Any], settings: MockSettings = MockSettings()) -> None:  # noqa: B008
    """Runs the work in a thread, beside a mock on a free port."""

    async def run() -> None:
        server = await serve(0, settings)
        await asyncio.to_thread(work, server.sockets[0].getsockname()[1])
        server.close()

    asyncio.run(run())


def answers(port: int, system: str) -> tuple[str, str]:
    """A plain and a streamed answer, by the official client."""
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
        messages: Any = [{"role": "system", "content": system}, {"role": "user", "content": 'Say "stream":true'}]
        plain = client.chat.completions.create(model="mock", messages=messages)
        usage: Any = {"include_usage": True}
        chunks = list(
            client.chat.completions.create(model="mock", messages=messages, stream=True, stream_options=usage)
        )
        assert [model.id for model in client.models.list()] == ["mock"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == DELTAS
    assert sum(bool(c.choices and c.choices[0].delta.content) for c in chunks) >= DELTAS
    return plain.choices[0].message.content or "", "".join(c.choices[0].delta.content or "" for c in chunks[:-1])


@pytest.mark.parametrize("gap_s", [0.0, 0.001])
def test_the_mock_answers_the_official_client(gap_s: float) -> None:
    def work(port: int) -> None:
        assert answers(port, "Be brief.") == (TEXT, TEXT)

    with_mock(work, MockSettings(gap_s=gap_s))


def test_the_mock_names_the_first_offer_when_asked() -> None:
    def work(port: int) -> None:
        for answer in answers(port, OFFERS):
            assert answer.count("@Acme Socks@[A1] ") == 1 or answer.endswith("@Acme Socks@[A1]")
            assert missing(answer.encode()) == 0
        assert answers(port, "No offers.") == (TEXT, TEXT)

    with_mock(work, MockSettings(ads=True))


def test_a_request_in_pieces_is_answered_once_it_is_whole() -> None:
    async def run() -> None:
        server = await serve(0, MockSettings())
        reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        for part in (b"POST /v1/chat/completions HTTP/1.1\r\nContent-Le", b"ngth: 15\r\n\r\n", b'{"stream":', b"true}"):
            writer.write(part)
            await asyncio.sleep(0.02)
        assert missing(await reader.readuntil(load.LAST_CHUNK)) == 0
        writer.close()
        server.close()

    asyncio.run(run())


def body(number: int) -> bytes:
    return router_traffic.body("mock", number, stream=True)


def test_every_answer_is_counted_with_its_frames() -> None:
    async def run() -> load.Measured:
        server = await serve(0, MockSettings())
        crowd = load.ConnectionPool(load.Target(server.sockets[0].getsockname()[1], body))
        measured = await load.open_load(crowd, rate=200, seconds=0.5)
        most = await load.saturating_load(crowd, 4, 0.2)
        crowd.close()
        server.close()
        assert most.answered > 4
        assert (most.failed, most.lost, most.most_open) == (0, 0, 4)
        return measured

    seen = asyncio.run(run())
    assert (seen.answered, seen.failed, seen.lost) == (100, 0, 0)
    assert seen.frames == 100 * (DELTAS + 3)
    assert len(seen.gaps) + seen.joined == 100 * (DELTAS + 2)
    assert len(seen.latencies) == len(seen.first) == 100
    assert all(0 < first <= whole for first, whole in zip(seen.first, seen.latencies, strict=True))


@pytest.mark.parametrize(
    ("answer", "failed", "lost"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\n{}", 5, 0),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nw00 \n\r\n0\r\n\r\n", 0, 5 * (DELTAS - 1)),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"error": {}}', 5, 0),
        (b"", 5, 0),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nw00 \n", 5, 0),
    ],
)
def test_what_a_bad_server_does_is_noticed(answer: bytes, failed: int, lost: int) -> None:
    async def run() -> None:
        class Bad(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def data_received(self, data: bytes) -> None:
                self.transport.write(answer)
                self.transport.close()

        server = await asyncio.get_running_loop().create_server(Bad, "127.0.0.1", 0)
        crowd = load.ConnectionPool(load.Target(server.sockets[0].getsockname()[1], body))
        measured = await load.open_load(crowd, rate=50, seconds=0.1)
        crowd.close()
        server.close()
        assert (measured.failed, measured.lost) == (failed, lost)
        assert measured.answered == 5 - failed

    asyncio.run(run())


def test_a_stall_counts_against_every_request_that_was_due_in_it() -> None:
    """No coordinated omission: the load does not wait for the server."""

    async def run() -> None:
        server = await serve(0, MockSettings(gap_s=0.2 / (DELTAS + 1)))  # 0.2 s an answer
        crowd = load.ConnectionPool(load.Target(server.sockets[0].getsockname()[1], body))
        measured = await load.open_load(crowd, rate=100, seconds=0.2)
        crowd.close()
        server.close()
        assert measured.answered == 20
        assert measured.most_open > 1  # one after the other they would never meet

    asyncio.run(run())


def test_deltas_out_of_order_are_missed_like_lost_ones() -> None:
    assert missing(TEXT.encode()) == 0
    assert missing(TEXT.replace("w07 ", "").encode()) == DELTAS - 7
    assert missing(TEXT.replace("w62 w63", "w63 w62").encode()) == 1
    assert missing(b"") == DELTAS


def test_percentiles_count_the_frames_that_came_together_as_zero() -> None:
    assert percentile([*range(1, 101)], 99) == 99
    assert percentile([4, 2], 50, zeros=2) == 0
    assert percentile([4, 2], 75, zeros=2) == 2
    assert percentile([4, 2], 99, zeros=2) == 4
    assert percentile([], 99) is None


def test_the_campaigns_of_the_measurement_are_live_and_no_two_questions_alike(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'db.sqlite3'}"
    assert list(router_traffic.fill(url, 20)) == [20]
    database = Database(url)
    found = snapshot(database, datetime.now(UTC)).campaigns
    database.close()
    assert len(found) == 20
    assert all(c.state is CampaignState.ACTIVE and c.creatives[0].review is ReviewState.APPROVED for c in found)
    questions = {router_traffic.question(n) for n in range(1_000)}
    assert len(questions) == 1_000
    made = router_traffic.campaign(1, Random(1), datetime.now(UTC))
    assert any(set(words(made.creatives[0].text)) & set(words(question)) for question in questions)


def test_the_mock_says_what_models_it_has() -> None:
    with_mock(lambda port: httpx.get(f"http://127.0.0.1:{port}/v1/models").raise_for_status())

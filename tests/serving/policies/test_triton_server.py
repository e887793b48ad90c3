"""A policy on a real tritonserver: answers, concurrency, cancellation, errors, restarts."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mechanism.errors import ConfigError, InputError, PolicyError
from serving import tracing
from serving.errors import Overloaded, PolicyTimeout
from serving.policies.breaker import BreakerSettings
from serving.policies.calls import CallSettings, ServerDown
from serving.policies.model import ModelPolicy
from serving.policies.protocol import AnswerLimits, Completed, PolicyEvent, TextDelta
from serving.policies.triton import server
from serving.policies.triton.client import ModelRef, TritonPolicy, connect
from serving.policies.triton.repository import build_adapter
from tests.serving.policies.triton_site import Ports, Site, ask, context, full, plain, scripted, until_room, whole
from tests.support.adapters import random_adapter


def test_answers_are_those_of_the_policy_in_process(site: Site) -> None:
    local = ModelPolicy.load("tiny")

    async def work(client: Any) -> None:
        remote = TritonPolicy(client, site.tiny)
        answers = await asyncio.gather(*(whole(remote, context(i), seed=i) for i in range(10)))
        assert any(done.choices for _, done in answers)
        for i, (text, done) in enumerate(answers):
            *deltas, expected = local.stream(context(i), i, 2)
            assert isinstance(expected, Completed)
            assert text == "".join(d.text for d in deltas if isinstance(d, TextDelta))
            assert done.logprob == pytest.approx(expected.logprob, abs=1e-4)
            assert (done.tokens, done.prompt_tokens) == (expected.tokens, expected.prompt_tokens)
            assert (done.finished, done.digest) == (expected.finished, site.tiny.digest)
            assert [c.chosen for c in done.choices] == [c.chosen for c in expected.choices]
            for mine, theirs in zip(done.choices, expected.choices, strict=True):
                assert mine.probabilities == pytest.approx(dict(theirs.probabilities), abs=1e-5)

    site.run(work)


def test_eight_streams_are_written_at_once(site: Site) -> None:
    order: list[tuple[str, int]] = []

    async def work(client: Any) -> None:
        policy = TritonPolicy(client, site.wide)

        async def one(name: str) -> None:
            count = 0
            async for event in ask(policy, plain(name), 40):
                if isinstance(event, TextDelta):
                    assert event.text == f"{name}:{count} "
                    count += 1
                    order.append((name, count))
            assert count == 40

        await asyncio.gather(*(one(f"s{i}") for i in range(8)))

    site.run(work)
    firsts = [i for i, (_, count) in enumerate(order) if count == 1]
    lasts = [i for i, (_, count) in enumerate(order) if count == 40]
    assert len(firsts) == len(lasts) == 8
    assert max(firsts) < min(lasts)


def test_a_full_server_refuses_and_a_closed_stream_frees_its_slot(site: Site) -> None:
    async def work(client: Any) -> None:
        policy = TritonPolicy(client, site.narrow)
        endless = ask(policy, plain(), 10**6)
        await anext(endless)
        with pytest.raises(Overloaded):
            await whole(policy, plain(), 1)
        await endless.aclose()
        await until_room(policy)
        # likewise when the reader's task is cancelled
        started = asyncio.Event()

        async def read() -> None:
            async for _ in ask(policy, plain(), 10**6):
                started.set()

        reader = asyncio.create_task(read())
        await started.wait()
        assert await full(policy)
        reader.cancel()
        await until_room(policy)
        assert policy.breaker.closed

    site.run(work)


def test_a_closed_client_frees_its_slot(site: Site) -> None:
    async def work(client: Any) -> None:
        dying = connect(f"127.0.0.1:{site.server.grpc}")
        endless = ask(TritonPolicy(dying, site.narrow), plain(), 10**6)
        await anext(endless)
        assert await full(TritonPolicy(client, site.narrow))
        await dying.close()
        await until_room(TritonPolicy(client, site.narrow))
        with pytest.raises(PolicyError):
            await anext(endless)

    site.run(work)


def test_the_deadline_ends_the_answer_on_the_server_too(site: Site) -> None:
    async def work(client: Any) -> None:
        policy = TritonPolicy(client, site.narrow)
        with pytest.raises(PolicyTimeout):
            await whole(policy, plain(), 10**6, seconds=0.3)
        await until_room(policy)
        with pytest.raises(PolicyTimeout):
            await whole(policy, plain(), 1, seconds=-1)
        assert policy.breaker.failures == 0

    site.run(work)


def test_errors_keep_their_kind_and_quote_no_question(site: Site) -> None:
    async def work(client: Any) -> None:
        tiny, wide = TritonPolicy(client, site.tiny), TritonPolicy(client, site.wide)
        with pytest.raises(InputError, match="shorten them") as caught:
            await whole(tiny, plain(query="a private word " * 2000), 1)
        assert caught.value.place == "messages"
        assert "private" not in str(caught.value)
        with pytest.raises(InputError, match="seed"):
            await whole(wide, plain(), -1)
        with pytest.raises(PolicyError, match="server's log") as broken:
            await whole(wide, plain(query="break"), 1)
        assert "private" not in str(broken.value)
        assert (await whole(wide, plain(), 2))[0] == "c:0 c:1 "

    site.run(work)
    assert "private" not in site.server.log.read_text()


def test_the_trace_reaches_the_model(site: Site, spans: Callable[[], dict[str, Any]]) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"

    async def work(client: Any) -> None:
        policy = TritonPolicy(client, site.wide)
        with tracing.continued({"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}), tracing.span("auction"):
            await whole(policy, plain(), 2)
            answered = spans()["triton"]
            with pytest.raises(PolicyError):
                await whole(policy, plain(query="break"), 1)
            failed = spans()["triton"]
            endless = ask(policy, plain(), 10**6)
            await anext(endless)
            await endless.aclose()
        assert [s.attributes["outcome"] for s in (answered, failed, spans()["triton"])] == [
            "answered",
            "PolicyError",
            "cancelled",
        ]
        assert answered.attributes["model_digest"] == site.wide.digest
        assert answered.parent.span_id == spans()["auction"].context.span_id
        assert {f"{span.context.trace_id:032x}" for span in (answered, failed)} == {trace_id}
        await until_room(policy)

    site.run(work)
    assert f"no answer in trace {trace_id}" in site.server.log.read_text()


def test_the_interface_works_over_plain_http(site: Site) -> None:
    url = f"http://127.0.0.1:{site.server.http}/v2/models/{site.wide.name}/generate_stream"
    body = json.dumps(
        {"REQUEST": json.dumps({"context": {"id": "c", "query": "q", "candidates": []}, "seed": 2, "max_ads": 0})}
    )
    with urllib.request.urlopen(urllib.request.Request(url, body.encode()), timeout=20) as answer:
        frames = [json.loads(line[6:]) for line in answer.read().decode().splitlines() if line.startswith("data: ")]
    assert [f["TEXT"] for f in frames] == ["c:0 ", "c:1 ", ""]
    assert json.loads(frames[-1]["COMPLETED"])["digest"] == site.wide.digest


def test_adapters_answer_beside_the_base_that_serves_them(site: Site, tmp_path: Path) -> None:
    folder = random_adapter(tmp_path / "adapter", 1)
    local = ModelPolicy.load(str(folder))
    # The server runs already: it finds the adapter at the first request for it.
    built = build_adapter(str(folder), site.repository)
    assert (built.name, built.base, built.digest) == (site.tiny.name, site.tiny.digest, local.digest)

    few = AnswerLimits(max_tokens=20)

    async def work(client: Any) -> None:
        base = TritonPolicy(client, site.tiny)
        remote = TritonPolicy(client, ModelRef(built.name, built.base, built.digest))
        assert await remote.ready()
        alone = [await whole(base, context(i), i, limits=few) for i in range(3)]
        both = [whole(policy, context(i), i, limits=few) for i in range(3) for policy in (base, remote)]
        answers = await asyncio.gather(*both)
        assert [text for text, _ in answers[::2]] == [text for text, _ in alone]
        for i, (text, done) in enumerate(answers[1::2]):
            *deltas, expected = local.stream(context(i), i, 2, few)
            assert isinstance(expected, Completed)
            assert text == "".join(d.text for d in deltas if isinstance(d, TextDelta)) != alone[i][0]
            assert (done.digest, done.tokens) == (built.digest, expected.tokens)
            # Apart from the base, an adapter's sums are rounded otherwise than merged into it.
            assert done.logprob == pytest.approx(expected.logprob, abs=0.02)
        settings = CallSettings(retries=1, backoff_s=0.01)
        absent = TritonPolicy(client, ModelRef(built.name, built.base, "0" * 64), settings)
        with pytest.raises(ServerDown, match="adapter 000000000000 is not on this server"):
            await whole(absent, plain(), 1)
        assert (await whole(remote, context(1), 1, limits=few))[0] == answers[3][0]

    site.run(work)


def test_another_digest_is_refused_before_the_first_request(site: Site) -> None:
    async def work(client: Any) -> None:
        wrong = TritonPolicy(client, ModelRef(site.wide.name, "0" * 64))
        with pytest.raises(PolicyError, match="not 000000000000"):
            await whole(wrong, plain(), 1)
        assert not await wrong.ready()
        assert await TritonPolicy(client, site.wide).ready()
        assert not await TritonPolicy(client, ModelRef("policy-absent", "0" * 64)).ready()

    site.run(work)


def test_the_breaker_opens_when_the_server_dies_and_closes_when_it_is_back(
    prepared: server.Prepared, ports: Ports, tmp_path: Path
) -> None:
    model = scripted(tmp_path / "repository", tmp_path / "m", b"w", slots=2)
    settings = CallSettings(retries=1, backoff_s=0.01, breaker=BreakerSettings(failures=3, cooldown_s=0.2))

    async def fail(policy: TritonPolicy) -> None:
        with pytest.raises(ServerDown):
            await whole(policy, plain(), 1, seconds=10)

    async def work() -> None:
        client = connect(f"127.0.0.1:{ports[1]}")
        policy = TritonPolicy(client, model, settings)
        with server.running(tmp_path / "repository", [model.name], tmp_path / "log", prepared, ports) as first:
            assert (await whole(policy, plain(), 1))[0] == "c:0 "
            under_way = ask(policy, plain(), 10**6)
            await anext(under_way)
            first.kill()
            rest: list[PolicyEvent] = []
            with pytest.raises(ServerDown):
                rest.extend([event async for event in under_way])
            assert TextDelta("c:0 ") not in rest, "the answer was written twice"
        while policy.breaker.closed:
            await fail(policy)
        assert not await policy.ready()
        with server.running(tmp_path / "repository", [model.name], tmp_path / "log", prepared, ports):
            async with asyncio.timeout(20):
                while not policy.breaker.closed:
                    try:
                        await whole(policy, plain(), 1)
                    except ServerDown:
                        await asyncio.sleep(0.05)
            assert await policy.ready()
        await client.close()

    asyncio.run(work())


def test_a_server_that_cannot_start_shows_its_log(prepared: server.Prepared, ports: Ports, tmp_path: Path) -> None:
    model = scripted(tmp_path / "repository", tmp_path / "m", b"w", slots=2)
    (tmp_path / "repository" / model.name / "1" / "model.py").write_text("raise RuntimeError('no such thing')")
    with (
        pytest.raises(PolicyError, match="no such thing"),
        server.running(tmp_path / "repository", [model.name], tmp_path / "log", prepared, ports),
    ):
        pytest.fail("the server started")


def test_a_server_that_is_not_prepared_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="llm-auction triton prepare"):
        server.locate(tmp_path)

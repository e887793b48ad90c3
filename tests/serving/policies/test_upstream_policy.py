"""The upstream policy against real servers on this machine: whole answers, errors, deadlines, cancelled readers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.serving.mock_upstream import DELTAS, MockSettings, numbered, serve
from mechanism.errors import ConfigError, InputError, PolicyError
from mechanism.structural_tags import text_tag
from mechanism.types import Context
from serving import tracing
from serving.errors import Overloaded, PolicyTimeout
from serving.policies.breaker import BreakerSettings
from serving.policies.calls import ServerDown
from serving.policies.openai.exchange import KEY_VARIABLE
from serving.policies.openai.policy import UpstreamPolicy
from serving.policies.protocol import AsyncPolicyBackend, Completed, PolicyEvent, TextDelta
from tests.serving.policies.fake_upstream import (
    CONTEXT,
    HEAD,
    WHOLE,
    Answer,
    faked,
    frame,
    hangs,
    sends,
    status,
    upstream,
)


async def collect(policy: AsyncPolicyBackend, seconds: float = 10, context: Context = CONTEXT) -> list[PolicyEvent]:
    deadline = asyncio.get_running_loop().time() + seconds
    async with aclosing(policy.stream(context, 2**62 + 7, 3, deadline)) as events:
        return [event async for event in events]


def test_the_trace_is_sent_to_the_upstream(spans: Callable[[], dict[str, Any]]) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    caller = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01", "baggage": "user=private"}

    async def run() -> str:
        async with faked(sends(WHOLE)) as (fake, policy):
            with tracing.continued(caller):
                await collect(policy)
            return fake.heads[0]

    head = asyncio.run(run())
    span = spans()["upstream"]
    assert f"traceparent: 00-{trace_id}-{span.context.span_id:016x}-01" in head
    assert "private" not in head
    assert span.attributes["outcome"] == "answered"


def text(events: list[PolicyEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_every_delta_is_streamed_with_usage_but_no_propensities() -> None:
    async def run() -> None:
        server = await serve(0, MockSettings(ads=True))
        policy = UpstreamPolicy(upstream(server.sockets[0].getsockname()[1]), {})
        for _ in range(3):
            *deltas, done = await collect(policy)
            assert sum(d.count for d in deltas if isinstance(d, TextDelta)) == DELTAS + 1
            assert text(deltas).replace("@Zephyr Shoes@[A1] ", "") == "".join(map(numbered, range(DELTAS)))
            assert "@Zephyr Shoes@[A1]" in text(deltas)
            assert isinstance(done, Completed)
            assert (done.choices, done.tokens, done.prompt_tokens, done.finished) == ((), DELTAS, 100, True)
        assert await policy.ready()
        await policy.close()
        assert not await policy.ready()
        with pytest.raises(PolicyError, match="shutting down"):
            await collect(policy)
        server.close()

    asyncio.run(run())


def test_consecutive_answers_share_one_connection() -> None:
    async def run() -> None:
        body = frame("Hi") + frame(finish="stop") + b"data: [DONE]\n\n"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(body)
        connections, ended = 0, asyncio.Event()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            try:
                while True:
                    request = await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(int(request.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
                    writer.write(head + body)
            except asyncio.IncompleteReadError:
                writer.close()
                ended.set()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        policy = UpstreamPolicy(upstream(server.sockets[0].getsockname()[1]), {})
        for _ in range(5):
            assert text(await collect(policy)) == "Hi"
        assert connections == 1
        await policy.close()
        server.close()
        await asyncio.wait_for(ended.wait(), 5)

    asyncio.run(run())


def test_the_request_carries_prompt_key_seed_and_limit() -> None:
    async def run() -> None:
        async with faked(sends(WHOLE), max_tokens=99, temperature=0.5) as (fake, policy):
            *_, done = await collect(policy)
            assert isinstance(done, Completed)
            assert done.tokens == 1  # without usage: the deltas' number
            [request], [head] = fake.requests, fake.heads
            assert "- bid 50: @Zephyr Shoes@[A1] - Light." in request["messages"][0]["content"]
            assert request["messages"][-1] == {"role": "user", "content": "Which shoes?"}
            assert (request["model"], request["stream"], request["max_tokens"]) == ("m", True, 99)
            assert request["temperature"] == 0.5
            assert 0 <= request["seed"] < 2**31
            assert head.startswith("POST /v1/chat/completions ")
            assert "Authorization: Bearer sk-test" in head

    asyncio.run(run())


@pytest.mark.parametrize(("reason", "finished"), [("stop", True), ("length", False), ("content_filter", False)])
def test_an_answer_is_finished_if_the_model_ended_it(reason: str, finished: bool) -> None:
    async def run() -> None:
        async with faked(sends(HEAD, frame("Hi", reason))) as (_, policy):  # the body ends without [DONE]
            *_, done = await collect(policy)
            assert isinstance(done, Completed)
            assert done.finished is finished

    asyncio.run(run())


def test_a_broken_connection_is_retried_only_before_the_first_delta() -> None:
    async def run() -> None:
        async with faked(sends(), sends(HEAD), sends(WHOLE)) as (fake, policy):
            with pytest.raises(
                PolicyError, match="before the answer was complete"
            ):  # a clean end of the body, but no finish reason
                await collect(policy)
            assert len(fake.requests) == 2
            assert text(await collect(policy)) == "Hello."
        cut = HEAD.replace(b"Connection: close", b"Content-Length: 999")
        async with faked(sends(cut), sends(WHOLE)) as (fake, policy):
            assert text(await collect(policy)) == "Hello."
            assert len(fake.requests) == 2
        async with faked(sends(cut + frame("Hel")), sends(WHOLE)) as (fake, policy):
            events = policy.stream(CONTEXT, 1, 3, asyncio.get_running_loop().time() + 10)
            assert await anext(events) == TextDelta("Hel")
            with pytest.raises(PolicyError, match="within the answer") as caught:
                await anext(events)
            assert not isinstance(caught.value, ServerDown)
            assert len(fake.requests) == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (400, InputError),
        (422, InputError),
        (429, Overloaded),
        (503, Overloaded),
        (401, PolicyError),
        (404, PolicyError),
        (500, PolicyError),
        (302, PolicyError),
    ],
)
def test_a_refusal_is_final_and_its_body_is_not_repeated(code: int, error: type[Exception]) -> None:
    async def run() -> None:
        async with faked(status(code)) as (fake, policy):
            with pytest.raises(error) as caught:
                await collect(policy)
            assert type(caught.value) is error
            assert "private" not in str(caught.value)
            assert len(fake.requests) == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    "bad",
    [
        b"data: {not json\n\n",
        b"data: [1, 2]\n\n",
        b'data: {"choices": [{"delta": {"content": 7}}]}\n\n',
        b'data: {"error": {"message": "a private question"}}\n\n',
        b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n',
    ],
)
@pytest.mark.parametrize("first", [b"", frame("Hi")])
def test_a_malformed_frame_ends_the_answer_and_is_not_repeated(bad: bytes, first: bytes) -> None:
    async def run() -> None:
        async with faked(sends(HEAD + first + bad + frame(finish="stop"))) as (fake, policy):
            with pytest.raises(PolicyError) as caught:
                await collect(policy)
            assert "private" not in str(caught.value)
            assert len(fake.requests) == 1

    asyncio.run(run())


def test_an_answer_that_is_not_streamed_is_refused() -> None:
    async def run() -> None:
        plain = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        async with faked(sends(plain)) as (_, policy):
            with pytest.raises(PolicyError, match="did not stream"):
                await collect(policy)

    asyncio.run(run())


def test_a_closed_stream_is_cancelled_at_the_server() -> None:
    async def run() -> None:
        async with faked(hangs) as (fake, policy):
            events = policy.stream(CONTEXT, 1, 3, asyncio.get_running_loop().time() + 20)
            assert await anext(events) == TextDelta("Hel")
            assert policy.open_answers == 1
            await events.aclose()
            await asyncio.wait_for(fake.left.wait(), 5)
            assert policy.open_answers == 0

    asyncio.run(run())


def test_a_cancelled_task_closes_a_request_without_an_answer() -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    async def run() -> None:
        async with faked(silent) as (fake, policy):
            task = asyncio.create_task(collect(policy))
            while not fake.requests:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(fake.left.wait(), 5)
            assert policy.open_answers == 0

    asyncio.run(run())


@pytest.mark.parametrize("slow", [hangs, None])
def test_the_deadline_ends_a_request_before_and_within_its_answer(slow: Answer | None) -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    async def run() -> None:
        async with faked(slow or silent) as (fake, policy):
            with pytest.raises(PolicyTimeout):
                await collect(policy, seconds=0.2)
            await asyncio.wait_for(fake.left.wait(), 5)
            assert len(fake.requests) == 1
            with pytest.raises(PolicyTimeout):
                await collect(policy, seconds=0)
            assert len(fake.requests) == 1

    asyncio.run(run())


def test_answers_above_the_limit_are_refused() -> None:
    async def run() -> None:
        async with faked(hangs, in_flight=1) as (_, policy):
            deadline = asyncio.get_running_loop().time() + 20
            first = policy.stream(CONTEXT, 1, 3, deadline)
            await anext(first)
            with pytest.raises(Overloaded):
                await collect(policy)
            await first.aclose()
            again = policy.stream(CONTEXT, 1, 3, deadline)
            assert await anext(again) == TextDelta("Hel")
            await again.aclose()

    asyncio.run(run())


def test_the_breaker_opens_for_a_failing_server_and_closes_again() -> None:
    async def run() -> None:
        breaker = BreakerSettings(failures=2, cooldown_s=0.2)
        async with faked(sends(), sends(), sends(WHOLE), retries=0, breaker=breaker) as (fake, policy):
            for _ in range(2):
                with pytest.raises(ServerDown):
                    await collect(policy)
            with pytest.raises(ServerDown, match="failed repeatedly"):
                await collect(policy)
            assert len(fake.requests) == 2
            await asyncio.sleep(0.25)
            assert text(await collect(policy)) == "Hello."
            assert policy.breaker.closed

    asyncio.run(run())


def test_an_address_without_a_server_is_down_and_not_ready() -> None:
    async def run() -> None:
        async with faked(sends(WHOLE)) as (fake, _):
            port = fake.port
        policy = UpstreamPolicy(upstream(port), {})
        with pytest.raises(ServerDown):
            await collect(policy)
        assert not await policy.ready()
        await policy.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "localhost:8000"},
        {"url": "http://"},
        {"url": "http://me:secret@host/v1"},
        {"model": ""},
        {"max_tokens": 0},
        {"in_flight": 0},
        {"temperature": math.nan},
    ],
)
def test_invalid_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(upstream(1), **wrong)
    assert "secret" not in str(caught.value)


def test_a_key_with_control_characters_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        UpstreamPolicy(upstream(1), {KEY_VARIABLE: "sk\r\nX-Evil: 1"})
    assert "Evil" not in str(caught.value)


def test_the_base_url_may_carry_its_path() -> None:
    for url in ("http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"):
        assert replace(upstream(1), url=url).endpoint("/models") == "http://h:1/v1/models"
    assert replace(upstream(1), url="http://h/openai/v1").endpoint("/models") == "http://h/openai/v1/models"


def test_a_relayed_answer_that_is_never_read_leaves_nothing_open() -> None:
    async def run() -> tuple[int, int]:
        async with faked(sends(WHOLE)) as (_, policy):
            answer = await policy.relay({"messages": []}, asyncio.get_running_loop().time() + 10)
            before = policy.open_answers
            await answer.chunks.aclose()
            return before, policy.open_answers

    assert asyncio.run(run()) == (1, 0)


def test_a_model_with_an_opener_of_its_own_is_asked_and_read_with_it() -> None:
    async def run() -> tuple[dict[str, Any], list[PolicyEvent]]:
        written = HEAD + frame("See †Zephyr Sh") + frame("oes@[A1] †") + frame(finish="stop") + b"data: [DONE]\n\n"
        async with faked(sends(written), structural_tags=True, opener="†") as (fake, policy):
            events = await collect(policy)
            return fake.requests[0], events

    request, events = asyncio.run(run())
    assert request["response_format"] == text_tag([c.ad for c in CONTEXT.candidates], "†")
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "See @Zephyr Shoes@[A1] @"


def test_an_opener_is_one_character() -> None:
    with pytest.raises(ConfigError, match=r"upstream\.opener.*policy\.json"):
        upstream(1, opener="@@")

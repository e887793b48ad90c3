"""A policy in the router's process: one generation at a time, a bounded queue, deadlines, cancelled clients."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from mechanism.types import Context

Start = Callable[..., Any]


class Gate:
    """A script that writes one word, then dots, and waits for the gate."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.inside = 0
        self.most = 0

    def __call__(self, context: Context) -> Iterator[str]:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            yield "Wait "  # a whole word: the scan of answers holds back the beginning of one
            while not self.open.wait(0.01):
                yield "."
        finally:
            self.inside -= 1


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "the condition did not hold within 10 s"
        time.sleep(0.01)


def impatient(router: Any) -> httpx.Response | None:
    """Send a request with a time-out of 0.3 s; return its answer, None after the time-out."""
    body = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}]}
    try:
        return httpx.post(f"{router.url}/v1/chat/completions", json=body, timeout=0.3)
    except httpx.ReadTimeout:
        return None


def test_a_full_queue_is_a_503_with_retry_after(start: Start) -> None:
    gate = Gate()
    router = start(script=gate, waiting=2)
    with ThreadPoolExecutor(8) as threads:
        sent = [threads.submit(router.post) for _ in range(8)]
        until(lambda: sum(answer.done() for answer in sent) == 5)
        refused = [answer.result() for answer in sent if answer.done()]
        gate.open.set()
        assert sorted(answer.result().status_code for answer in sent) == [200] * 3 + [503] * 5
    assert {(r.headers["retry-after"], r.json()["error"]["code"]) for r in refused} == {("2", "overloaded")}
    assert gate.most == 1
    assert router.post().status_code == 200


def test_a_client_that_stops_waiting_frees_its_place_at_once(start: Start) -> None:
    gate = Gate()
    router = start(script=gate, waiting=1)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(router.post)
        until(lambda: gate.inside == 1)
        for _ in range(3):  # each takes the only place in the queue and leaves it
            until(lambda: impatient(router) is None)
        assert len(router.policy.contexts) == 1
        gate.open.set()
        assert first.result().status_code == 200
    until(lambda: router.post().status_code == 200)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_its_generation(start: Start, stream: bool) -> None:
    gate = Gate()
    router = start(script=gate)
    body = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    with httpx.Client() as client:
        if stream:
            with client.stream("POST", f"{router.url}/v1/chat/completions", json=body) as response:
                next(response.iter_text())
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(f"{router.url}/v1/chat/completions", json=body, timeout=0.5)
    until(lambda: gate.inside == 0)
    gate.open.set()
    assert router.post().status_code == 200


def test_a_policy_past_its_deadline_is_a_503_and_the_router_is_not_ready(start: Start) -> None:
    stop = threading.Event()

    def script(context: Context) -> Iterator[str]:
        stop.wait(10)
        yield "late"

    router = start(script=script, deadline_s=0.3)
    response = router.post()
    assert (response.status_code, response.json()["error"]["code"]) == (503, "timeout")
    until(lambda: router.get("/readyz").status_code == 503)
    assert router.get("/livez").status_code == 200
    stop.set()
    until(lambda: router.get("/readyz").status_code == 200)

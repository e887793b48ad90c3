"""Idempotency-Key: a retry gets the first answer, and nothing is done twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import openai
import pytest
from sqlalchemy import select

from serving.accounts.idempotency import StillRunning
from serving.database.engine import Database
from serving.database.schema import idempotent_requests

Start = Callable[..., Any]
QUESTION = {"model": "scripted", "messages": [{"role": "user", "content": "Good running shoes?"}]}
CAMPAIGN = {"advertiser_id": "Falcon", "name": "Spring", "bid_micros": 450_000, "currency": "EUR"}


def send(router: Any, path: str, body: dict[str, Any], key: str = "k1", **options: Any) -> httpx.Response:
    method = options.pop("method", "POST")
    response: httpx.Response = router.call(method, path, json=body, headers={"Idempotency-Key": key}, **options)
    return response


@pytest.mark.parametrize("stream", [False, True])
def test_a_retried_question_gets_the_same_answer_and_pays_once(start: Start, stream: bool) -> None:
    router = start("Try {A2}. Really.")
    first, second = (send(router, "/v1/chat/completions", QUESTION | {"stream": stream}) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.content == second.content
    assert first.headers["content-type"] == second.headers["content-type"]
    assert (first.headers.get("idempotency-replayed"), second.headers["idempotency-replayed"]) == (None, "true")
    assert len(router.policy.contexts) == 1
    assert len(router.logged("interactions")) == 1


def test_another_question_under_the_key_is_refused(start: Start) -> None:
    router = start()
    send(router, "/v1/chat/completions", QUESTION)
    response = send(router, "/v1/chat/completions", QUESTION | {"seed": 7})
    assert (response.status_code, response.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert send(router, "/v1/chat/completions", QUESTION | {"seed": 7}, "k2").status_code == 200


def test_a_key_belongs_to_the_api_key_that_sent_it(start: Start) -> None:
    router = start("Hello.")
    one, other = router.key("publisher"), router.key("publisher")
    answers = []
    for key in (one, other, one):
        response = router.call("POST", "/v1/chat/completions", key, json=QUESTION, headers={"Idempotency-Key": "k"})
        answers.append(response.json()["id"])
    assert answers[0] == answers[2] != answers[1]
    refused = httpx.post(f"{router.url}/v1/chat/completions", json=QUESTION, headers={"Idempotency-Key": "k"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "Idempotency-Key")


def test_a_retry_beside_the_first_request_waits_its_turn(start: Start) -> None:
    go = threading.Event()

    def script(context: Any) -> Any:
        yield "Hello "
        go.wait(10)
        yield "there."

    router = start(script=script)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(send, router, "/v1/chat/completions", QUESTION)
        end = time.monotonic() + 10
        while not router.policy.contexts:
            assert time.monotonic() < end
            time.sleep(0.01)
        second = send(router, "/v1/chat/completions", QUESTION)
        go.set()
        answer = first.result()
    assert (second.status_code, second.json()["error"]["code"]) == (409, "idempotency_key_in_use")
    assert second.headers["retry-after"]
    assert send(router, "/v1/chat/completions", QUESTION).content == answer.content


def test_the_retry_of_a_client_that_has_gone_gets_the_answer(start: Start, wait_until: Callable[..., None]) -> None:
    def script(context: Any) -> Any:
        for number in range(20):
            yield f"word{number} "
            time.sleep(0.05)

    router = start(script=script)
    headers = {"Idempotency-Key": "k1", "Authorization": f"Bearer {router.admin}"}
    url, body = f"{router.url}/v1/chat/completions", QUESTION | {"stream": True}
    with httpx.stream("POST", url, json=body, headers=headers) as response:
        next(response.iter_lines())
    wait_until(lambda: router.router.in_flight == 0)
    retried = send(router, "/v1/chat/completions", body)
    assert "word19" in retried.text
    assert retried.text.endswith("data: [DONE]\n\n")
    assert len(router.policy.contexts) == 1


def test_an_answer_that_a_shutdown_cut_off_can_be_asked_for_again(
    router: Callable[..., Any], scripted: Callable[..., Any], tmp_path: Path
) -> None:
    policy = scripted()
    policy.script = lambda context: (time.sleep(0.05) or f"word{number} " for number in range(200))
    body = QUESTION | {"stream": True}
    with ExitStack() as client, router(tmp_path, policy, drain_s=1) as server:
        headers = {"Idempotency-Key": "k1", "Authorization": f"Bearer {server.admin}"}
        url = f"{server.url}/v1/chat/completions"
        response = client.enter_context(httpx.stream("POST", url, json=body, headers=headers, timeout=20))
        next(response.iter_lines())
    database = Database(server.settings.database_url)
    with database.read() as connection:
        assert connection.execute(select(idempotent_requests)).all() == []
    database.close()


def test_a_failure_is_not_kept(start: Start) -> None:
    failing = [True]

    def script(context: Any) -> Any:
        if failing:
            raise RuntimeError("the policy is broken")
        yield "Hello."

    router = start(script=script)
    assert send(router, "/v1/chat/completions", QUESTION).status_code == 503
    failing.clear()
    assert send(router, "/v1/chat/completions", QUESTION).status_code == 200


def test_openai_clients_may_send_the_header(start: Start) -> None:
    router = start("Hello.")
    client = openai.OpenAI(base_url=f"{router.url}/v1", api_key=router.admin, max_retries=0)
    ids = [
        client.chat.completions.create(
            model="default",
            messages=[{"role": "user", "content": "hello"}],
            extra_headers={"Idempotency-Key": "k9"},
        ).id
        for _ in range(2)
    ]
    assert ids[0] == ids[1]


def test_a_campaign_is_created_once(start: Start) -> None:
    router = start()
    first, second = (send(router, "/v1/campaigns", CAMPAIGN) for _ in range(2))
    assert first.status_code == second.status_code == 201
    assert first.json() == second.json()
    assert len(router.call("GET", "/v1/campaigns?advertiser_id=Falcon").json()["items"]) == 1
    assert send(router, "/v1/campaigns", CAMPAIGN | {"name": "Summer"}).status_code == 422


def test_a_refused_campaign_can_be_sent_again_corrected(start: Start) -> None:
    router = start()
    assert send(router, "/v1/campaigns", CAMPAIGN | {"bid_micros": -1}).status_code == 400
    assert send(router, "/v1/campaigns", CAMPAIGN).status_code == 201


def test_a_change_whose_key_was_taken_over_is_not_made(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    router = start()
    monkeypatch.setattr(router.router.idempotency, "record", Mock(side_effect=StillRunning("taken over")))
    response = send(router, "/v1/campaigns", CAMPAIGN)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "idempotency_key_in_use")
    assert router.call("GET", "/v1/campaigns?advertiser_id=Falcon").json()["items"] == []


def test_changes_are_made_once_although_the_version_has_moved(start: Start) -> None:
    router = start()
    path = "/v1/campaigns/" + send(router, "/v1/campaigns", CAMPAIGN).json()["id"]
    change = {"version": 1, "bid_micros": 440_000}
    first, second = (send(router, path, change, "k2", method="PATCH") for _ in range(2))
    assert (first.status_code, first.json()) == (second.status_code, second.json()) == (200, second.json())
    assert router.call("PATCH", path, json=change).status_code == 409
    ended = [send(router, path + "/end", {"version": 2}, "k3") for _ in range(2)]
    assert [response.json()["version"] for response in ended] == [3, 3]
    reviews = [send(router, "/v1/creatives/A1/review", {"review": "rejected"}, "k4").json() for _ in range(2)]
    assert reviews[0] == reviews[1]


def test_answers_are_encrypted_and_expire(start: Start) -> None:
    router = start("A word like zanzibar.")
    send(router, "/v1/chat/completions", QUESTION)
    with router.router.database.read() as connection:
        (row,) = connection.execute(select(idempotent_requests)).mappings().all()
    assert not any(b"zanzibar" in value for value in row.values() if isinstance(value, bytes))
    store = router.router.idempotency
    assert store.sweep(row["created_at"] + timedelta(hours=23)) == 0
    assert store.sweep(row["created_at"] + timedelta(hours=24, seconds=1)) == 1
    send(router, "/v1/chat/completions", QUESTION)
    assert len(router.policy.contexts) == 2


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
def test_a_malformed_key_is_refused(start: Start, key: str) -> None:
    response = send(start(), "/v1/chat/completions", QUESTION, key)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "Idempotency-Key")

"""Conversations: the cap of ads, the turns between them, and what retrieval reads of earlier messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from serving.answering.conversation import CAP, SPACING, ads_left
from serving.auction.relevance import RelevanceFloor
from serving.auction.retrieval.conversation import conversation_vector
from serving.auction.sensitive.meaning import Meaning

ASK = {"role": "user", "content": "Good running shoes?"}


@pytest.mark.parametrize(
    ("shown", "cap", "between", "left"),
    [
        ([], 3, 0, (3, "")),
        ([1, 1], 3, 0, (1, "")),
        ([1, 2], 3, 0, (0, CAP)),
        ([2, 2], 3, 1, (0, CAP)),
        ([1, 0], 9, 1, (8, "")),
        ([0, 1], 9, 1, (0, SPACING)),
        ([1, 0], 9, 2, (0, SPACING)),
        ([], 0, 0, (0, CAP)),
    ],
)
def test_cap_and_spacing(shown: list[int], cap: int, between: int, left: tuple[int, str]) -> None:
    assert ads_left(shown, cap, between) == left


def talk(server: Any, turns: int, **ads: Any) -> list[dict[str, Any]]:
    messages: list[dict[str, str]] = []
    answers = []
    for _ in range(turns):
        messages.append(ASK)
        answers.append(server.ask(messages=messages, ads=ads))
        messages.append({"role": "assistant", "content": answers[-1]["choices"][0]["message"]["content"]})
    return answers


def test_conversation_stops_at_its_cap(start: Callable[..., Any]) -> None:
    server = start("Try {A1} or {A2}.", conversation_ads=3)
    answers = talk(server, 3)
    assert [len(answer["ads"]) for answer in answers] == [2, 1, 0]
    assert answers[2]["auction"]["withheld"] == CAP


def test_publisher_asks_for_fewer_ads_and_never_gets_more(start: Callable[..., Any]) -> None:
    server = start("Try {A1}.", conversation_ads=2)
    assert [len(a["ads"]) for a in talk(server, 4, conversation_ads=9)] == [1, 1, 0, 0]
    assert [len(a["ads"]) for a in talk(server, 4, turns_between_ads=1)] == [1, 0, 1, 0]
    assert server.post(ads={"conversation_ads": -1}).json()["error"]["param"] == "ads.conversation_ads"


def test_follow_up_is_understood_by_the_messages_before() -> None:
    one = np.eye(3, dtype=np.float32)
    blended = conversation_vector([one[0], None, one[1]])
    assert blended is not None
    assert blended == pytest.approx(np.array([0.36, 1, 0]) / np.linalg.norm([0.36, 1, 0]))
    assert conversation_vector([one[0], None]) is None
    assert conversation_vector([]) is None


def test_floor_admits_needs_alone_and_everything_when_it_is_off(small_meaning: Callable[..., Meaning]) -> None:
    one = np.eye(3, dtype=np.float32)
    meaning, ask = small_meaning(need_bar=0.5), "which of the tents is the best?"
    assert RelevanceFloor(0.2, meaning).admits(ask, one[1])
    assert not RelevanceFloor(0.2, meaning).admits(ask, one[0])
    assert RelevanceFloor(0.0, meaning).admits(ask, one[0])
    assert RelevanceFloor(0.2, meaning).admits(ask, None)
    assert not RelevanceFloor(0.2, meaning).admits("Welche von den Zelten sind die besten?", one[1])
    assert RelevanceFloor(0.2, meaning).admits("Welche von den Zelten sind die besten?", -one[1])
    assert RelevanceFloor(0.2, replace(meaning, sighted=False)).admits(ask, one[0])


def test_follow_up_finds_what_the_conversation_is_about(start: Callable[..., Any]) -> None:
    server = start("Try {A2}.")
    earlier = [{"role": "user", "content": "coffee beans"}, {"role": "assistant", "content": "Which?"}]
    server.ask(messages=[*earlier, {"role": "user", "content": "the darkest of them"}])
    record = server.call("GET", "/v1/auctions").json()["items"][0]
    assert max(record["candidates"], key=lambda c: c["relevance"])["ad_id"] == "A2"


def test_question_without_a_near_creative_gets_no_candidates(start: Callable[..., Any]) -> None:
    server = start("Hello.", relevance_floor=0.3)
    answer = server.ask(messages=[{"role": "user", "content": "Who was Napoleon?"}])
    assert (answer["ads"], answer["auction"]["withheld"]) == ([], "relevance:below_floor")
    assert not server.policy.contexts[-1].candidates

"""Sensitive conversations over HTTP: no candidates, a reason code in record and metrics, help lines on request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mechanism.errors import ConfigError


def messages(*texts: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def test_answer_on_a_sensitive_topic_has_no_candidates_and_its_reason_is_recorded(start: Callable[..., Any]) -> None:
    server = start("I am sorry. {A1}")
    answer = server.ask(messages=messages("My grandmother died. Good running shoes for the funeral?"))
    assert answer["ads"] == []
    assert answer["auction"]["withheld"] == "sensitive:grief"
    assert not server.policy.contexts[-1].candidates
    record = server.call("GET", f"/v1/auctions/{answer['auction']['auction_id']}").json()
    assert (record["withheld"], record["candidates"]) == ("sensitive:grief", [])
    assert 'llm_auction_ads_withheld_total{reason="sensitive:grief"} 1.0' in server.get("/metrics").text
    assert server.ask()["ads"]


def test_earlier_message_keeps_ads_away(start: Callable[..., Any]) -> None:
    server = start("Yes. {A1}")
    talk = messages("my mother died last week", "I am sorry.", "Good running shoes?")
    assert server.ask(messages=talk)["auction"]["withheld"] == "sensitive:grief"


def test_help_lines_end_the_answer_where_the_publisher_asks(start: Callable[..., Any]) -> None:
    server = start("Please talk to someone.")
    crisis = messages("I want to kill myself")
    asked = {"help_lines": True, "country": "GB"}
    content = server.ask(messages=crisis, ads=asked)["choices"][0]["message"]["content"]
    assert content.startswith("Please talk to someone.")
    assert "116 123" in content
    assert "116 123" not in server.ask(messages=crisis, ads={"country": "GB"})["choices"][0]["message"]["content"]
    streamed = server.post(messages=crisis, ads=asked | {"enabled": False}, stream=True).text
    assert "116 123" in streamed


def test_publishers_widen_and_administrators_narrow(start: Callable[..., Any]) -> None:
    server = start("Yes. {A1}", allowed_topics=("politics",))
    terms = {"blocked_terms": ["running shoes"]}
    assert server.ask(ads=terms)["auction"]["withheld"] == "sensitive:publisher"
    assert "withheld" not in server.ask(messages=messages("running shoes for the election campaign"))["auction"]
    refused = server.post(ads={"allowed_topics": ["grief"]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "ads.allowed_topics")


def test_router_does_not_start_with_an_allowed_crisis(start: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="never has ads"):
        start("Yes.", allowed_topics=("self_harm",))

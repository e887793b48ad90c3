"""OpenAI's own client against the router: the parameters and formats of its README that suit one text model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from mechanism.prompt import PromptSettings, render_messages
from mechanism.types import Context
from serving.answering.stop import StopSequences
from serving.policies.openai.policy import UpstreamPolicy, UpstreamSettings
from serving.policies.protocol import Completed, TextDelta
from tests.serving.tooled_upstream import CALL, MODEL, Tooled, tooled

Start = Callable[..., Any]
ASK: list[Any] = [{"role": "user", "content": "Good running shoes?"}]
TOOLS: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def content(answer: Any) -> str:
    text: str = answer.choices[0].message.content
    return text


# --- parameters ---


def test_parameters_that_ask_for_nothing_special_are_accepted(start: Start) -> None:
    router = start("Try {A1}.")
    plain: dict[str, Any] = {"tools": [], "n": 1, "logprobs": False, "response_format": {"type": "text"}}
    nothing = {"tools": None, "functions": None, "stop": None, "logit_bias": None, "tool_choice": "none"}
    answer = router.client.chat.completions.create(
        model="scripted", messages=ASK, user="someone", store=True, metadata={"a": "b"}, **plain
    )
    assert "(Sponsored)" in content(answer)
    assert router.post(**nothing, max_tokens=None, temperature=None, user=None).status_code == 200


def test_limits_of_the_generation_reach_the_policy(router: Any, tmp_path: Path) -> None:
    seen: list[Any] = []

    class Policy:
        digest = "0" * 64

        def stream(self, context: Context, seed: int, max_ads: int, limits: Any) -> Iterator[Any]:
            seen.append((limits.max_tokens, limits.temperature))
            yield TextDelta("Some words")
            yield Completed((), -1.0, 2, 3, finished=limits.max_tokens is None)

    with router(tmp_path, Policy()) as server:
        create = server.client.chat.completions.create
        answers = [
            create(model="scripted", messages=ASK, max_tokens=7, temperature=0),
            create(model="scripted", messages=ASK, max_completion_tokens=9),
            create(model="scripted", messages=ASK, temperature=1.5),
        ]
        logged = sorted(server.logged("interactions"), key=lambda event: event.occurred_at)
        sampling = [event.sampling for event in logged]
    assert seen == [(7, 0.0), (9, None), (None, 1.5)]
    assert [answer.choices[0].finish_reason for answer in answers] == ["length", "length", "stop"]
    assert [(one.max_new_tokens, one.temperature) for one in sampling] == seen


def test_a_stop_sequence_ends_the_answer_before_it(start: Start) -> None:
    router = start("One {A1}, tw", "o, thr", "ee, four {A2}. Bye.")
    answer = router.client.chat.completions.create(model="scripted", messages=ASK, stop=[", three", "never"])
    assert content(answer).endswith("(Sponsored), two")
    assert answer.choices[0].finish_reason == "stop"
    assert [ad["ad_id"] for ad in answer.model_extra["ads"]] == ["A1"]
    record = router.call("GET", "/v1/auctions/" + answer.model_extra["auction"]["auction_id"]).json()
    assert ([ad["ad_id"] for ad in record["shown"]], record["outcome"]) == (["A1"], "answered")
    streamed = router.client.chat.completions.create(model="scripted", messages=ASK, stop="One", stream=True)
    chunks = list(streamed)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ""
    assert chunks[-1].choices[0].finish_reason == "stop"
    first = min(router.logged("interactions"), key=lambda event: event.occurred_at)
    assert (len(first.shown), first.markers, first.logprob) == (1, (), None)


@given(st.text("ab", max_size=20), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.integers(1, 5))
def test_stops_do_not_depend_on_how_the_text_arrives(text: str, stops: list[str], size: int) -> None:
    search, out = StopSequences(stops), ""
    for at in range(0, len(text), size):
        out += search.feed(text[at : at + size])
    out += search.finish()
    ends = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    if not ends:
        assert (out, search.reached) == (text, False)
    else:
        assert search.reached
        assert text.startswith(out)
        assert not any(stop in out for stop in stops)
        assert len(out) >= min(ends) - max(map(len, stops))


def test_chunks_before_the_usage_have_a_usage_of_null(start: Start) -> None:
    router = start("Hello ", "world.")
    options = {"include_usage": True}
    chunks = list(
        router.client.chat.completions.create(model="scripted", messages=ASK, stream=True, stream_options=options)
    )
    assert ["usage" in chunk.model_fields_set for chunk in chunks] == [True] * len(chunks)
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]


# --- conversations ---


def test_an_answer_that_was_begun_is_the_last_turn(start: Start) -> None:
    router = start("and light.")
    begun = [*ASK, {"role": "assistant", "content": "The best ones are grippy "}]
    router.ask(messages=begun)
    context = router.policy.contexts[-1]
    assert (context.query, context.turns) == (
        "",
        (("user", "Good running shoes?"), ("assistant", "The best ones are grippy")),
    )
    assert context.candidates  # the need is the reader's last message
    rendered = render_messages(context, PromptSettings())
    assert [message["role"] for message in rendered] == ["system", "user", "assistant"]


def test_an_assistants_message_may_have_no_content(start: Start) -> None:
    router = start("Hello.")
    router.ask(messages=[*ASK, {"role": "assistant", "content": None}, *ASK])
    assert router.policy.contexts[-1].turns == (("user", "Good running shoes?"),)


def test_a_system_prompt_may_be_as_long_as_the_conversation(start: Start) -> None:
    router = start("Hello.")
    rules = "Be brief. " * 3_000
    assert router.post(messages=[{"role": "developer", "content": rules}, *ASK]).status_code == 200
    assert router.policy.contexts[-1].turns[0] == ("system", rules.strip())


# --- beyond one plain text ---


@pytest.fixture
def upstream() -> Iterator[Tooled]:
    with tooled() as server:
        yield server


@pytest.fixture
def relaying(router: Any, tmp_path: Path, upstream: Tooled) -> Iterator[Any]:
    policy = UpstreamPolicy(UpstreamSettings(upstream.url, MODEL, max_tokens=100), {})
    with router(tmp_path, None, backend=policy) as server:
        yield server


def test_a_tool_is_called_plain_and_streamed(relaying: Any, upstream: Tooled) -> None:
    create = relaying.client.chat.completions.create
    answer = create(model="scripted", messages=ASK, tools=TOOLS, extra_body={"ads": {"user_id": "reader-4711"}})
    assert answer.choices[0].finish_reason == "tool_calls"
    [call] = answer.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Oslo"}')
    with relaying.client.chat.completions.stream(model="scripted", messages=ASK, tools=TOOLS) as stream:
        streamed = stream.get_final_completion()
    assert streamed.choices[0].message.tool_calls[0].function.arguments == '{"city": "Oslo"}'
    result = {"role": "tool", "tool_call_id": CALL["id"], "content": "-3"}
    turn = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    last = create(model="scripted", messages=[*ASK, turn, result], tools=TOOLS, user="reader-4711")
    assert content(last) == "It is cold in Oslo."
    for body in upstream.bodies:
        assert (body["model"], body["max_tokens"]) == (MODEL, 100)
        assert "reader-4711" not in str(body)
    assert relaying.call("GET", "/v1/auctions").json()["items"] == []
    assert 'llm_auction_relayed_requests_total{field="tools"} 3.0' in relaying.get("/metrics").text


def test_json_choices_and_log_probabilities_are_passed_on(relaying: Any, upstream: Tooled) -> None:
    class Place(BaseModel):
        city: str

    client = relaying.client
    parsed = client.chat.completions.parse(model="scripted", messages=ASK, response_format=Place)
    assert parsed.choices[0].message.parsed == Place(city="Oslo")
    several = client.chat.completions.create(model="scripted", messages=ASK, n=2, logprobs=True)
    assert [choice.logprobs.content[0].token for choice in several.choices] == ["It", "It"]
    image = {"type": "image_url", "image_url": {"url": "https://pictures.example/a.png"}}
    seen = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}]
    assert content(client.chat.completions.create(model="scripted", messages=seen))
    assert upstream.bodies[-1]["messages"] == seen


def test_no_click_token_reaches_the_model_server(relaying: Any, upstream: Tooled) -> None:
    text = "Try [Brand1 Shoes](https://ads.example/c/a-token) (Sponsored)."
    for shown in (text, [{"type": "text", "text": text}]):
        talk = [*ASK, {"role": "assistant", "content": shown}, *ASK]
        relaying.client.chat.completions.create(model="scripted", messages=talk, tools=TOOLS)
    sent = [body["messages"][1]["content"] for body in upstream.bodies]
    assert sent == ["Try Brand1 Shoes.", [{"type": "text", "text": "Try Brand1 Shoes."}]]


def test_refusals_of_the_model_server_reach_their_sender(relaying: Any) -> None:
    with pytest.raises(openai.BadRequestError, match=r"tools\[0\].type: 'unheard-of' is unknown"):
        relaying.client.chat.completions.create(model="scripted", messages=ASK, tools=[{"type": "unheard-of"}])
    assert relaying.router.in_flight == 0
    with pytest.raises(openai.BadRequestError, match="n: 17"):
        relaying.client.chat.completions.create(model="scripted", messages=ASK, n=17)


def test_without_a_model_server_the_reason_is_given(start: Start) -> None:
    router = start("Hello.")
    for more in ({"tools": TOOLS}, {"n": 2}, {"logprobs": True}, {"response_format": {"type": "json_object"}}):
        with pytest.raises(openai.BadRequestError, match="writes one plain text"):
            router.client.chat.completions.create(model="scripted", messages=ASK, **more)
    assert router.policy.contexts == []


# --- responses ---


def test_a_response_is_the_same_answer(start: Start) -> None:
    router = start("For mud try {A1}. Bye.")
    response = router.client.responses.create(
        model="scripted", instructions="Be brief.", input="Good running shoes?", temperature=0.3
    )
    assert response.status == "completed"
    assert response.output_text.startswith("For mud try [Brand1")
    [ad] = response.model_extra["ads"]
    assert response.output_text[slice(*ad["span"])] == f"[{ad['title']}]({ad['click_url']}) (Sponsored)"
    assert response.usage.total_tokens == 47
    assert router.policy.contexts[-1].turns == (("system", "Be brief."),)
    assert router.call("GET", "/v1/auctions/" + response.model_extra["auction"]["auction_id"]).status_code == 200
    talk: list[Any] = [*ASK, *response.to_dict()["output"], {"role": "user", "content": "And others?"}]
    router.client.responses.create(model="scripted", input=talk)
    context = router.policy.contexts[-1]
    assert (context.query, context.turns[1]) == ("And others?", ("assistant", "For mud try Brand1 Running Shoes. Bye."))


def test_a_streamed_response_has_numbered_events(start: Start) -> None:
    router = start("For mud ", "try {A1}. ", "Bye.")
    events = list(router.client.responses.create(model="scripted", input="Good running shoes?", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [events[0].type, events[-1].type] == ["response.created", "response.completed"]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-1].response.output_text
    [ad] = events[-1].response.model_extra["ads"]
    assert ad["ad_id"] == "A1"
    with router.client.responses.stream(model="scripted", input="Good running shoes?") as stream:
        assert stream.get_final_response().output_text.endswith("Bye.")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format.type"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"max_output_tokens": 2_000_000}, "max_output_tokens"),
        ({"input": []}, "input"),
        ({"input": "\u200b"}, "input"),
        ({"instructions": "\u200b", "input": "Hello"}, "instructions"),
        ({"instructions": "Be brief.", "input": [{"role": "user", "content": "\u200b"}]}, "input[0].content"),
        ({"model": "other"}, "model"),
        ({"ads": {"max_ads": -1}}, "ads.max_ads"),
    ],
)
def test_a_response_beyond_text_is_refused(shared: Any, more: dict[str, Any], param: str) -> None:
    body = {"model": "scripted", "input": "Good running shoes?"} | more
    response = shared.call("POST", "/v1/responses", json=body)
    assert response.status_code in (400, 404)
    assert response.json()["error"]["param"] == param

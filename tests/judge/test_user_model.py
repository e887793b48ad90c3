"""The user model against local servers: a scripted one for faults, and one with a real small model."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from judge.cache import ReplyCache
from judge.click_feedback import check_ids
from judge.client import ChatClient, EndpointSettings
from judge.cost import CostMeter, Prices
from judge.user_model import UserModel
from mechanism.errors import BudgetSpentError, InputError, JudgeError
from mechanism.markers import parse, render_marker
from mechanism.types import Ad, Answer, Candidate, Context, Profile
from tests.support.openai_server import Reply, Server, SmallModel, completion, scripted, serving

ADS = (
    Ad("A1", "Kestrel Trail Shoes", "grippy trail running shoes for wet and muddy ground", "Kestrel"),
    Ad("A2", "Pacemark Road Runners", "cushioned running shoes for long road miles", "Pacemark"),
    Ad("A3", "Acornbank Savings", "savings account with high interest", "Acornbank"),
)
PROFILE = Profile("u1", "25-34", "female", "nurse", "a coastal town", ("running shoes", "hotels"), ("read of pollen",))
CONTEXT = Context(
    "c1", "which shoes for muddy trails?", tuple(Candidate(ad, 10_000 * i) for i, ad in enumerate(ADS)), PROFILE
)


def answer(*ads: Ad) -> Answer:
    sentences = [f"Have a look at {render_marker(ad)} for that." for ad in ads]
    return parse(" ".join(["A snug heel prevents blisters.", *sentences]), ADS)


def feedback(*ids: str, **changes: Any) -> dict[str, Any]:
    clicks = {i: {"reason": "it fits", "clicked": i == "A1"} for i in ids}
    return {"clicks": clicks, "relevance": 4, "nativeness": 3, "answer_quality": 5, **changes}


def settings(base_url: str, **changes: Any) -> EndpointSettings:
    quick = EndpointSettings(base_url, "test-model", api_key_env=None, backoff=0.01, longest_backoff=0.05, timeout=2.0)
    return replace(quick, **changes)


def judge(server: Server, cache: Path | None = None, meter: CostMeter | None = None, **changes: Any) -> UserModel:
    client = ChatClient(settings(server.base_url, **changes), meter or CostMeter())
    return UserModel(client, ReplyCache(cache) if cache else None)


def test_feedback_covers_the_shown_ads_in_their_order() -> None:
    with serving(scripted([completion(feedback("A1", "A2"))])) as server:
        reply = judge(server).click_feedback(CONTEXT, answer(ADS[1], ADS[0]))
    assert reply.clicked() == {"A2": False, "A1": True}
    assert [c.ad_id for c in reply.clicks] == ["A2", "A1"]
    sent = server.requests[0]
    assert sent.path == "/v1/chat/completions"
    assert sent.body["temperature"] == 0.3
    assert "Acornbank" not in json.dumps(sent.body), "an ad that was not shown is not judged"
    assert list(sent.body["response_format"]["json_schema"]["schema"]["properties"]["clicks"]["properties"]) == [
        "A2",
        "A1",
    ]


def test_an_answer_without_ads_is_still_graded() -> None:
    with serving(scripted([completion(feedback())])) as server:
        reply = judge(server).click_feedback(CONTEXT, answer())
    assert reply.clicks == ()
    assert reply.answer_quality == 5


def test_feedback_as_a_list_and_in_a_code_fence_is_read() -> None:
    listed = feedback(clicks=[{"ad_id": "A1", "reason": "", "clicked": False}])
    with serving(scripted([completion(f"```json\n{json.dumps(listed)}\n```")])) as server:
        assert judge(server).click_feedback(CONTEXT, answer(ADS[0])).clicked() == {"A1": False}


@pytest.mark.parametrize(
    "fault",
    [
        Reply(429, {"error": {"code": "rate_limit_exceeded"}}, {"Retry-After": "0"}),
        Reply(500, "oops"),
        Reply(503, {"error": "busy"}),
        Reply(200, "<html>not json"),
        Reply(200, {"choices": []}),
        Reply(
            200, {"choices": [{"message": {"content": None}}], "usage": {"prompt_tokens": 1, "completion_tokens": 0}}
        ),
    ],
    ids=["429", "500", "503", "html", "no choice", "no text"],
)
def test_a_transient_fault_of_the_endpoint_is_retried(fault: Reply) -> None:
    with serving(scripted([fault, fault, completion(feedback("A1"))])) as server:
        model = judge(server)
        assert model.click_feedback(CONTEXT, answer(ADS[0])).clicked() == {"A1": True}
    assert len(server.requests) == 3
    assert model.client.meter.usage.retries == 2


def test_a_slow_answer_times_out_and_is_retried() -> None:
    slow = replace(completion(feedback("A1")), delay=0.6)
    with serving(scripted([slow, completion(feedback("A1"))])) as server:
        model = judge(server, timeout=0.2)
        model.click_feedback(CONTEXT, answer(ADS[0]))
    assert model.client.meter.usage.lost == 1
    assert model.client.meter.usage.calls == 1


def test_a_persistent_fault_is_a_judge_error_that_names_it() -> None:
    with serving(scripted([Reply(500, "oops")])) as server, pytest.raises(JudgeError, match="status 500 after 3"):
        judge(server, attempts=3).click_feedback(CONTEXT, answer(ADS[0]))
    assert len(server.requests) == 3


def test_an_unreachable_endpoint_is_a_judge_error() -> None:
    with serving(scripted([Reply()])) as server:
        pass
    with pytest.raises(JudgeError, match="connection failed"):
        judge(server, attempts=2).click_feedback(CONTEXT, answer(ADS[0]))


def test_a_refusal_is_not_retried_and_its_text_is_not_repeated() -> None:
    refusal = Reply(404, {"error": {"code": "model_not_found", "message": "you sent: nurse, which shoes"}})
    with serving(scripted([refusal])) as server, pytest.raises(JudgeError, match=r"404 \(model_not_found\)") as caught:
        judge(server).click_feedback(CONTEXT, answer(ADS[0]))
    assert len(server.requests) == 1
    assert "nurse" not in str(caught.value)


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ("clicks: all of them", "not one JSON value"),
        (feedback("A1"), "no judgement of A2"),
        (feedback("A1", "A2", "A3"), "not in the answer"),
        (feedback("A1", "A2", relevance=9), "relevance"),
        (feedback("A1", "A2", nativeness="high"), "nativeness"),
        (feedback("A1", clicks=[{"ad_id": i, "reason": "", "clicked": True} for i in ("A1", "A1", "A2")]), "more than"),
        (feedback("A1", clicks={i: {"reason": "", "clicked": "yes"} for i in ("A1", "A2")}), "clicked"),
        ({"queries": []}, "relevance"),
    ],
)
def test_a_reply_outside_the_schema_is_sent_back_with_its_fault(bad: Any, fault: str) -> None:
    with serving(scripted([completion(bad), completion(feedback("A1", "A2"))])) as server:
        reply = judge(server).click_feedback(CONTEXT, answer(ADS[0], ADS[1]))
    assert set(reply.clicked()) == {"A1", "A2"}
    first, second = (r.body["messages"] for r in server.requests)
    assert second[: len(first)] == first
    assert fault in second[-1]["content"]


def test_replies_that_keep_breaking_the_schema_are_a_judge_error() -> None:
    with (
        serving(scripted([completion(feedback("A3"))])) as server,
        pytest.raises(JudgeError, match="no judgement of A1"),
    ):
        judge(server).click_feedback(CONTEXT, answer(ADS[0]))
    assert len(server.requests) == 3


def test_an_answer_to_another_auction_is_refused_before_a_request() -> None:
    foreign = replace(CONTEXT, candidates=CONTEXT.candidates[1:])
    with serving(scripted([completion(feedback("A1"))])) as server, pytest.raises(InputError, match="A1"):
        judge(server).click_feedback(foreign, answer(ADS[0]))
    assert server.requests == []


def test_an_accepted_reply_is_cached(tmp_path: Path) -> None:
    with serving(scripted([completion("no"), completion(feedback("A1"))])) as server:
        first = judge(server, tmp_path).click_feedback(CONTEXT, answer(ADS[0]))
        again = judge(server, tmp_path)
        assert again.click_feedback(CONTEXT, answer(ADS[0])) == first
        assert len(server.requests) == 2
        assert (again.client.meter.usage.cached, again.client.meter.usage.calls) == (1, 0)
        again.click_feedback(CONTEXT, answer(ADS[0]), sample=1)
        judge(server, tmp_path, temperature=0.9).click_feedback(CONTEXT, answer(ADS[0]))
        judge(server, tmp_path, model="other").click_feedback(CONTEXT, answer(ADS[0]))
    assert len(server.requests) == 5, "another sample, parameter or model is another reply"
    stored = "".join(p.read_text() for p in tmp_path.rglob("*") if p.is_file())
    assert "nurse" not in stored
    assert not list(tmp_path.rglob("*.part"))


def test_a_damaged_cache_entry_is_replaced(tmp_path: Path) -> None:
    with serving(scripted([completion(feedback("A1"))])) as server:
        judge(server, tmp_path).click_feedback(CONTEXT, answer(ADS[0]))
        entry = next(tmp_path.rglob("*.json"))
        whole = entry.read_text()
        for damage in (whole[:9], "[]", json.dumps({"reply": "no"}), json.dumps({"reply": json.dumps(feedback("A2"))})):
            entry.write_text(damage)
            judge(server, tmp_path).click_feedback(CONTEXT, answer(ADS[0]))
            assert entry.read_text() == whole
    assert len(server.requests) == 5


def test_concurrent_writers_of_one_cache_key_never_leave_half_an_entry(tmp_path: Path) -> None:
    cache, key = ReplyCache(tmp_path), ReplyCache.key("m", [], {})
    replies = {"x" * 5_000, "y" * 50_000}
    threads = [threading.Thread(target=cache.put, args=(key, r)) for r in sorted(replies) * 8]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert cache.get(key) in {None, *replies}
    assert cache.get(key) in replies


def test_tokens_and_money_are_counted() -> None:
    meter = CostMeter(Prices(read=2_000_000, written=10_000_000))
    with serving(scripted([completion("no", 100, 7), completion(feedback("A1"), 120, 30)])) as server:
        judge(server, meter=meter).click_feedback(CONTEXT, answer(ADS[0]))
    usage = meter.usage
    assert (usage.calls, usage.read, usage.written, usage.retries, usage.unmetered) == (2, 220, 37, 1, 0)
    assert usage.spent == 220 * 2 + 37 * 10


def test_a_call_without_token_counts_is_charged_at_its_upper_bound() -> None:
    bare = completion(feedback("A1"))
    bare.body.pop("usage")
    meter = CostMeter(Prices(read=1_000_000, written=1_000_000))
    with serving(scripted([bare])) as server:
        judge(server, meter=meter).click_feedback(CONTEXT, answer(ADS[0]))
    assert meter.usage.unmetered == 1
    assert meter.usage.written == 1024
    assert meter.usage.read >= sum(len(m["content"]) for m in server.requests[0].body["messages"])


def test_concurrent_calls_do_not_exceed_the_budget() -> None:
    # The answers have the highest possible price, so a check after the calls would overspend.
    budget = 20_000
    meter = CostMeter(Prices(written=10_000_000), budget)
    costly = replace(completion(feedback("A1"), 10, 500), delay=0.05)
    pairs = [(replace(CONTEXT, query=f"shoes {i}?"), answer(ADS[0])) for i in range(12)]
    with serving(scripted([costly])) as server, pytest.raises(BudgetSpentError, match="budget"):
        judge(server, meter=meter, max_tokens=500, concurrency=8).click_feedbacks(pairs)
    assert 0 < len(server.requests) <= 4
    assert meter.usage.spent <= budget


@given(
    budget=st.integers(0, 10_000),
    calls=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500), st.floats(0, 1)), max_size=20),
)
def test_spending_stays_within_the_budget_for_any_calls(budget: int, calls: list[tuple[int, int, float]]) -> None:
    meter = CostMeter(Prices(read=999_999, written=3_333_333), budget)
    for max_read, max_written, share in calls:
        try:
            reserved = meter.reserve(max_read, max_written)
        except BudgetSpentError:
            continue
        meter.charge(reserved, int(max_read * share), int(max_written * share))
        assert meter.usage.spent <= budget
    assert meter.reserve(0, 0) == 0, "every reservation was replaced by a charge"


def test_many_answers_are_judged_in_order_with_bounded_concurrency() -> None:
    open_calls, most, lock = 0, 0, threading.Lock()

    def busy(request: Any) -> Reply:
        nonlocal open_calls, most
        with lock:
            open_calls += 1
            most = max(most, open_calls)
        threading.Event().wait(0.03)
        with lock:
            open_calls -= 1
        grade = 1 + int(json.loads(request.body["messages"][1]["content"])["question"].split()[1]) % 5
        return completion(feedback("A1", relevance=grade))

    pairs = [(replace(CONTEXT, query=f"shoes {i} ?"), answer(ADS[0])) for i in range(12)]
    with serving(busy) as server:
        replies = judge(server, concurrency=3).click_feedbacks(pairs)
    assert [r.relevance for r in replies] == [1 + i % 5 for i in range(12)]
    assert 2 <= most <= 3


def test_the_api_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLM_AUCTION_JUDGE_KEY", raising=False)
    with pytest.raises(InputError, match="LLM_AUCTION_JUDGE_KEY"):
        ChatClient(EndpointSettings("http://127.0.0.1:1/v1", "m"))
    monkeypatch.setenv("LLM_AUCTION_JUDGE_KEY", "secret-key")
    with serving(scripted([completion(feedback("A1"))])) as server:
        judge(server, api_key_env="LLM_AUCTION_JUDGE_KEY").click_feedback(CONTEXT, answer(ADS[0]))
    assert server.requests[0].headers["Authorization"] == "Bearer secret-key"


@pytest.mark.parametrize(
    "bad",
    [{"base_url": "localhost"}, {"model": ""}, {"attempts": 0}, {"timeout": 0.0}, {"temperature": 3.0}],
)
def test_bad_settings_name_the_field(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        replace(settings("http://127.0.0.1/v1"), **bad)


def test_logs_and_errors_contain_no_profile_query_or_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_AUCTION_JUDGE_KEY", "secret-key")
    leaky = {"clicks": {"the nurse of a coastal town": {"reason": "muddy trails", "clicked": True}}}
    replies = [
        Reply(429, {"error": {"message": "nurse"}}),
        completion("the nurse asked about muddy trails"),
        completion({**feedback("A1"), **leaky}),
        completion({**feedback("A1"), "nurse": 1}),
    ]
    with (
        serving(scripted(replies)) as server,
        structlog.testing.capture_logs() as logs,
        pytest.raises(JudgeError) as caught,
    ):
        judge(server, api_key_env="LLM_AUCTION_JUDGE_KEY").click_feedback(CONTEXT, answer(ADS[0]))
    assert len(server.requests) == 4
    assert [log["event"] for log in logs] == ["judge.attempt_failed", *["judge.reply_rejected"] * 3]
    for private in ("nurse", "muddy", "coastal", "secret-key"):
        assert private not in str(logs) + str(caught.value)


IDS = st.lists(st.sampled_from(["A1", "A2", "A3"]), max_size=5)


@given(judged=IDS, shown=IDS.map(lambda ids: list(dict.fromkeys(ids))))
def test_feedback_is_accepted_exactly_when_each_shown_ad_is_judged_once(
    judged: list[str], shown: Sequence[str]
) -> None:
    if sorted(judged) == sorted(shown):
        check_ids(judged, shown)
    else:
        with pytest.raises(ValueError, match="the answer shows"):
            check_ids(judged, shown)


@pytest.fixture(scope="module")
def small_model() -> Iterator[Server]:
    pytest.importorskip("gguf")
    with serving(SmallModel()) as server:
        yield server


@pytest.mark.slow
def test_a_real_small_model_judges(small_model: Server, tmp_path: Path) -> None:
    model = judge(small_model, tmp_path, timeout=60.0)
    shown = answer(ADS[0], ADS[2])
    reply = model.click_feedback(CONTEXT, shown)
    assert [c.ad_id for c in reply.clicks] == ["A1", "A3"]
    assert all(c.reason for c in reply.clicks)

    usage = model.client.meter.usage
    assert usage.calls == len(small_model.requests) == 1
    assert usage.unmetered == 0
    assert usage.read > 250
    assert 30 < usage.written < 150

    assert judge(small_model, tmp_path).click_feedback(CONTEXT, shown) == reply
    assert len(small_model.requests) == 1, "the second reply comes from the cache"

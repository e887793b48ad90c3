"""Answers from other engines: those of the policy, with its propensities, or an error that names engine and remedy."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import ValidationError

from inference.constraint import MarkerConstraint
from inference.models import LoadedModel
from inference.policy import Policy
from inference.sampling import SamplingSettings
from inference.scoring import Sampler, score
from mechanism.errors import ConfigError, InputError, PolicyError
from mechanism.types import Context, Generation
from tests.inference.conftest import byte_tokenizer, make_context, random_policy
from tests.support.completions_server import CompletionsServer, TaggedModel
from tests.support.openai_server import Reply, Request, Server, scripted, serving
from tests.trainers.engines import answered
from trainers.artifacts.run_directory import RunDirectory
from trainers.artifacts.sampled import read_sampled
from trainers.config import EngineConfig, parse_config
from trainers.irpo.answer_phases import ANSWERS, FEEDBACK, ROLLOUTS
from trainers.irpo.session import Session
from trainers.optimisation.sharding import shards_of
from trainers.rollout.engine import TransformersEngine, Version, open_engine
from trainers.rollout.external import request_seed
from trainers.rollout.written import answer_tokens

CONTEXTS = [make_context(["Kestrel Shoes", "Kestrel", "Nest"], name="a"), make_context(["Oak & Elm", "A1"], name="b")]
SETTINGS = SamplingSettings(temperature=0.9, top_p=0.95, top_k=0, max_new_tokens=40, max_ads=2)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return random_policy(byte_tokenizer(words=True), ending=2.0)  # ends most answers before the limit of tokens


@pytest.fixture(scope="module")
def model(policy: Policy) -> TaggedModel:
    return TaggedModel(policy)


def version(policy: Policy, source: str = "base", untrained: bool = True) -> Version:
    return Version(policy, source, untrained)


def config(server: Server, **more: Any) -> EngineConfig:
    return EngineConfig(kind="server", url=server.base_url, model="m", **{"attempts": 1, "timeout": 300.0} | more)


def ask(server: Server, policy: Policy, samples: int = 3, **more: Any) -> list[list[Generation]]:
    return answered(open_engine(config(server, **more)), version(policy), CONTEXTS, samples, 7, SETTINGS)


def check(
    policy: Policy,
    answers: list[list[Generation]],
    samples: int,
    contexts: Sequence[Context] = CONTEXTS,
    settings: SamplingSettings = SETTINGS,
) -> None:
    """The answers are the policy's own: it can write each, and their propensities are those of its scoring."""
    assert [len(own) for own in answers] == [samples] * len(contexts)
    for context, own in zip(contexts, answers, strict=True):
        for generation, scored in zip(own, score(Sampler(policy, settings), [context] * len(own), own), strict=True):
            assert math.isfinite(generation.logprob)
            assert generation.logprob == pytest.approx(scored.logprob, abs=1e-4)
            assert [c.chosen for c in generation.choices] == [i.ad_id for i in generation.answer.insertions]
            assert not generation.answer.faults
            assert policy.vocabulary.decode(generation.token_ids) == generation.answer.raw


def test_this_process_is_the_default_and_samples_as_before(policy: Policy) -> None:
    engine = open_engine(EngineConfig())
    assert isinstance(engine, TransformersEngine)
    own = policy.generate(CONTEXTS, 3, 5, SETTINGS)
    assert answered(engine, version(policy), CONTEXTS, 3, 5, SETTINGS) == own


def test_a_server_writes_answers_of_the_policy(policy: Policy, model: TaggedModel) -> None:
    with serving(CompletionsServer(model)) as server:
        answers = ask(server, policy)
    check(policy, answers, 3)
    assert any(g.choices for own in answers for g in own)
    assert {tuple(r.body["prompt"]) for r in server.requests} == {tuple(policy.prompt_ids(c)) for c in CONTEXTS}


@pytest.mark.parametrize(("tags", "reports"), [("tokens", False), ("text", True), ("text", False)])
def test_a_text_alone_is_read_as_an_answer_of_the_policy(tags: Literal["tokens", "text"], reports: bool) -> None:
    tiny = Policy.load("tiny")
    ads = ("Acme Noise Headphones", "Acme Noise Earbuds", "Lumen Desk Lamp")
    contexts = [make_context(ads, "Which headphones are good for noisy trains?")]
    settings = replace(tiny.sampling, max_new_tokens=60, max_ads=2)
    with serving(CompletionsServer(TaggedModel(tiny), reports=reports)) as server:
        engine = open_engine(config(server, tags=tags))
        answers = answered(engine, version(tiny, "tiny"), contexts, 3, 7, settings)
    check(tiny, answers, 3, contexts, settings)
    assert any(g.choices for g in answers[0])


def test_a_server_draws_from_the_same_distribution() -> None:
    policy = random_policy(byte_tokenizer(words=True), ending=4.0)
    settings = replace(SETTINGS, max_new_tokens=40, max_ads=1)
    own = policy.generate(CONTEXTS[:1], 150, 1, settings)[0]
    with serving(CompletionsServer(TaggedModel(policy))) as server:
        theirs = answered(open_engine(config(server)), version(policy), CONTEXTS[:1], 150, 2, settings)[0]

    def figures(answers: list[Generation]) -> list[float]:
        shown = [g.choices[0].chosen if g.choices else "" for g in answers]
        return [shown.count(ad) / len(shown) for ad in ("A1", "A2", "A3", "")]

    assert figures(theirs) == pytest.approx(figures(own), abs=0.12)  # 3 standard errors of a difference
    assert 0.1 < figures(own)[-1] < 0.9


def test_replies_with_fewer_answers_are_asked_for_again(policy: Policy, model: TaggedModel) -> None:
    with serving(CompletionsServer(model, most=2)) as server:
        check(policy, ask(server, policy), 3)
    assert {r.body["n"] for r in server.requests} >= {3, 1}


def test_requests_of_all_shards_contexts_and_attempts_draw_apart() -> None:
    starts = [request_seed(part.seed(7), attempt, row) for part in shards_of(3) for attempt in (0, 1) for row in (0, 1)]
    drawn = {start + answer for start in starts for answer in range(5)}  # as vLLM counts
    assert len(drawn) == 5 * len(starts)
    assert all(0 <= start < 2**31 for start in starts)


def test_a_server_without_tags_is_refused(policy: Policy, model: TaggedModel) -> None:
    refused = pytest.raises(PolicyError, match=r"'m' at http://127.*decode by structural tags")
    with serving(CompletionsServer(model, tagged=False)) as server, refused:
        ask(server, policy, samples=8)


def test_a_server_of_other_weights_is_found_out(policy: Policy) -> None:
    other = random_policy(byte_tokenizer(words=True), seed=1)
    refused = pytest.raises(PolicyError, match=r"nats a token .* other weights")
    with serving(CompletionsServer(TaggedModel(other))) as server, refused:
        ask(server, policy)


def completion(**choice: Any) -> Reply:
    return Reply(body={"choices": [{"text": "Hi", "finish_reason": "stop"} | choice]})


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(status=404, body={"error": {"message": "a private prompt"}}), "status 404.*/v1/models"),
        (Reply(status=401), "status 401.*api_key_env"),
        (Reply(status=400), "status 400.*structural tags"),
        (Reply(status=503), "status 503.*concurrency"),
        (Reply(status=500), "status 500.*see its log"),
        (Reply(body="<html>"), "no completion"),
        (Reply(body={"choices": [{}]}), "no completion"),
        (completion(finish_reason="abort"), "no completion"),
        (completion(token_ids=["a private prompt"]), "no completion"),
        (Reply(body={"choices": []}), "0 of 0 answers"),
        (completion(token_ids=[10**6]), "no token of this policy"),
        (Reply(delay=3.0), "no answer within 0.5 s.*timeout"),
    ],
)
def test_faults_name_the_server_and_the_remedy(policy: Policy, reply: Reply, words: str) -> None:
    with serving(scripted([reply])) as server:
        with pytest.raises(PolicyError, match=words) as raised:
            ask(server, policy, timeout=0.5)
        assert server.base_url in str(raised.value)
    assert "private" not in str(raised.value)


def test_a_server_that_is_away_is_an_error(policy: Policy) -> None:
    with serving(scripted([Reply()])) as server:
        pass
    with pytest.raises(PolicyError, match=f"{server.base_url}.*connection failed.*runs at this address"):
        ask(server, policy)


def test_a_busy_server_is_asked_again(policy: Policy, model: TaggedModel) -> None:
    busy, inner = [Reply(status=503, headers={"retry-after-ms": "1"})] * 2, CompletionsServer(model)

    def answer(request: Request) -> Reply:
        return busy.pop() if busy else inner(request)

    with serving(answer) as server:
        check(policy, ask(server, policy, attempts=3, concurrency=1), 3)
    assert not busy


def test_the_key_comes_from_the_environment(
    policy: Policy, model: TaggedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(CompletionsServer(model)) as server:
        monkeypatch.delenv("ROLLOUT_KEY", raising=False)
        with pytest.raises(InputError, match=r"ROLLOUT_KEY.*set this variable"):
            ask(server, policy, api_key_env="ROLLOUT_KEY")
        monkeypatch.setenv("ROLLOUT_KEY", "sk-1")
        ask(server, policy, api_key_env="ROLLOUT_KEY")
    assert {k.lower(): v for k, v in server.requests[0].headers.items()}["authorization"] == "Bearer sk-1"


def adapter_folder(tmp_path: Path, content: bytes) -> str:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "base"}')
    (tmp_path / "adapter_model.safetensors").write_bytes(content)
    return str(tmp_path)


def test_adapters_are_loaded_once_and_named_by_their_weights(
    policy: Policy, model: TaggedModel, tmp_path: Path
) -> None:
    with serving(CompletionsServer(model)) as server:
        engine = open_engine(config(server))
        for content in (b"first", b"first", b"second"):
            trained = version(policy, adapter_folder(tmp_path, content), untrained=False)
            check(policy, answered(engine, trained, CONTEXTS, 1, 7, SETTINGS), 1)
    loads = [r.body for r in server.requests if r.path.endswith("/load_lora_adapter")]
    assert [load["lora_path"] for load in loads] == [str(tmp_path)] * 2
    assert loads[0]["lora_name"] != loads[1]["lora_name"]
    assert {r.body["model"] for r in server.requests if r.body.get("prompt")} == {load["lora_name"] for load in loads}


def test_an_adapter_that_another_shard_loads_meanwhile_is_used(
    policy: Policy, model: TaggedModel, tmp_path: Path
) -> None:
    inner = CompletionsServer(model)

    def answer(request: Request) -> Reply:
        reply = inner(request)
        return Reply(status=400) if request.path.endswith("/load_lora_adapter") else reply

    trained = version(policy, adapter_folder(tmp_path, b"first"), untrained=False)
    with serving(answer) as server:
        check(policy, answered(open_engine(config(server)), trained, CONTEXTS, 1, 7, SETTINGS), 1)


@pytest.mark.parametrize(
    ("replies", "words"),
    [
        ([Reply(body="<html>")], "no list of models"),
        ([Reply(body={"data": []}), Reply(status=400), Reply(body={"data": []})], "load an adapter: status 400"),
    ],
)
def test_adapters_that_a_server_does_not_load_are_an_error(
    policy: Policy, tmp_path: Path, replies: list[Reply], words: str
) -> None:
    trained = version(policy, adapter_folder(tmp_path, b"first"), untrained=False)
    with serving(scripted(replies)) as server, pytest.raises(PolicyError, match=words):
        answered(open_engine(config(server)), trained, CONTEXTS, 1, 7, SETTINGS)


def test_weights_that_a_server_cannot_be_given_are_refused(policy: Policy, model: TaggedModel, tmp_path: Path) -> None:
    with serving(CompletionsServer(model)) as server:
        with pytest.raises(ConfigError, match=r"rollout\.engine\.kind.*optimisation\.lora_rank"):
            answered(open_engine(config(server)), version(policy, str(tmp_path), False), CONTEXTS, 1, 7, SETTINGS)
        must = replace(SETTINGS, max_ads=None, must_show=True)
        with pytest.raises(ConfigError, match=r"must_show.*rollout\.engine transformers"):
            answered(open_engine(config(server)), version(policy), CONTEXTS, 1, 7, must)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "server"}, "needs url and model"),
        ({"kind": "server", "url": "http://h/v1"}, "needs url and model"),
        ({"kind": "vllm", "url": "http://h/v1", "model": "m"}, "url belongs to the kind server"),
        ({"url": "http://h/v1"}, "url belongs to the kind server"),
        ({"kind": "server", "url": "h:1", "model": "m"}, "url"),
        ({"kind": "server", "url": "http://h/v1", "model": "m", "memory": 0.4}, "memory belongs to the kind vllm"),
        ({"kind": "vllm", "concurrency": 4}, "concurrency belongs to the kind server"),
        ({"api_key_env": "KEY"}, "api_key_env belongs to the kind server"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        EngineConfig(**settings)


def test_a_url_with_a_password_is_refused_without_it() -> None:
    with pytest.raises(ConfigError, match=r"rollout\.engine\.url.*api_key_env") as raised:
        open_engine(EngineConfig(kind="server", url="http://u:secret@h/v1", model="m"))
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("tokenizer", [lambda: byte_tokenizer(words=True), lambda: byte_tokenizer(words=False)])
@pytest.mark.parametrize("opener", ["@", "†"])
def test_a_text_is_read_into_tokens_that_the_policy_can_write(tokenizer: Callable[[], Any], opener: str) -> None:
    context = CONTEXTS[0]
    plain = random_policy(tokenizer())
    if opener != "@":
        plain.tokenizer.add_tokens([opener])
        loaded = LoadedModel(plain.model, plain.tokenizer, plain.prompt_settings, plain.sampling, opener)
        plain.model.config.vocab_size += 1
        plain = Policy(loaded)
    ads = [c.ad for c in context.candidates]
    text = f"Try {opener}Kestrel Shoes@[A1], or{opener}Nest@[A3]{opener}Kestrel@[A2]. Fine."
    tokens = answer_tokens(plain.vocabulary, text, ads)
    assert plain.vocabulary.decode(tokens) == text.replace(opener, "@")
    constraint = MarkerConstraint(plain.vocabulary, plain.vocabulary.trie(ads), None)
    for token in tokens:
        assert not constraint.inside or token in constraint.allowed()
        constraint.advance(token)
    assert [c.chosen for c in constraint.choices] == ["A1", "A3", "A2"]


def test_feedback_and_rollouts_of_a_run_come_from_its_engine(small_base: Path, tmp_path: Path) -> None:
    inner = CompletionsServer(TaggedModel(Policy.load(str(small_base))))
    with serving(inner) as server:
        engine = {"kind": "server", "url": server.base_url, "model": "m", "attempts": 1}
        run = parse_config(
            json.dumps(
                {
                    "name": "served",
                    "base": str(small_base),
                    "epochs": 1,
                    "world": {"candidates": 3},
                    "feedback": {"contexts": 2, "answers": 1},
                    "rollout": {"contexts": 2, "samples": 2, "max_new_tokens": 12, "engine": engine},
                }
            ),
            "test",
        )
        session = Session(run, RunDirectory(str(tmp_path)))
        FEEDBACK.run(session, 1)
        ROLLOUTS.run(session, 1)
    sampled = read_sampled(session.run.phase("rollouts", 1).fetch() / ANSWERS)
    assert [len(item.generations) for item in sampled] == [2, 2]
    assert len([r for r in server.requests if r.path.endswith("/completions")]) >= 4

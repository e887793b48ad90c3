"""vLLM as a rollout engine, with a double that samples as vLLM would and records what it is asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inference.policy import Policy
from inference.sampling import SamplingSettings
from mechanism.errors import ConfigError, PolicyError
from tests.inference.conftest import byte_tokenizer, make_context, random_policy
from tests.support.completions_server import TaggedModel
from tests.trainers.engines import answered
from trainers.artifacts.run_directory import RunDirectory
from trainers.config import EngineConfig, OptimisationConfig, RolloutConfig, RunConfig
from trainers.irpo.session import Session
from trainers.rollout import vllm
from trainers.rollout.engine import Version, open_engine
from trainers.rollout.external import ExternalEngine
from trainers.rollout.vllm import Output, VllmWriter

CONTEXTS = [make_context(["Kestrel Shoes", "Nest"], name="a"), make_context(["Oak & Elm"], name="b")]
SETTINGS = SamplingSettings(temperature=0.9, top_p=0.95, top_k=5, max_new_tokens=24, max_ads=1)
VLLM = EngineConfig(kind="vllm", memory=0.4)


@dataclass
class Double:
    """Both vLLM's names and its engine; `calls` are those to the engine, in order."""

    model: TaggedModel
    reason: str | None = None
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    """The folder behind the engine's model each time that it reads weights."""

    def engine(self, **arguments: Any) -> Double:
        self.calls.append(("engine", arguments))
        self.read.append(str(Path(arguments["model"]).resolve()))
        return self

    def sampling(self, structural_tag: str | None, **arguments: Any) -> Any:
        return SimpleNamespace(structural_tag=structural_tag, **arguments)

    def adapter(self, name: str, number: int, folder: str) -> Any:
        return (name, number, folder)

    def generate(
        self, prompts: Sequence[Mapping[str, Any]], params: Sequence[Any], *, use_tqdm: bool, lora_request: Any
    ) -> Sequence[Output]:
        self.calls.append(("generate", lora_request))
        found: list[Any] = []
        for prompt, own in zip(prompts, params, strict=True):
            settings = SamplingSettings(own.temperature, own.top_p, own.top_k, own.max_tokens, constrained=False)
            assert own.stop_token_ids == list(self.model.policy.end_tokens)
            tag = json.loads(own.structural_tag)
            drawn = [self.model.sample(prompt["prompt_token_ids"], tag, settings, own.seed + i) for i in range(own.n)]
            parts = [
                SimpleNamespace(
                    text=self.model.text(one),
                    token_ids=list(one.tokens),
                    finish_reason=self.reason or one.reason,
                    logprobs=[{t: SimpleNamespace(logprob=p)} for t, p in zip(one.tokens, one.logprobs, strict=True)],
                )
                for one in drawn
            ]
            found.append(SimpleNamespace(outputs=parts))
        return found

    def sleep(self, level: int) -> None:
        self.calls.append(("sleep", level))

    def wake_up(self, tags: list[str] | None = None) -> None:
        self.calls.append(("wake_up", tags))

    def collective_rpc(self, method: str) -> None:
        self.calls.append(("rpc", method))
        self.read.append(str(Path(self.calls[0][1]["model"]).resolve()))


@pytest.fixture(scope="module")
def policy() -> Policy:
    return random_policy(byte_tokenizer(words=True), ending=4.0)


@pytest.fixture
def double(policy: Policy) -> Double:
    return Double(TaggedModel(policy))


def folder(tmp_path: Path, name: str, base: Path | None = None) -> Path:
    made = tmp_path / name
    made.mkdir()
    if base is not None:
        (made / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    return made


def test_full_weights_are_read_again_from_the_new_version(policy: Policy, double: Double, tmp_path: Path) -> None:
    engine = ExternalEngine(VllmWriter(VLLM, double))
    first, second = folder(tmp_path, "first"), folder(tmp_path, "second")
    for source in (first, first, second):
        answers = answered(engine, Version(policy, str(source), False), CONTEXTS, 2, 3, SETTINGS)
        assert [len(own) for own in answers] == [2, 2]
        assert all(math.isfinite(g.logprob) and not g.answer.faults for own in answers for g in own)
    assert double.read == [str(first), str(second)]
    named = double.calls[0][1]
    assert (named["enable_sleep_mode"], named["gpu_memory_utilization"], named["enable_lora"]) == (True, 0.4, False)
    kinds = [call for call in double.calls[1:] if call[0] != "generate"]
    reload = kinds.index(("rpc", "reload_weights"))
    assert kinds[reload - 1 : reload + 2] == [
        ("wake_up", ["weights"]),
        ("rpc", "reload_weights"),
        ("wake_up", ["kv_cache"]),
    ]
    # After every generation it sleeps, and it is awake in every one.
    order = [call[0] for call in double.calls]
    assert all(order[i + 1] == "sleep" for i, kind in enumerate(order) if kind == "generate")
    assert all(order[i - 1] in ("engine", "wake_up") for i, kind in enumerate(order) if kind == "generate")


def test_adapters_are_named_in_the_requests_and_the_base_stays(policy: Policy, double: Double, tmp_path: Path) -> None:
    base = folder(tmp_path, "base")
    versions = [str(folder(tmp_path, name, base)) for name in ("one", "two")]
    engine = ExternalEngine(VllmWriter(VLLM, double))
    for source in (versions[0], versions[1], versions[0]):
        answered(engine, Version(policy, source, False), CONTEXTS, 1, 3, SETTINGS)
    asked = [call[1] for call in double.calls if call[0] == "generate"]
    assert list(dict.fromkeys(asked)) == [("version-1", 1, versions[0]), ("version-2", 2, versions[1])]
    assert asked[-1] == ("version-1", 1, versions[0])
    assert double.read == [str(base)]
    assert double.calls[0][1]["enable_lora"] is True


@pytest.mark.parametrize(("rank", "room"), [(16, 64), (128, 128)])
def test_a_run_that_starts_with_the_base_alone_has_room_for_its_adapters(
    policy: Policy, double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, room: int
) -> None:
    base = folder(tmp_path, "base")
    trained = folder(tmp_path, "trained", base)
    monkeypatch.setattr(vllm, "installed_vllm", lambda: double)
    run = RunConfig(name="run", rollout=RolloutConfig(engine=VLLM), optimisation=OptimisationConfig(lora_rank=rank))
    session = Session(run, RunDirectory(tmp_path / "run"))
    for source in (base, trained):
        answered(session.engine, Version(policy, str(source), source == base), CONTEXTS, 1, 3, SETTINGS)
    named = double.calls[0][1]
    assert (named["enable_lora"], named["max_lora_rank"]) == (True, room)
    asked = [call[1] for call in double.calls if call[0] == "generate"]
    assert list(dict.fromkeys(asked)) == [None, ("version-1", 1, str(trained))]
    assert double.read == [str(base)]


def test_an_aborted_answer_is_an_error(policy: Policy, double: Double, tmp_path: Path) -> None:
    double.reason = "abort"
    engine = ExternalEngine(VllmWriter(VLLM, double))
    with pytest.raises(PolicyError, match="ended by 'abort'"):
        answered(engine, Version(policy, str(folder(tmp_path, "a")), True), CONTEXTS, 1, 3, SETTINGS)


def test_without_vllm_the_error_says_how_to_install_it() -> None:
    with pytest.raises(ConfigError, match=r"rollout\.engine\.kind.*llm-auction\[vllm\]"):
        open_engine(VLLM)

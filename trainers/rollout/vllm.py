"""Answers from vLLM in this process: continuous batching on GPUs, asleep between phases.

Written to the documentation of vLLM 0.22 and later and not yet run: the tests have no GPU and no vLLM. They check what
the library is asked for, through the protocols below. The engine decodes by the same structural tags as a server.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from inference.adapter_files import base_of
from inference.models import resolve
from inference.sampling import SamplingSettings
from mechanism.errors import ConfigError, PolicyError
from trainers.config import EngineConfig
from trainers.rollout.engine import Version
from trainers.rollout.external import Asked
from trainers.rollout.written import Written

LEAST_RANK = 64
"""Adapters up to this rank always have room in vLLM; a run with a higher one asks for more."""


class Likelihood(Protocol):
    """vLLM's Logprob."""

    @property
    def logprob(self) -> float: ...


class Part(Protocol):
    """vLLM's CompletionOutput: one answer."""

    @property
    def text(self) -> str: ...

    @property
    def token_ids(self) -> Sequence[int]: ...

    @property
    def finish_reason(self) -> str | None: ...

    @property
    def logprobs(self) -> Sequence[Mapping[int, Likelihood]] | None: ...


class Output(Protocol):
    """vLLM's RequestOutput: the answers to one prompt."""

    @property
    def outputs(self) -> Sequence[Part]: ...


class Engine(Protocol):
    """The part of `vllm.LLM` that is used."""

    def generate(
        self, prompts: Sequence[Mapping[str, Any]], params: Sequence[Any], *, use_tqdm: bool, lora_request: Any
    ) -> Sequence[Output]: ...

    def sleep(self, level: int) -> None: ...

    def wake_up(self, tags: list[str] | None = None) -> None: ...

    def collective_rpc(self, method: str) -> Any: ...


class Vllm(Protocol):
    """The names of vLLM that are used."""

    def engine(self, **arguments: Any) -> Engine: ...

    def sampling(self, structural_tag: str | None, **arguments: Any) -> Any: ...

    def adapter(self, name: str, number: int, folder: str) -> Any: ...


class VllmWriter:
    """A `Writer` over vLLM.

    A base with adapters keeps its weights, and each version's adapter is named in its requests. Versions with weights
    of their own are read again from one folder, a link to the current version's. `adapter_rank` is that of
    `open_engine`: whether adapters come is settled when vLLM starts, with the base alone.
    """

    place = "rollout.engine vllm"
    tags: Literal["tokens", "text"] = "tokens"

    def __init__(self, config: EngineConfig, vllm: Vllm, adapter_rank: int = 0) -> None:
        self._config, self._vllm, self._adapter_rank = config, vllm, adapter_rank
        self._engine: Engine | None = None
        folder = tempfile.mkdtemp(prefix="llm-auction-rollout-")
        self._link = Path(folder) / "current"
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._weights = ""
        self._adapters: dict[str, int] = {}

    def write(
        self, version: Version, asked: Sequence[Asked], settings: SamplingSettings
    ) -> Sequence[Sequence[Written]]:
        """As `Writer.write`; the engine sleeps afterwards and leaves the device's memory to others."""
        folder = resolve(version.source)
        base = base_of(Path(folder))
        engine = self._awake(resolve(base) if base else folder, adapters=base is not None or self._adapter_rank > 0)
        number = self._adapters.setdefault(folder, len(self._adapters) + 1) if base else 0
        adapter = self._vllm.adapter(f"version-{number}", number, folder) if base else None
        outputs = engine.generate(
            [{"prompt_token_ids": list(one.prompt)} for one in asked],
            [self._sampling(one, settings, version.policy.end_tokens) for one in asked],
            use_tqdm=False,
            lora_request=adapter,
        )
        engine.sleep(level=1)
        return [[_written(part) for part in output.outputs] for output in outputs]

    def _awake(self, weights: str, adapters: bool) -> Engine:
        """Return the engine with these weights in place, started or woken."""
        if self._engine is not None and weights == self._weights:
            self._engine.wake_up()
            return self._engine
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(Path(weights).resolve())
        if self._engine is None:
            self._engine = self._vllm.engine(
                model=str(self._link),
                gpu_memory_utilization=self._config.memory,
                enable_sleep_mode=True,
                enable_prefix_caching=True,
                enable_lora=adapters,
                **({"max_lora_rank": max(LEAST_RANK, self._adapter_rank)} if adapters else {}),
            )
        else:
            # The cache of keys and values comes back after the weights are new: nothing in it is of the old ones.
            self._engine.wake_up(tags=["weights"])
            self._engine.collective_rpc("reload_weights")
            self._engine.wake_up(tags=["kv_cache"])
        self._weights = weights
        return self._engine

    def _sampling(self, asked: Asked, settings: SamplingSettings, ends: Sequence[int]) -> Any:
        return self._vllm.sampling(
            None if asked.tag is None else json.dumps(asked.tag),
            n=asked.count,
            seed=asked.seed,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k or -1,
            max_tokens=settings.max_new_tokens,
            stop_token_ids=list(ends),
            logprobs=0,
        )


def _written(part: Part) -> Written:
    """Return an answer as the interface has it.

    Raises:
        PolicyError: if it was aborted.
    """
    if part.finish_reason not in ("stop", "length"):
        raise PolicyError(f"rollout.engine vllm: an answer ended by {part.finish_reason!r}: see vLLM's log")
    tokens = tuple(part.token_ids)
    logprobs = None
    if part.logprobs is not None and len(part.logprobs) == len(tokens):
        logprobs = tuple(own[token].logprob for token, own in zip(tokens, part.logprobs, strict=True))
    return Written(part.text, part.finish_reason == "stop", tokens, logprobs)


class _Installed:
    """The installed vLLM."""

    def __init__(self) -> None:
        from vllm import LLM, SamplingParams  # type: ignore[import-not-found, unused-ignore]
        from vllm.lora.request import LoRARequest  # type: ignore[import-not-found, unused-ignore]
        from vllm.sampling_params import StructuredOutputsParams  # type: ignore[import-not-found, unused-ignore]

        self._names: Any = (LLM, SamplingParams, LoRARequest, StructuredOutputsParams)

    def engine(self, **arguments: Any) -> Engine:
        engine: Engine = self._names[0](**arguments)
        return engine

    def sampling(self, structural_tag: str | None, **arguments: Any) -> Any:
        tag = None if structural_tag is None else self._names[3](structural_tag=structural_tag)
        return self._names[1](structured_outputs=tag, **arguments)

    def adapter(self, name: str, number: int, folder: str) -> Any:
        return self._names[2](name, number, folder)


def installed_vllm() -> Vllm:
    """Return the installed vLLM.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        return _Installed()
    except ImportError as error:
        remedy = f"it cannot be imported ({error}): pip install 'llm-auction[vllm]' on a machine with a GPU"
        raise ConfigError("rollout.engine.kind", "vllm", remedy) from None

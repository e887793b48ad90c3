"""The one interface behind which answers are sampled, and which engine a configuration names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from inference.policy import AnsweredBatch, Policy
from inference.sampling import SamplingSettings
from mechanism.types import Context
from trainers.config import EngineConfig


@dataclass(frozen=True, slots=True)
class Version:
    """The policy whose answers are wanted.

    `source` is the name or folder that `policy` was loaded from. `untrained`: it is the model that the run began with.
    """

    policy: Policy
    source: str
    untrained: bool


class RolloutEngine(Protocol):
    """Samples answers of a policy version, each with token ids, end, log-probability and propensities.

    Engines of one `name` can take up each other's batches.
    """

    @property
    def name(self) -> str: ...

    def generate_batches(
        self,
        version: Version,
        contexts: Sequence[Context],
        samples: int,
        seed: int,
        settings: SamplingSettings,
        *,
        done: Sequence[AnsweredBatch] = (),
    ) -> Iterator[AnsweredBatch]:
        """Yield `samples` answers to each context, batch by batch; `done` are the first batches of an earlier call.

        Raises:
            PolicyError: if the engine fails.
            ConfigError: if it cannot sample with these settings, or cannot run this version.
        """
        ...


class TransformersEngine:
    """The policy in this process."""

    name = "transformers"

    def generate_batches(
        self,
        version: Version,
        contexts: Sequence[Context],
        samples: int,
        seed: int,
        settings: SamplingSettings,
        *,
        done: Sequence[AnsweredBatch] = (),
    ) -> Iterator[AnsweredBatch]:
        """As `Policy.generate_batches`."""
        return version.policy.generate_batches(contexts, samples, seed, settings, done=done)


def open_engine(config: EngineConfig, adapter_rank: int = 0) -> RolloutEngine:
    """Return the engine that a configuration names; its first call reaches the server or starts vLLM.

    `adapter_rank` is the rank of the adapter that the run trains on a base without one; 0: it trains none. ConfigError
    if vLLM is not installed or the server's URL is more than an address, InputError if its key is not set.
    """
    if config.kind == "server":
        from trainers.rollout.external import ExternalEngine
        from trainers.rollout.server import CompletionServer

        return ExternalEngine(CompletionServer(config))
    if config.kind == "vllm":
        from trainers.rollout.external import ExternalEngine
        from trainers.rollout.vllm import VllmWriter, installed_vllm

        return ExternalEngine(VllmWriter(config, installed_vllm(), adapter_rank))
    return TransformersEngine()

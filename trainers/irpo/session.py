"""What all phases of one run share: configuration, world, seeds, and the models that they load on first use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from inference.encoder import shared_encoder
from inference.policy import Policy
from inference.precision import fast_dtype
from inference.sampling import SamplingSettings
from mechanism.errors import ConfigError
from mechanism.statistics import Floats
from mechanism.types import Context
from simulator.clicks import ClickModel
from trainers.artifacts.registry import local_base
from trainers.artifacts.run_directory import RunDirectory, epoch_file
from trainers.config import RunConfig
from trainers.irpo.worlds import ContextSource, TrainingWorld, build_world
from trainers.logs.answers import LoggedAnswer
from trainers.logs.snapshot import LOGGED, LoggedContexts, read_snapshot
from trainers.optimisation.precision import training_device_type
from trainers.optimisation.sharding import ALONE, Part
from trainers.reward.model import ClickPredictor, OraclePredictor, PCTRModel
from trainers.rollout.engine import RolloutEngine, Version, open_engine

BASE_PHASE = "warm-start"
"""Folder of the warmed base model."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Callbacks for the caller of a run; by default each does nothing.

    `report` takes a line of text, `step` (step, steps, loss) while a phase trains, `begin` (phase, epoch) and `end`
    (phase, epoch, result, seconds) every phase that is run.
    """

    report: Callable[[str], None] = lambda text: None
    step: Callable[[int, int, float], None] = lambda step, steps, loss: None
    begin: Callable[[str, int], None] = lambda phase, epoch: None
    end: Callable[[str, int, str, float], None] = lambda phase, epoch, result, seconds: None


SILENT = Progress()


class Session:
    """One run's configuration and directory. Keeps the base policy and the latest other one loaded."""

    def __init__(self, config: RunConfig, run: RunDirectory, progress: Progress = SILENT, part: Part = ALONE) -> None:
        self.config = config
        self.part = part
        self.run = run
        self.progress = progress
        self.penalty = config.penalty.penalty()
        self._policies: dict[int, Policy] = {}

    @cached_property
    def world(self) -> TrainingWorld:
        """The world of `config.world`."""
        return build_world(self.config.world)

    @cached_property
    def truth(self) -> ClickModel:
        """The simulator's true click probabilities. ConfigError in a run on logs, which hold no truth."""
        self._require_simulator("true click probabilities")
        return ClickModel()

    @cached_property
    def contexts(self) -> ContextSource | LoggedContexts:
        """The source of training and validation contexts."""
        seed, validation = self.config.seed, self.config.evaluation.validation
        if self.config.feedback.source == "lake":
            fresh = self.config.rollout.bids == "fresh"
            return LoggedContexts(self.logged[0], seed, validation, fresh_bids=fresh)
        return ContextSource(self.world, self.config.world, seed, validation)

    @cached_property
    def logged(self) -> tuple[list[LoggedAnswer], Floats]:
        """The snapshot of a run on logs, and the share of each answer's clicks that the log can hold by then."""
        return read_snapshot(self.run.phase("feedback", 1).fetch() / LOGGED)

    def test_contexts(self, count: int) -> list[Context]:
        """Draw held-out queries of the world with fresh bids. ConfigError in a run on logs."""
        self._require_simulator("held-out queries of a world")
        assert isinstance(self.contexts, ContextSource)
        return self.contexts.test(count)

    def _require_simulator(self, what: str) -> None:
        if self.config.feedback.source == "lake":
            remedy = f"a run on logs has no {what}: evaluate the registered model (llm-auction evaluate MODEL)"
            raise ConfigError("feedback.source", "lake", remedy)

    def policy_source(self, epoch: int) -> str:
        """Return the name or folder of the policy at the end of an epoch; epoch 0 is the (warmed) base."""
        if epoch > 0:
            return str(self.run.phase("policy", epoch).fetch())
        if self.config.warm_start is not None:
            return str(self.run.phase(BASE_PHASE).fetch())
        return self.base

    def policy_identity(self, epoch: int) -> object:
        """Return what tells the policy at the end of an epoch from others: a name, or the digests of its files."""
        if epoch == 0 and self.config.warm_start is None:
            return self.config.base
        phase = self.run.phase("policy", epoch) if epoch > 0 else self.run.phase(BASE_PHASE)
        return {name: facts.sha256 for name, facts in phase.manifest().files.items()}

    @cached_property
    def base(self) -> str:
        """Name or local folder of the model that the run starts from."""
        return local_base(self.config.base)

    def policy(self, epoch: int) -> Policy:
        """Load the policy at the end of an epoch, for sampling."""
        if epoch not in self._policies:
            for other in [e for e in self._policies if e != 0]:
                del self._policies[other]
            self._policies[epoch] = Policy.load(self.policy_source(epoch), self.sampling_dtype)
        return self._policies[epoch]

    @cached_property
    def engine(self) -> RolloutEngine:
        """What samples the answers of feedback and rollouts."""
        return open_engine(self.config.rollout.engine, self.config.optimisation.lora_rank)

    def version(self, epoch: int) -> Version:
        """Return the policy at the end of an epoch as an engine needs it."""
        untrained = epoch == 0 and self.config.warm_start is None
        return Version(self.policy(epoch), self.policy_source(epoch), untrained)

    def reference(self, epoch: int) -> Policy:
        """Load the same policy as the reference of optimisation, in the precision that optimisation loads it in."""
        if self.sampling_dtype is torch.float32:
            return self.policy(epoch)
        return Policy.load(self.policy_source(epoch))

    @property
    def sampling_dtype(self) -> torch.dtype:
        """Precision of the weights while answers are sampled."""
        chosen = self.config.sampling_precision
        if chosen == "auto":  # A processor's answers stay the same on every machine.
            return fast_dtype() if training_device_type() == "cuda" else torch.float32
        return torch.bfloat16 if chosen == "bfloat16" else torch.float32

    def release_policies(self) -> None:
        """Drop the loaded policies, so that the processes of optimisation find the whole memory of the devices."""
        self._policies.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def sampling(self, policy: Policy) -> SamplingSettings:
        """Return the policy's own sampling settings with the run's overrides, for rollouts."""
        chosen = self.config.rollout.model_dump(include={"temperature", "top_p", "top_k", "max_new_tokens"})
        return replace(policy.sampling, **{k: v for k, v in chosen.items() if v is not None})

    def predictor(self, epoch: int) -> ClickPredictor:
        """Load the epoch's pCTR model, or the truth where the run is an oracle's."""
        if self.config.reward.source == "oracle":
            return OraclePredictor(self.truth)
        return PCTRModel.load(self.run.phase("reward_model", epoch).fetch(), shared_encoder().encode)

    def seed(self, epoch: int, purpose: int) -> int:
        """Return the seed of an epoch and purpose. No two share one, so a phase run alone draws the same numbers."""
        return self.config.seed * 1_000_003 + epoch * 101 + purpose

    def read_epoch_json(self, name: str, epoch: int) -> Any:
        """Read a JSON file beside an epoch's phases."""
        return self.run.read_json(epoch_file(epoch, name))

    def write_epoch_json(self, name: str, epoch: int, value: object) -> None:
        """Write a JSON file beside an epoch's phases."""
        self.run.write_json(epoch_file(epoch, name), value)

"""What all phases of one run share: configuration, world, seeds, and the models they load on first use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch

from inference.encoder import shared_encoder
from inference.policy import Policy
from inference.sampling import SamplingSettings
from mechanism.errors import ConfigError
from mechanism.objective import Penalty
from mechanism.statistics import Floats
from mechanism.types import Context
from simulator.clicks import ClickModel
from trainers.artifacts.base_model import local_base
from trainers.artifacts.run_directory import RunDirectory
from trainers.config import RunConfig
from trainers.irpo.worlds import ContextSource, TrainingWorld, build_world
from trainers.logs.answers import LoggedAnswer, read_snapshot
from trainers.logs.contexts import LoggedContexts
from trainers.logs.feedback import LOGGED
from trainers.optimisation.sharding import ALONE, Part
from trainers.reward.model import ClickPredictor, PCTRModel
from trainers.reward.oracle import OraclePredictor

Say = Callable[[str], None]
Step = Callable[[int, int, float], None]
"""(step, of how many, loss) while a phase trains."""
BASE_PHASE = "warm-start"


class Session:
    """One run's configuration and directory. Policies are kept for the epoch they belong to, one at a time."""

    def __init__(self, config: RunConfig, run: RunDirectory, say: Say, step: Step, part: Part = ALONE) -> None:
        self.config = config
        self.part = part
        self.run = run
        self.say = say
        self.step = step
        self.penalty = Penalty(**config.penalty.model_dump())
        self._policies: dict[int, Policy] = {}

    @cached_property
    def world(self) -> TrainingWorld:
        """The run's world."""
        return build_world(self.config.world)

    @cached_property
    def truth(self) -> ClickModel:
        """The simulator's true click probabilities. Raises ConfigError in a run on logs, which has none."""
        self._simulated("true click probabilities")
        return ClickModel()

    @cached_property
    def contexts(self) -> ContextSource | LoggedContexts:
        """Where contexts are drawn from."""
        seed, validation = self.config.seed, self.config.evaluation.validation
        if self.config.feedback.source == "shards":
            fresh = self.config.rollout.bids == "fresh"
            return LoggedContexts(self.logged[0], seed, validation, fresh_bids=fresh)
        return ContextSource(self.world, self.config.world, seed, validation)

    @cached_property
    def logged(self) -> tuple[list[LoggedAnswer], Floats]:
        """The snapshot of a run on logs, and the share of each answer's clicks that can be there."""
        return read_snapshot(self.run.phase("feedback", 1).fetch() / LOGGED)

    def test_contexts(self, count: int) -> list[Context]:
        """Held-out queries of the world with fresh bids. Raises ConfigError in a run on logs."""
        self._simulated("held-out queries of a world")
        assert isinstance(self.contexts, ContextSource)
        return self.contexts.test(count)

    def _simulated(self, what: str) -> None:
        if self.config.feedback.source == "shards":
            remedy = f"a run on logs has no {what}: evaluate the registered model (llm-auction evaluate MODEL)"
            raise ConfigError("feedback.source", "shards", remedy)

    def policy_source(self, epoch: int) -> str:
        """Name or folder of the policy at the end of an epoch; epoch 0 is the (warmed) base."""
        if epoch > 0:
            return str(self.run.phase("policy", epoch).fetch())
        if self.config.warm_start is not None:
            return str(self.run.phase(BASE_PHASE).fetch())
        return self.base

    @cached_property
    def base(self) -> str:
        """Name or local folder of the model that the run begins from."""
        return local_base(self.config.base)

    def policy(self, epoch: int) -> Policy:
        """The policy at the end of an epoch. The base stays loaded, of the others only the latest."""
        if epoch not in self._policies:
            for other in [e for e in self._policies if e != 0]:
                del self._policies[other]
            self._policies[epoch] = Policy.load(self.policy_source(epoch), self.sampling_dtype)
        return self._policies[epoch]

    def reference(self, epoch: int) -> Policy:
        """The same policy to compare with in optimisation, in the precision in which that keeps its weights."""
        if self.sampling_dtype is torch.float32:
            return self.policy(epoch)
        return Policy.load(self.policy_source(epoch))

    @property
    def sampling_dtype(self) -> torch.dtype:
        """Of the weights while answers are written."""
        return torch.bfloat16 if self.config.sampling_precision == "bfloat16" else torch.float32

    def sampling(self, policy: Policy) -> SamplingSettings:
        """The policy's own sampling settings with the run's overrides, for rollouts."""
        chosen = self.config.rollout.model_dump(include={"temperature", "top_p", "top_k", "max_new_tokens"})
        return policy.with_sampling(**{k: v for k, v in chosen.items() if v is not None})

    def predictor(self, epoch: int) -> ClickPredictor:
        """The epoch's pCTR model, or the truth where the run is an oracle's."""
        if self.config.reward.source == "oracle":
            return OraclePredictor(self.truth)
        return PCTRModel.load(self.run.phase("reward_model", epoch).fetch(), shared_encoder().encode)

    def seed(self, epoch: int, purpose: int) -> int:
        """A seed of its own for every random step, so that phases can be repeated alone."""
        return self.config.seed * 1_000_003 + epoch * 101 + purpose

    def figures(self, name: str, epoch: int) -> Any:
        """A JSON file of an epoch."""
        return self.run.read_json(f"epoch-{epoch:03d}/{name}")

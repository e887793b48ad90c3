"""The steps of a run in order, and which pods each of them gets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from operators.resources.irpojob import IRPOJobSpec, StepPods


class Step(StrEnum):
    """A step of an epoch. Each is one Kubernetes Job and one or two phases of `llm-auction train`."""

    REWARD = "reward"
    ROLLOUTS = "rollouts"
    PAIRS = "pairs"
    OPTIMISATION = "optimisation"
    EVALUATION = "evaluation"
    REGISTRATION = "registration"


SHORT = {
    Step.REWARD: "reward",
    Step.ROLLOUTS: "rollout",
    Step.PAIRS: "pairs",
    Step.OPTIMISATION: "opt",
    Step.EVALUATION: "eval",
    Step.REGISTRATION: "register",
}
"""As names of Jobs say it: with the longest job's name, three digits of the epoch, four of the attempt and of a pod's
index they are as long as a host's name may be."""
EPOCH_STEPS = (Step.REWARD, Step.ROLLOUTS, Step.PAIRS, Step.OPTIMISATION, Step.EVALUATION)


@dataclass(frozen=True, slots=True)
class Place:
    """A step of an epoch (from 1)."""

    epoch: int
    step: Step

    def __str__(self) -> str:
        return f"{self.step} of epoch {self.epoch}" if self.step is not Step.REGISTRATION else "registration"


def places(epochs: int) -> tuple[Place, ...]:
    """All steps of a run in order: five in each epoch, and the registration of the best one."""
    every = [Place(epoch, step) for epoch in range(1, epochs + 1) for step in EPOCH_STEPS]
    return (*every, Place(epochs, Step.REGISTRATION))


def job_name(name: str, place: Place, attempt: int) -> str:
    """Name of the Kubernetes Job of an attempt at a step."""
    return f"{name}-e{place.epoch}-{SHORT[place.step]}-{attempt}"


def pods_of(spec: IRPOJobSpec, step: Step) -> tuple[int, StepPods]:
    """How many pods a step has, and what they are like."""
    steps = spec.steps
    match step:
        case Step.REWARD:
            return 1, steps.reward
        case Step.ROLLOUTS:
            return steps.rollouts.pods, steps.rollouts
        case Step.PAIRS:
            return 1, steps.pairs
        case Step.OPTIMISATION:
            return steps.optimisation.pods, steps.optimisation
        case Step.EVALUATION | Step.REGISTRATION:
            return 1, steps.evaluation

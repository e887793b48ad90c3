"""The steps of a run in order, the names of their Jobs, and the pods of each step."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from operators.resources.irpojob import IRPOJobSpec, StepPods, Steps


class Step(StrEnum):
    """A step of an epoch: one Kubernetes Job, which runs one or two phases of `llm-auction train`."""

    FEEDBACK = "feedback"
    REWARD = "reward"
    ROLLOUTS = "rollouts"
    PAIRS = "pairs"
    OPTIMISATION = "optimisation"
    EVALUATION = "evaluation"
    REGISTRATION = "registration"


SHORT = {
    Step.FEEDBACK: "feed",
    Step.REWARD: "reward",
    Step.ROLLOUTS: "rollout",
    Step.PAIRS: "pairs",
    Step.OPTIMISATION: "opt",
    Step.EVALUATION: "eval",
    Step.REGISTRATION: "register",
}
"""The steps in names of Jobs. With the longest IRPOJob name, a three-digit epoch, a four-digit attempt and a four-digit
pod index, the pod's name just fits the 63 characters of a host name."""
EPOCH_STEPS = (Step.FEEDBACK, Step.REWARD, Step.ROLLOUTS, Step.PAIRS, Step.OPTIMISATION, Step.EVALUATION)


@dataclass(frozen=True, slots=True)
class Place:
    """A step of an epoch; epochs count from 1."""

    epoch: int
    step: Step

    def __str__(self) -> str:
        return f"{self.step} of epoch {self.epoch}" if self.step is not Step.REGISTRATION else "registration"


def places(epochs: int, steps: Steps) -> tuple[Place, ...]:
    """Return all steps of a run in order: those of each epoch, then the registration of the best epoch.

    Feedback is a step of its own only if it has pods of its own.
    """
    own = [step for step in EPOCH_STEPS if step is not Step.FEEDBACK or steps.feedback is not None]
    every = [Place(epoch, step) for epoch in range(1, epochs + 1) for step in own]
    return (*every, Place(epochs, Step.REGISTRATION))


def job_name(name: str, place: Place, attempt: int) -> str:
    """Return the name of the Kubernetes Job for an attempt at a step."""
    return f"{name}-e{place.epoch}-{SHORT[place.step]}-{attempt}"


def pods_of(spec: IRPOJobSpec, step: Step) -> tuple[int, StepPods]:
    """Return the number of a step's pods and their settings."""
    steps = spec.steps
    match step:
        case Step.FEEDBACK:
            assert steps.feedback is not None
            return steps.feedback.pods, steps.feedback
        case Step.REWARD:
            return 1, steps.reward
        case Step.ROLLOUTS:
            return steps.rollouts.pods, steps.rollouts
        case Step.PAIRS:
            return steps.pairs.pods, steps.pairs
        case Step.OPTIMISATION:
            return steps.optimisation.pods, steps.optimisation
        case Step.EVALUATION:
            return steps.evaluation.pods, steps.evaluation
        case Step.REGISTRATION:
            return 1, steps.evaluation

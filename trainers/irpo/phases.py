"""The phases of an epoch: each reads what earlier phases published and publishes one new folder of the run directory.

In the order of Algorithm 1 of arXiv 2512.10551: feedback, reward update, rollouts, preference groups, preference
optimisation, evaluation. A finished phase is never repeated; every phase can be run alone.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable

import numpy as np

from inference.encoder import shared_encoder
from mechanism.statistics import Floats
from trainers.artifacts.run_directory import EVALUATION, epoch_file
from trainers.artifacts.sampled import Sampled, read_sampled
from trainers.artifacts.store import to_json
from trainers.irpo.answer_phases import ANSWERS, FEEDBACK, ROLLOUTS
from trainers.irpo.evaluation_phase import MEASUREMENT, MeasuredContext
from trainers.irpo.pairs_phase import GROUPS, PAIRS, ContextGroups
from trainers.irpo.session import BASE_PHASE, Session
from trainers.irpo.shared_phases import SharedPhase
from trainers.irpo.temperature import choose_temperature, chosen_temperature
from trainers.irpo.warm_start import train_warm_start
from trainers.logs.snapshot import fitted_part, take_snapshot
from trainers.optimisation.launch import run_optimisation
from trainers.optimisation.worker import OptimisationJob
from trainers.reward.training import Shown, fit

FIGURES = "figures.json"
WARM_START, TEMPERATURE = "warm_start", "temperature"
"""Phases before the first and after the last epoch."""

PhaseFunction = Callable[[Session, int], str]
"""(session, epoch) -> one line for the terminal on what the phase did."""


def warm_start(session: Session, epoch: int) -> str:
    """Teach the base model the insertion format by supervised training, where the run asks for it."""
    with session.run.phase(BASE_PHASE).open() as folder:
        loss = train_warm_start(session, folder)
    return f"loss {loss:.3f} nats a token"


def feedback(session: Session, epoch: int) -> str:
    """Deploy the current policy on training contexts and record clicks (D_on), or take both from the log."""
    config = session.config.feedback
    if config.source != "lake":
        return FEEDBACK.run(session, epoch)
    with session.run.phase("feedback", epoch).open() as folder:
        return take_snapshot(config, folder)


def reward_model(session: Session, epoch: int) -> str:
    """Fit the pCTR model to the feedback of all epochs so far (Eq. 3, 4)."""
    with session.run.phase("reward_model", epoch).open() as folder:
        figures = folder / FIGURES
        if session.config.reward.source == "oracle":
            figures.write_text(to_json({}, str(figures)), encoding="utf-8")
            return "oracle: the simulator's own probabilities"
        shown, seen = _feedback_so_far(session, epoch)
        model, quality = fit(shown, session.config.reward, shared_encoder().encode, session.seed(epoch, 3), seen)
        model.save(folder, session.config.reward)
        figures.write_text(to_json(dataclasses.asdict(quality), str(figures)), encoding="utf-8")
    return f"AUC {quality.auc:.3f}, calibration error {quality.calibration_error:.3f} on held-out feedback"


def _feedback_so_far(session: Session, epoch: int) -> tuple[list[Shown], Floats | None]:
    """Return the shown answers of all epochs, and the share of their clicks that are known by now (None: all)."""
    if session.config.feedback.source == "lake":
        return fitted_part(*session.logged)
    shown: list[Shown] = []
    for past in range(1, epoch + 1):
        for item in read_sampled(session.run.phase("feedback", past).fetch() / ANSWERS):
            pairs = zip(item.generations, item.clicks or (), strict=True)
            shown += [(item.context, g.answer, dict(c)) for g, c in pairs]
    return shown, None


def policy(session: Session, epoch: int) -> str:
    """Optimise the policy on the groups, by default by DPO (Eq. 6), and publish it; of several nodes the first does."""
    session.release_policies()
    with session.run.phase("policy", epoch).open() as folder:
        trajectory = run_optimisation(
            _optimisation_job(session, epoch, str(folder)),
            lambda step, steps, figures: session.progress.step(step, steps, figures["loss"]),
            session.part,
        )
    tail = trajectory[-max(1, len(trajectory) // 10) :]
    loss = float(np.mean([t["loss"] for t in tail]))
    accuracy = float(np.mean([t.get("rewards/accuracies", 0.0) for t in tail]))
    return f"loss {loss:.3f}, pairs ranked right {accuracy:.2f}"


def join_policy(session: Session, epoch: int) -> str:
    """Optimise together with the first node, which publishes the result."""
    with tempfile.TemporaryDirectory() as folder:
        run_optimisation(_optimisation_job(session, epoch, folder), lambda *_: None, session.part)
    return f"node {session.part.node} of {session.part.nodes} has done its share"


def _optimisation_job(session: Session, epoch: int, out: str) -> OptimisationJob:
    return OptimisationJob(
        policy=session.policy_source(epoch - 1),
        groups=str(session.run.phase("pairs", epoch).fetch() / GROUPS),
        out=out,
        checkpoints=str(session.run.phase("policy", epoch).scratch("checkpoints")),
        seed=session.seed(epoch, 6),
        config=session.config.optimisation.at_epoch(epoch),
    )


AnyShared = SharedPhase[Sampled] | SharedPhase[ContextGroups] | SharedPhase[MeasuredContext]
SHARED: dict[str, AnyShared] = {
    FEEDBACK.name: FEEDBACK,
    ROLLOUTS.name: ROLLOUTS,
    PAIRS.name: PAIRS,
    MEASUREMENT.name: MEASUREMENT,
}
"""The phases that `--shard` divides."""
PHASE_FUNCTIONS: dict[str, PhaseFunction] = {
    WARM_START: warm_start,
    "feedback": feedback,
    "reward_model": reward_model,
    "rollouts": ROLLOUTS.run,
    "pairs": PAIRS.run,
    "policy": policy,
    "evaluation": MEASUREMENT.run,
    TEMPERATURE: choose_temperature,
}
PHASES = tuple(name for name in PHASE_FUNCTIONS if name not in (WARM_START, TEMPERATURE))
"""Names of an epoch's phases in their order."""


def finished(session: Session, name: str, epoch: int) -> bool:
    """Return whether a phase has been published."""
    if name == WARM_START:
        return session.run.phase(BASE_PHASE).finished()
    if name == TEMPERATURE:
        return chosen_temperature(session, epoch) is not None
    if name == MEASUREMENT.name:
        return session.run.exists(epoch_file(epoch, EVALUATION))
    return session.run.phase(name, epoch).finished()

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
from mechanism.errors import GuardError
from mechanism.statistics import Floats
from simulator.brands import renamed
from trainers.artifacts.run_directory import EVALUATION, epoch_file
from trainers.artifacts.sampled import Sampled, read_sampled, write_sampled
from trainers.artifacts.store import to_json
from trainers.irpo.edited_answers import with_edits
from trainers.irpo.feedback import judged_clicks, simulated_clicks
from trainers.irpo.preference_pairs import build_groups
from trainers.irpo.quality_term import weighted_qualities
from trainers.irpo.session import BASE_PHASE, Session
from trainers.irpo.temperature import choose_temperature, chosen_temperature
from trainers.irpo.validation import Validation, check_finite, check_guards, validate
from trainers.irpo.warm_start import train_warm_start
from trainers.logs.snapshot import fitted_part, take_snapshot
from trainers.optimisation.groups import tokenise, with_reference, with_sampling, write_groups
from trainers.optimisation.launch import run_optimisation
from trainers.optimisation.worker import OptimisationJob
from trainers.reward.training import Shown, fit

ANSWERS = "answers.parquet"
GROUPS = "groups.parquet"
FIGURES = "figures.json"
SHARD_BITS = 40
"""Seeds of a run stay below 2^40; a shard's number goes above them."""
VALIDATION = "validation.json"
"""An epoch's raw answers to the validation contexts."""
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
    if config.source == "lake":
        with session.run.phase("feedback", epoch).open() as folder:
            return take_snapshot(config, folder)
    if session.config.reward.source == "oracle":
        with session.run.phase("feedback", epoch).open() as folder:
            write_sampled(folder / ANSWERS, [])
        return "none: the oracle knows what users click"
    contexts = session.contexts.training(config.contexts, epoch, 1)
    answers = session.answers(epoch - 1, contexts, config.answers, session.seed(epoch, 1))
    seed = session.seed(epoch, 2)
    click = (
        judged_clicks(config.judge, seed, session.progress.report)
        if config.judge
        else simulated_clicks(session.truth, seed)
    )
    clicked = iter(click([(c, g.answer) for c, own in zip(contexts, answers, strict=True) for g in own]))
    sampled = [
        Sampled(c, tuple(own), tuple(next(clicked) for _ in own)) for c, own in zip(contexts, answers, strict=True)
    ]
    with session.run.phase("feedback", epoch).open() as folder:
        write_sampled(folder / ANSWERS, sampled)
    clicks = [hit for item in sampled for answer in item.clicks or () for hit in answer.values()]
    return f"{len(clicks)} ads shown, click rate {np.mean(clicks) if clicks else 0:.3f}"


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


def rollouts(session: Session, epoch: int) -> str:
    """Sample M answers to each context from the current policy, with their propensities.

    Shard k of n answers every nth context from the kth on, in a phase of its own; shard "all" merges them.
    """
    part = session.part
    if part.shards > 1 and part.shard is None:
        return _merged_rollouts(session, epoch)
    config, shard = session.config.rollout, part.shard or 0
    contexts = session.contexts.training(config.contexts, epoch, 4)
    if config.new_titles:
        rng = np.random.default_rng(session.seed(epoch, 8))
        # Some of the offers or all: new titles have to win against known ones as well.
        contexts = [renamed(c, rng, rng.random()) if rng.random() < config.new_titles else c for c in contexts]
    # Split after the renaming, so that a context has the same offers for any number of shards.
    contexts = contexts[shard :: part.shards]
    seed = session.seed(epoch, 4) + (shard << SHARD_BITS)
    settings = session.sampling(session.policy(epoch - 1))
    answers = session.answers(epoch - 1, contexts, config.samples, seed, settings)
    sampled = [Sampled(c, tuple(own)) for c, own in zip(contexts, answers, strict=True)]
    with session.run.phase(rollouts_name(part.shard, part.shards), epoch).open() as folder:
        count = write_sampled(folder / ANSWERS, sampled)
    faults = sum(len(g.answer.faults) for own in answers for g in own)
    return f"{count} answers to {len(contexts)} contexts, {faults} invalid insertions"


def _merged_rollouts(session: Session, epoch: int) -> str:
    """Merge the shards' answers, in the order of the contexts."""
    shards = [
        read_sampled(session.run.phase(rollouts_name(number, session.part.shards), epoch).fetch() / ANSWERS)
        for number in range(session.part.shards)
    ]
    count = sum(len(shard) for shard in shards)
    sampled = [shards[i % len(shards)][i // len(shards)] for i in range(count)]
    with session.run.phase("rollouts", epoch).open() as folder:
        answers = write_sampled(folder / ANSWERS, sampled)
    return f"{answers} answers to {count} contexts from {len(shards)} shards"


def rollouts_name(shard: int | None, shards: int) -> str:
    """Return the name of the phase that holds the rollouts, or one shard of them."""
    return "rollouts" if shard is None else f"rollouts-{shard}-of-{shards}"


def pairs(session: Session, epoch: int) -> str:
    """Score the rollouts (Eq. 5), pick winners and losers (Eq. 6), and record their reference log-probabilities.

    Raises:
        GuardError: if no answer beats another by more than `preference.delta`.
    """
    config = session.config
    reference = session.reference(0 if config.optimisation.reference == "base" else epoch - 1)
    settings, rng = session.sampling(reference), np.random.default_rng(session.seed(epoch, 5))
    rolled_out = read_sampled(session.run.phase("rollouts", epoch).fetch() / ANSWERS)
    sampled = [with_edits(item, reference, settings, config.preference, rng) for item in rolled_out]
    flat = [(item.context, g) for item in sampled for g in item.generations]
    scored = iter(session.predictor(epoch).probabilities([(c, g.answer) for c, g in flat]))
    graded = iter(weighted_qualities([(c, g.answer, g.finished) for c, g in flat], config.preference.quality_weight))
    groups = build_groups(
        sampled,
        [[next(scored) for _ in item.generations] for item in sampled],
        config.preference,
        session.penalty,
        rng,
        session.contexts.redraw,
        qualities=[[next(graded) for _ in item.generations] for item in sampled],
        every_answer=config.optimisation.objective == "rloo",
    )
    if not groups:
        raise GuardError(
            "no_pairs",
            "no answer beats another by more than preference.delta; lower it, or raise rollout.samples",
            {"answers": float(len(flat)), "delta": config.preference.delta},
        )
    precision = config.optimisation.precision
    tokens = tokenise(reference, groups, sampled, settings, whole=not config.optimisation.shared_prefix)
    tokens = with_reference(reference, tokens, precision=precision)
    if config.optimisation.objective == "rloo":
        tokens = with_sampling(session.reference(epoch - 1), tokens, precision=precision)
    with session.run.phase("pairs", epoch).open() as folder:
        write_groups(folder / GROUPS, tokens)
    count = sum(len(g.losers) for g in groups)
    return f"{count} pairs in {len(groups)} groups, mean reward {np.mean([r for g in groups for r in g.rewards]):.1f}"


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


def evaluation(session: Session, epoch: int) -> str:
    """Measure the epoch's policy on validation contexts and check the guards; in epoch 1 measure the base as well."""
    truth = None if session.config.feedback.source == "lake" else session.truth
    for number in {0, epoch}:
        if not session.run.exists(epoch_file(number, EVALUATION)):
            measured, raw = validate(
                session.policy(number),
                session.policy(0),
                session.contexts.validation(),
                session.predictor(max(1, number)),
                truth,
                session.penalty,
                session.config.preference.lam,
                session.seed(0, 7),
                session.config.preference.quality_weight,
            )
            check_finite(measured)
            session.write_epoch_json(VALIDATION, number, raw)
            session.write_epoch_json(EVALUATION, number, measured.to_dict())
    history = history_of(session, epoch)
    check_guards(history, session.config.guards)
    now = history[-1]
    rewards = f"reward {now.learned_reward:.1f} by the click predictor"
    if now.revenue is not None and now.true_reward is not None:
        rewards = f"revenue {now.revenue:.1f}, reward {now.true_reward:.1f} (learned {now.learned_reward:.1f})"
    return f"{rewards}, {now.ads_per_answer:.2f} ads an answer, KL to base {now.kl_to_base:.1f}"


def history_of(session: Session, epoch: int) -> list[Validation]:
    """Return the validation figures of epochs 0 to `epoch`."""
    return [Validation(**session.read_epoch_json(EVALUATION, e)) for e in range(epoch + 1)]


PHASE_FUNCTIONS: dict[str, PhaseFunction] = {
    WARM_START: warm_start,
    "feedback": feedback,
    "reward_model": reward_model,
    "rollouts": rollouts,
    "pairs": pairs,
    "policy": policy,
    "evaluation": evaluation,
    TEMPERATURE: choose_temperature,
}
PHASES = tuple(name for name in PHASE_FUNCTIONS if name not in (WARM_START, TEMPERATURE))
"""Names of an epoch's phases in their order."""


def finished(session: Session, name: str, epoch: int) -> bool:
    """Return whether a phase has been published, or this process's shard of it."""
    part, run = session.part, session.run
    if name == WARM_START:
        return run.phase(BASE_PHASE).finished()
    if name == TEMPERATURE:
        return chosen_temperature(session, epoch) is not None
    if name == "rollouts":
        return run.phase(rollouts_name(part.shard, part.shards), epoch).finished()
    if name == "evaluation":
        return run.exists(epoch_file(epoch, EVALUATION))
    return run.phase(name, epoch).finished()

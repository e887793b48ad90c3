"""The phases of an epoch, each a function from what earlier phases published to one new folder of the run directory.

They read like Algorithm 1 of arXiv 2512.10551: feedback, reward update, rollouts, preference groups, preference
optimisation, evaluation. A finished phase is never repeated; every phase can be run alone.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable

import numpy as np

from inference.encoder import shared_encoder
from mechanism.errors import GuardError
from mechanism.statistics import Floats
from simulator.brands import renamed
from trainers.artifacts.records import Sampled, read_sampled, write_sampled
from trainers.irpo.feedback import judged, simulated
from trainers.irpo.guards import check_finite, check_guards
from trainers.irpo.session import BASE_PHASE, Session
from trainers.irpo.validation import Validation, validate
from trainers.irpo.warm_start import warm_start
from trainers.logs.feedback import fitted_part, take_snapshot
from trainers.optimisation.groups import tokenise, with_reference, write_groups
from trainers.optimisation.launch import run_optimisation
from trainers.optimisation.preferences import build_groups
from trainers.optimisation.worker import OptimisationJob
from trainers.reward.training import Shown, fit

ANSWERS = "answers.parquet"
GROUPS = "groups.parquet"
FIGURES = "figures.json"
SHARD_BITS = 40
"""Seeds of a run stay below 2^40; a shard's number goes above them."""
VALIDATION = "validation.json"
"""An epoch's raw answers to the validation contexts."""


def feedback(s: Session, epoch: int) -> str:
    """Deploys the current policy on training contexts and records what users clicked (D_on); or takes what served
    policies wrote and users clicked from the log."""
    if s.config.feedback.source == "shards":
        with s.run.phase("feedback", epoch).open() as folder:
            return take_snapshot(s.config.feedback, folder)
    if s.config.reward.source == "oracle":
        with s.run.phase("feedback", epoch).open() as folder:
            write_sampled(folder / ANSWERS, [])
        return "none: the oracle knows what users click"
    config, policy = s.config.feedback, s.policy(epoch - 1)
    contexts = s.contexts.training(config.contexts, epoch, 1)
    answers = policy.generate(contexts, config.answers, s.seed(epoch, 1))
    seed = s.seed(epoch, 2)
    users = judged(config.judge, seed, s.say) if config.judge else simulated(s.truth, seed)
    reported = iter(users([(c, g.answer) for c, own in zip(contexts, answers, strict=True) for g in own]))
    sampled = [
        Sampled(c, tuple(own), tuple(next(reported) for _ in own)) for c, own in zip(contexts, answers, strict=True)
    ]
    with s.run.phase("feedback", epoch).open() as folder:
        write_sampled(folder / ANSWERS, sampled)
    clicks = [hit for item in sampled for answer in item.clicks or () for hit in answer.values()]
    return f"{len(clicks)} ads shown, click rate {np.mean(clicks) if clicks else 0:.3f}"


def reward_model(s: Session, epoch: int) -> str:
    """Fits the pCTR model to the feedback of all epochs so far (Eq. 3, 4)."""
    with s.run.phase("reward_model", epoch).open() as folder:
        if s.config.reward.source == "oracle":
            (folder / FIGURES).write_text("{}", encoding="utf-8")
            return "oracle: the simulator's own probabilities"
        shown, seen = _feedback_so_far(s, epoch)
        model, quality = fit(shown, s.config.reward, shared_encoder().encode, s.seed(epoch, 3), seen)
        model.save(folder, s.config.reward)
        (folder / FIGURES).write_text(json.dumps(dataclasses.asdict(quality), indent=1), encoding="utf-8")
    return f"AUC {quality.auc:.3f}, calibration error {quality.calibration_error:.3f} on held-out feedback"


def _feedback_so_far(s: Session, epoch: int) -> tuple[list[Shown], Floats | None]:
    """Shown answers of all epochs, and the share of their clicks that can be there (None: all)."""
    if s.config.feedback.source == "shards":
        return fitted_part(*s.logged)
    shown: list[Shown] = []
    for past in range(1, epoch + 1):
        for item in read_sampled(s.run.phase("feedback", past).fetch() / ANSWERS):
            pairs = zip(item.generations, item.clicks or (), strict=True)
            shown += [(item.context, g.answer, dict(c)) for g, c in pairs]
    return shown, None


def rollouts(s: Session, epoch: int) -> str:
    """Samples M answers to each context from the current policy; propensities are recorded with them.

    One shard of several answers every so manieth context, in a folder of its own; later they are put together.
    """
    if s.part.shards > 1 and s.part.shard is None:
        return _merged_rollouts(s, epoch)
    config, policy = s.config.rollout, s.policy(epoch - 1)
    shard = s.part.shard or 0
    contexts = s.contexts.training(config.contexts, epoch, 4)
    if config.new_titles:
        rng = np.random.default_rng(s.seed(epoch, 8))
        # some of the offers or all: new titles have to win against known ones, too
        contexts = [renamed(c, rng, rng.random()) if rng.random() < config.new_titles else c for c in contexts]
    # before they are divided, so that a context has the same offers however many shards there are
    contexts = contexts[shard :: s.part.shards]
    seed = s.seed(epoch, 4) + (shard << SHARD_BITS)
    answers = policy.generate(contexts, config.samples, seed, s.sampling(policy))
    with s.run.phase(rollouts_name(s.part.shard, s.part.shards), epoch).open() as folder:
        count = write_sampled(
            folder / ANSWERS, [Sampled(c, tuple(own)) for c, own in zip(contexts, answers, strict=True)]
        )
    faults = sum(len(g.answer.faults) for own in answers for g in own)
    return f"{count} answers to {len(contexts)} contexts, {faults} invalid insertions"


def _merged_rollouts(s: Session, epoch: int) -> str:
    """Puts the shards' answers together, in the order of the contexts."""
    shards = [
        read_sampled(s.run.phase(rollouts_name(number, s.part.shards), epoch).fetch() / ANSWERS)
        for number in range(s.part.shards)
    ]
    count = sum(len(shard) for shard in shards)
    sampled = [shards[i % len(shards)][i // len(shards)] for i in range(count)]
    with s.run.phase("rollouts", epoch).open() as folder:
        answers = write_sampled(folder / ANSWERS, sampled)
    return f"{answers} answers to {count} contexts from {len(shards)} shards"


def rollouts_name(shard: int | None, shards: int) -> str:
    """Name of the phase that holds the rollouts, or one shard of them."""
    return "rollouts" if shard is None else f"rollouts-{shard}-of-{shards}"


def pairs(s: Session, epoch: int) -> str:
    """Scores the rollouts (Eq. 5), picks winners and losers, and notes what the reference policy thinks of them."""
    sampled = read_sampled(s.run.phase("rollouts", epoch).fetch() / ANSWERS)
    flat = [(item.context, g.answer) for item in sampled for g in item.generations]
    scored = iter(s.predictor(epoch).probabilities(flat))
    ctr = [[next(scored) for _ in item.generations] for item in sampled]
    rng = np.random.default_rng(s.seed(epoch, 5))
    groups = build_groups(sampled, ctr, s.config.preference, s.penalty, rng, s.contexts.redraw)
    if not groups:
        raise GuardError(
            "no_pairs",
            "no answer beats another by more than preference.delta; lower it, or raise rollout.samples",
            {"answers": float(len(flat)), "delta": s.config.preference.delta},
        )
    reference = s.reference(0 if s.config.optimisation.reference == "base" else epoch - 1)
    with s.run.phase("pairs", epoch).open() as folder:
        precise = s.config.optimisation.precision == "float32"
        tokens = tokenise(reference, groups, sampled, whole=not s.config.optimisation.shared_prefix)
        write_groups(folder / GROUPS, with_reference(reference, tokens, precise=precise))
    count = sum(len(g.losers) for g in groups)
    return f"{count} pairs in {len(groups)} groups, mean reward {np.mean([r for g in groups for r in g.rewards]):.1f}"


def policy(s: Session, epoch: int) -> str:
    """Direct preference optimisation on the groups (Eq. 6)."""
    phase = s.run.phase("policy", epoch)
    with phase.open() as folder:
        job = _optimisation(s, epoch, str(folder))
        trajectory = run_optimisation(job, lambda step, steps, figures: s.step(step, steps, figures["loss"]), s.part)
    tail = trajectory[-max(1, len(trajectory) // 10) :]
    loss = float(np.mean([t["loss"] for t in tail]))
    accuracy = float(np.mean([t.get("rewards/accuracies", 0.0) for t in tail]))
    return f"loss {loss:.3f}, pairs ranked right {accuracy:.2f}"


def policy_with_others(s: Session, epoch: int) -> str:
    """The same on a node that is not the first: it computes with the others, and the first one publishes."""
    with tempfile.TemporaryDirectory() as folder:
        run_optimisation(_optimisation(s, epoch, folder), lambda *_: None, s.part)
    return f"node {s.part.node} of {s.part.nodes} has done its share"


def _optimisation(s: Session, epoch: int, out: str) -> OptimisationJob:
    return OptimisationJob(
        policy=s.policy_source(epoch - 1),
        groups=str(s.run.phase("pairs", epoch).fetch() / GROUPS),
        out=out,
        checkpoints=str(s.run.phase("policy", epoch).scratch("checkpoints")),
        seed=s.seed(epoch, 6),
        config=s.config.optimisation.at_epoch(epoch),
    )


def evaluation(s: Session, epoch: int) -> str:
    """Validation figures of the epoch's policy, then the guards; epoch 0 measures the base with the first model."""
    truth = None if s.config.feedback.source == "shards" else s.truth
    for number in {0, epoch}:
        file = f"epoch-{number:03d}/evaluation.json"
        if not s.run.exists(file):
            measured, raw = validate(
                s.policy(number),
                s.policy(0),
                s.contexts.validation(),
                s.predictor(max(1, number)),
                truth,
                s.penalty,
                s.config.preference.lam,
                s.seed(0, 7),
            )
            check_finite(measured)
            s.run.write_json(f"epoch-{number:03d}/{VALIDATION}", raw)
            s.run.write_json(file, measured.to_dict())
    history = history_of(s, epoch)
    check_guards(history, s.config.guards)
    now = history[-1]
    told = f"reward {now.learned_reward:.1f} by the click predictor"
    if now.revenue is not None and now.true_reward is not None:
        told = f"revenue {now.revenue:.1f}, reward {now.true_reward:.1f} (learned {now.learned_reward:.1f})"
    return f"{told}, {now.ads_per_answer:.2f} ads an answer, KL to base {now.kl_to_base:.1f}"


def history_of(s: Session, epoch: int) -> list[Validation]:
    """Validation figures of epochs 0 to `epoch`."""
    return [Validation(**s.figures("evaluation.json", e)) for e in range(epoch + 1)]


def warm(s: Session) -> str:
    """The optional supervised warm start of the base model."""
    assert s.config.warm_start is not None
    with s.run.phase(BASE_PHASE).open() as folder:
        loss = warm_start(s, folder)
    return f"loss {loss:.3f} nats a token"


PHASES: dict[str, Callable[[Session, int], str]] = {
    "feedback": feedback,
    "reward_model": reward_model,
    "rollouts": rollouts,
    "pairs": pairs,
    "policy": policy,
    "evaluation": evaluation,
}


def finished(s: Session, name: str, epoch: int) -> bool:
    """Whether a phase has been published, or this process's shard of it."""
    if name == "rollouts":
        return bool(s.run.phase(rollouts_name(s.part.shard, s.part.shards), epoch).finished())
    if name == "evaluation":
        return bool(s.run.exists(f"epoch-{epoch:03d}/evaluation.json"))
    return bool(s.run.phase(name, epoch).finished())

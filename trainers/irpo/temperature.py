"""The sampling temperature that the best epoch's policy is served at.

It is the temperature of `evaluation.temperatures` with the highest learned reward on validation contexts (baselines
are tuned as well); training samples at the configured one. No temperature removes a candidate: each keeps a propensity.
"""

from __future__ import annotations

from dataclasses import replace

from inference.models import LoadedModel
from inference.policy import Policy
from trainers.irpo.quality_term import weighted_qualities
from trainers.irpo.session import Session
from trainers.irpo.validation import mean_reward

SAMPLING = "sampling.json"
"""The measured epoch, the temperature chosen for it, and the learned reward of each temperature."""


def choose_temperature(session: Session, epoch: int) -> str:
    """Measure every temperature on the epoch's policy and write the best one to SAMPLING."""
    policy, contexts, run = session.policy(epoch), session.contexts.validation(), session.run
    fitted = [e for e in range(1, session.config.epochs + 1) if run.phase("reward_model", e).finished()]
    predictor, weights = session.predictor(max(fitted)), session.config.preference
    rewards: dict[float, float] = {}
    for temperature in session.config.evaluation.temperatures:
        drawn = policy.generate(contexts, 1, session.seed(0, 9), replace(policy.sampling, temperature=temperature))
        pairs = [(c, own[0].answer) for c, own in zip(contexts, drawn, strict=True)]
        written = [(c, own[0].answer, own[0].finished) for c, own in zip(contexts, drawn, strict=True)]
        qualities = weighted_qualities(written, weights.quality_weight)
        rewards[temperature] = mean_reward(
            pairs, predictor.probabilities(pairs), qualities, session.penalty, weights.lam, weights.quality_weight
        )
    best = max(rewards, key=lambda t: rewards[t])
    run.write_json(SAMPLING, {"epoch": epoch, "temperature": best, "rewards": {str(t): r for t, r in rewards.items()}})
    return ", ".join(f"{t:g}: {r:.1f}" for t, r in rewards.items()) + f"; served at {best:g}"


def chosen_temperature(session: Session, epoch: int) -> float | None:
    """Return the temperature chosen for an epoch's policy, None before it is chosen."""
    if not session.run.exists(SAMPLING):
        return None
    chosen = session.run.read_json(SAMPLING)
    return float(chosen["temperature"]) if chosen["epoch"] == epoch else None


def served_policy(session: Session, epoch: int) -> Policy:
    """Return an epoch's policy with the sampling settings that it is served with."""
    policy, temperature = session.policy(epoch), chosen_temperature(session, epoch)
    if temperature is None:
        return policy
    sampling = replace(policy.sampling, temperature=temperature)
    return Policy(LoadedModel(policy.model, policy.tokenizer, policy.prompt_settings, sampling, policy.opener))

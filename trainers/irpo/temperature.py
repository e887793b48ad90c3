"""How the best epoch's policy draws its answers once it is served: the temperature that earned the highest learned
reward on validation contexts, as a rival may choose its own. Training itself draws as it is configured to.

No temperature cuts a candidate off: every one keeps a propensity.
"""

from __future__ import annotations

from inference.models import LoadedModel
from inference.policy import Policy
from mechanism.objective import reward
from trainers.irpo.session import Session

SAMPLING = "sampling.json"
"""Which epoch was tried, the temperature chosen for it, and the learned reward of each."""


def choose_temperature(s: Session, epoch: int) -> str:
    """Tries the temperatures of `evaluation.temperatures` on the epoch's policy and writes down the best."""
    policy, contexts = s.policy(epoch), s.contexts.validation()
    predictor = s.predictor(max(e for e in range(1, s.config.epochs + 1) if s.run.phase("reward_model", e).finished()))
    lam, rewards = s.config.preference.lam, dict[float, float]()
    for temperature in s.config.evaluation.temperatures:
        drawn = policy.generate(contexts, 1, s.seed(0, 9), policy.with_sampling(temperature=temperature))
        pairs = [(c, own[0].answer) for c, own in zip(contexts, drawn, strict=True)]
        scored = zip(pairs, predictor.probabilities(pairs), strict=True)
        rewards[temperature] = sum(reward(a, c.bids(), p, s.penalty, lam) for (c, a), p in scored) / len(contexts)
    best = max(rewards, key=lambda t: rewards[t])
    s.run.write_json(
        SAMPLING, {"epoch": epoch, "temperature": best, "rewards": {str(t): r for t, r in rewards.items()}}
    )
    return ", ".join(f"{t:g}: {r:.1f}" for t, r in rewards.items()) + f"; served at {best:g}"


def chosen_for(s: Session, epoch: int) -> float | None:
    """The temperature chosen for an epoch's policy, None where none was."""
    if not s.run.exists(SAMPLING):
        return None
    noted = s.run.read_json(SAMPLING)
    return float(noted["temperature"]) if noted["epoch"] == epoch else None


def served(s: Session, epoch: int) -> Policy:
    """The policy of an epoch as it is served."""
    policy, temperature = s.policy(epoch), chosen_for(s, epoch)
    if temperature is None:
        return policy
    sampling = policy.with_sampling(temperature=temperature)
    return Policy(LoadedModel(policy.model, policy.tokenizer, policy.prompt_settings, sampling))

"""The gates of an epoch that was trained on a log: measured once against the model that wrote the log, then kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from inference.policy import Policy
from trainers.artifacts.registry import ModelEntry
from trainers.config import GateSettings
from trainers.gates.decision import Decision, decide
from trainers.gates.measure import HeldOut, Models, measure
from trainers.irpo.session import Session
from trainers.logs.answers import LoggedAnswer
from trainers.retraining.observation import serving_predictor

GATES = "gates.json"
EPOCH = 1
"""A log is that of one policy, so a run on it has one epoch."""
FEW_ANSWERS = 100
"""Of fewer newest answers the gates look further back."""


def gate(
    s: Session,
    serving: ModelEntry,
    base: Path,
    settings: GateSettings,
    newest_since: datetime | None,
    say: Callable[[str], None],
) -> Decision:
    """The decision on a run from `serving`, whose files are at `base`. The gates read the part of the log that was held
    out; the click predictor is judged on answers after `newest_since`, where there are enough."""
    if s.run.exists(GATES):
        return Decision.from_dict(s.run.read_json(GATES))
    answers, seen = s.logged
    held = [i for i, a in enumerate(answers) if a.held_out]
    kept = [answers[i] for i in held]
    policy = Policy.load(str(base), s.sampling_dtype)
    models = Models(
        policy,
        frozenset({serving.digest, policy.digest}),
        s.policy(EPOCH),
        s.predictor(EPOCH),
        serving_predictor(serving),
    )
    held_out = HeldOut(kept, seen[held], _newest(kept, newest_since, serving.log_until))
    figures = measure(models, held_out, s.penalty, s.config.preference.lam, settings, s.seed(EPOCH, 8), say)
    before, after = (s.figures("evaluation.json", e)["learned_reward"] for e in (0, EPOCH))
    decision = decide(replace(figures, learned_reward=(before, after)), settings)
    s.run.write_json(GATES, decision.to_dict())
    return decision


def _newest(answers: Sequence[LoggedAnswer], *since: datetime | None) -> list[bool]:
    """Which answers are the newest: after the first of these moments that leaves enough of them, else all."""
    for moment in since:
        if moment is not None:
            newest = [a.answered_at >= moment for a in answers]
            if sum(newest) >= FEW_ANSWERS:
                return newest
    return [True] * len(answers)

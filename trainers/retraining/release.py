"""The last steps of a run: the gates' decision on a model trained on a log, and its entry in the model registry."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from inference.models import write_policy_settings
from inference.policy import Policy
from mechanism.errors import ConfigError, GuardError
from trainers.artifacts.registry import ModelEntry, Registry, Status
from trainers.artifacts.run_directory import EVALUATION
from trainers.config import GateSettings
from trainers.gates.decision import Decision, decide
from trainers.gates.measure import HeldOut, Models, measure
from trainers.irpo.loop import best_epoch
from trainers.irpo.session import Session
from trainers.irpo.temperature import served_policy
from trainers.logs.answers import LoggedAnswer
from trainers.retraining.observation import serving_predictor

GATES = "gates.json"
REGISTERED = "registered.json"
EPOCH = 1
"""The epoch of a run on a log: a log is written by one policy, so such a run has one epoch."""
MIN_NEWEST = 100
"""With fewer answers since the last training the gates read older ones as well."""


def gate(
    session: Session,
    serving: ModelEntry,
    base: Path,
    settings: GateSettings,
    newest_since: datetime | None,
    report: Callable[[str], None],
) -> Decision:
    """Decide on a run that started from `serving` (its files are at `base`); the decision is kept in GATES.

    The gates read the held-out part of the log; the click predictor is judged on answers after `newest_since`, where
    there are enough of them.
    """
    if session.run.exists(GATES):
        return Decision.from_dict(session.run.read_json(GATES))
    answers, seen = session.logged
    rows = [i for i, a in enumerate(answers) if a.held_out]
    held_out = [answers[i] for i in rows]
    policy = Policy.load(str(base), session.sampling_dtype)
    models = Models(
        policy,
        frozenset({serving.digest, policy.digest}),
        session.policy(EPOCH),
        session.predictor(EPOCH),
        serving_predictor(serving),
    )
    figures = measure(
        models,
        HeldOut(held_out, seen[rows], _newest(held_out, newest_since, serving.log_until)),
        session.penalty,
        session.config.preference.lam,
        settings,
        session.seed(EPOCH, 8),
        report,
    )
    before, after = (session.read_epoch_json(EVALUATION, e)["learned_reward"] for e in (0, EPOCH))
    decision = decide(replace(figures, learned_reward=(before, after)), settings)
    session.run.write_json(GATES, decision.to_dict())
    return decision


def _newest(answers: Sequence[LoggedAnswer], *since: datetime | None) -> list[bool]:
    """Flag the answers after the first of the moments that leaves MIN_NEWEST of them, else all."""
    for moment in since:
        if moment is not None:
            newest = [a.answered_at >= moment for a in answers]
            if sum(newest) >= MIN_NEWEST:
                return newest
    return [True] * len(answers)


def registry_of(run_url: str) -> Registry:
    """Return the registry beside a run: `runs/quick` is registered in `runs/models/`."""
    parent = run_url.rstrip("/").rpartition("/")[0]
    return Registry(parent or ".")


def register_best(
    session: Session, gates: GateSettings | None = None, report: Callable[[str], None] = lambda text: None
) -> ModelEntry:
    """Register the run's best epoch once; a later call returns the same entry.

    With `gates`, which read the log that the run learned from, the entry is a candidate or refused and holds their
    decision; ConfigError for a run without a log, or one whose base is not in the registry beside it.

    Raises:
        GuardError: if no epoch is better than the base.
    """
    registry = registry_of(session.run.url)
    best = best_epoch(session)
    if session.run.exists(REGISTERED):
        registered = session.run.read_json(REGISTERED)
        if registered["epoch"] == best:
            return registry.get(registered["version"])
    if best == 0:
        message = "no epoch of this run is better than its base model; nothing is registered"
        raise GuardError("no_gain", message, {"epochs": float(session.config.epochs)})
    parent = decision = None
    if gates is not None:
        parent, folder = _log_writer(session, registry)
        decision = gate(session, parent, folder, gates, session.config.feedback.since, report)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "policy"
        shutil.copytree(session.run.phase("policy", best).fetch(), folder)
        policy = served_policy(session, best)
        write_policy_settings(folder, policy.settings)
        entry = registry.register(
            folder,
            base=parent.base if parent else session.config.base,
            parent=parent.version if parent else None,
            run=session.run.url,
            epoch=best,
            status=status_of(decision),
            log_until=session.config.feedback.until,
            gates=decision.to_dict() if decision else None,
            metrics=dict(session.read_epoch_json(EVALUATION, best)),
            notes=f"configuration {session.config.name}, {session.config.reward.source} rewards",
        )
    session.run.write_json(REGISTERED, {"epoch": best, "version": entry.version})
    return entry


def status_of(decision: Decision | None) -> Status:
    """Return the registry status that the gates' decision gives a model."""
    if decision is None:
        return "trained"
    return "candidate" if decision.promote else "refused"


def _log_writer(session: Session, registry: Registry) -> tuple[ModelEntry, Path]:
    """Return the registered model that the run started from and that wrote its log, and its folder.

    Raises:
        ConfigError: if the run has no log, or its base is not in the registry beside it.
    """
    if session.config.feedback.source != "lake":
        raise ConfigError("gates", session.config.feedback.source, "gates read a log: set feedback.source to lake")
    base = Path(session.base)
    entry = next((entry for entry in registry.list() if entry.version == base.name), None)
    if entry is not None:
        folder = registry.fetch(entry.version)
        if folder.resolve() == base.resolve():
            return entry, folder
    remedy = f"with gates it has to be the folder of a version in {registry.url}/models: that model wrote the log"
    raise ConfigError("base", session.config.base, remedy)

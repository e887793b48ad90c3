"""The last step of a run: its best epoch becomes an entry of the model registry beside the run directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from inference.policy import write_policy_settings
from mechanism.errors import ConfigError, GuardError
from trainers.artifacts.registry import ModelEntry, Registry, Status
from trainers.config import GateSettings
from trainers.gates.decision import Decision
from trainers.irpo.loop import best_epoch
from trainers.irpo.session import Session
from trainers.irpo.temperature import served
from trainers.retraining.gating import gate

REGISTERED = "registered.json"


def registry_of(run_url: str) -> Registry:
    """The registry beside a run: `runs/quick` is registered in `runs/models/`."""
    parent = run_url.rstrip("/").rpartition("/")[0]
    return Registry(parent or ".")


def register_best(
    s: Session, gates: GateSettings | None = None, say: Callable[[str], None] = lambda text: None
) -> ModelEntry:
    """Registers the run's best epoch once; asked again, returns the entry that is there. With `gates`, which read the
    log that the run learned from, the entry is a candidate or refused, and holds their decision.

    GuardError where no epoch is better than the base: there is nothing to release. ConfigError for gates of a run that
    has no log, or whose base is no version of the registry beside it.
    """
    registry = registry_of(s.run.url)
    best = best_epoch(s)
    if s.run.exists(REGISTERED):
        noted = s.run.read_json(REGISTERED)
        if noted["epoch"] == best:
            return registry.get(noted["version"])
    if best == 0:
        message = "no epoch of this run is better than its base model; nothing is registered"
        raise GuardError("no_gain", message, {"epochs": float(s.config.epochs)})
    parent = decision = None
    if gates is not None:
        parent, folder = _log_writer(s, registry)
        decision = gate(s, parent, folder, gates, s.config.feedback.since, say)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "policy"
        shutil.copytree(s.run.phase("policy", best).fetch(), folder)
        policy = served(s, best)
        write_policy_settings(folder, policy.prompt_settings, policy.sampling)
        entry = registry.register(
            folder,
            base=parent.base if parent else s.config.base,
            parent=parent.version if parent else None,
            run=s.run.url,
            epoch=best,
            status=_status(decision),
            log_until=s.config.feedback.until,
            gates=decision.to_dict() if decision else None,
            metrics=dict(s.figures("evaluation.json", best)),
            notes=f"configuration {s.config.name}, {s.config.reward.source} rewards",
        )
    s.run.write_json(REGISTERED, {"epoch": best, "version": entry.version})
    return entry


def _status(decision: Decision | None) -> Status:
    if decision is None:
        return "trained"
    return "candidate" if decision.promote else "refused"


def _log_writer(s: Session, registry: Registry) -> tuple[ModelEntry, Path]:
    """The registered model that the run began from, which wrote its log, and where its files are."""
    if s.config.feedback.source != "shards":
        raise ConfigError("gates", s.config.feedback.source, "gates read a log: set feedback.source to shards")
    base = Path(s.base)
    entry = next((entry for entry in registry.list() if entry.version == base.name), None)
    if entry is not None:
        folder = registry.fetch(entry.version)
        if folder.resolve() == base.resolve():
            return entry, folder
    remedy = f"with gates it has to be the folder of a version in {registry.url}/models: that model wrote the log"
    raise ConfigError("base", s.config.base, remedy)

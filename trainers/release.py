"""The last step of a run: its best epoch becomes an entry of the model registry beside the run directory."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from inference.policy import write_policy_settings
from mechanism.errors import GuardError
from trainers.irpo import best_epoch
from trainers.registry import ModelEntry, Registry
from trainers.served import served
from trainers.session import Session

REGISTERED = "registered.json"


def registry_of(run_url: str) -> Registry:
    """The registry beside a run: `runs/quick` is registered in `runs/models/`."""
    parent = run_url.rstrip("/").rpartition("/")[0]
    return Registry(parent or ".")


def register_best(s: Session) -> ModelEntry:
    """Registers the run's best epoch once; asked again, returns the entry that is there.

    GuardError where no epoch is better than the base: there is nothing to release.
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
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "policy"
        shutil.copytree(s.run.phase("policy", best).fetch(), folder)
        policy = served(s, best)
        write_policy_settings(folder, policy.prompt_settings, policy.sampling)
        entry = registry.register(
            folder,
            base=s.config.base,
            run=s.run.url,
            epoch=best,
            metrics=dict(s.figures("evaluation.json", best)),
            notes=f"configuration {s.config.name}, {s.config.reward.source} rewards",
        )
    s.run.write_json(REGISTERED, {"epoch": best, "version": entry.version})
    return entry

"""One retraining: an epoch from the serving model on its log, the gates, and the entry in the registry.

Killed at any moment, the same call goes on where it was: what began is written down first, the phases are those of a
run directory, the gates' decision is kept beside them, and a model is registered once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mechanism.errors import GuardError, InputError
from trainers.artifacts.registry import ModelEntry, Registry
from trainers.config import RetrainConfig, dump_config
from trainers.gates.decision import Decision, Gate
from trainers.irpo.loop import train
from trainers.irpo.phases import FIGURES
from trainers.irpo.session import Session
from trainers.logs.feedback import ABOUT
from trainers.retraining.attempts import Attempt, Attempts, Begun, Ended, new_since
from trainers.retraining.gating import EPOCH, gate

Say = Callable[[str], None]
Step = Callable[[int, int, float], None]


@dataclass(frozen=True, slots=True)
class RetrainOutcome:
    """What came of it. `entry` is the registered model, a candidate or refused; None where a guard stopped the
    training before there was one. `run` is the run directory's URL."""

    entry: ModelEntry | None
    decision: Decision
    run: str

    @property
    def promote(self) -> bool:
        """Whether the model may serve."""
        return self.entry is not None and self.decision.promote


def retrain(
    config: RetrainConfig,
    shards: str,
    registry: Registry,
    serving: str,
    workdir: str | Path,
    say: Say,
    *,
    reason: str = "asked for",
    now: datetime | None = None,
    step: Step = lambda done, total, loss: None,
) -> RetrainOutcome:
    """Trains one epoch from version `serving` of `registry` on the log at `shards`, asks the gates and registers the
    result. One at a time in a `workdir` (folder or URL, which keeps the runs); an unfinished one goes on.

    The log is read up to `now`. Raises InputError where it holds too little, or another process is at work there.
    """
    attempts = Attempts(workdir)
    with attempts.alone():
        entry = registry.get(serving)
        moment = now or datetime.now(UTC)
        attempt = attempts.unfinished(entry.version)
        if attempt is None:
            _abandon(attempts, moment)
            attempt = attempts.begin(_begun(config, shards, entry, attempts, moment, reason))
        else:
            say(f"going on with {attempt.run.url}, begun at {attempt.begun.begun_at:%Y-%m-%d %H:%M:%S%z}")
        return _carry_out(attempt, registry, entry, say, step, moment)


def _begun(
    config: RetrainConfig, shards: str, serving: ModelEntry, attempts: Attempts, now: datetime, reason: str
) -> Begun:
    hours = config.log.max_age_hours
    return Begun(
        serving=serving.version,
        begun_at=now,
        shards=shards,
        log_since=now - timedelta(hours=hours) if hours is not None else None,
        log_until=now,
        newest_since=new_since(attempts, serving.log_until),
        reason=reason,
        config=config,
    )


def _abandon(attempts: Attempts, now: datetime) -> None:
    """Ends what was begun from a version that does not serve any more."""
    for attempt in attempts.all():
        if attempt.ended is None:
            stopped = f"abandoned: {attempt.begun.serving} was replaced before it ended"
            attempt.end(Ended(ended_at=now, version=None, promote=False, reasons=(stopped,), stopped=stopped))


def _carry_out(
    attempt: Attempt, registry: Registry, serving: ModelEntry, say: Say, step: Step, now: datetime
) -> RetrainOutcome:
    begun, run = attempt.begun, attempt.run
    base = registry.fetch(serving.version)
    config = begun.config.run(
        str(base), begun.shards, begun.config.seed + attempt.number, begun.log_since, begun.log_until
    )
    run.create(dump_config(config), resume=True)
    session = Session(config, run, say, step)
    stopped: GuardError | None = None
    try:
        train(session, lambda name, _: say(name), lambda name, _, found, s: say(f"{name}: {found} ({s:.0f} s)"))
    except GuardError as error:
        stopped = error
    except InputError as error:
        if not run.phase("feedback", EPOCH).finished():
            # nothing of the log was used: more of it, read later, may do
            attempt.end(
                Ended(ended_at=now, version=None, promote=False, reasons=(str(error),), stopped=str(error), read=False)
            )
        raise
    if stopped:
        decision = _stopped(stopped, begun.config)
    else:
        decision = gate(session, serving, base, begun.config.gates, begun.newest_since, say)
    entry = _registered(session, registry, serving, begun, decision)
    attempt.end(
        Ended(
            ended_at=now,
            version=entry.version if entry else None,
            promote=bool(entry) and decision.promote,
            reasons=decision.reasons,
            stopped=str(stopped) if stopped else None,
        )
    )
    return RetrainOutcome(entry, decision, run.url)


def _stopped(error: GuardError, config: RetrainConfig) -> Decision:
    """The decision where a guard stopped the training: nothing else was measured."""
    return Decision((Gate("training_guard", "failed", str(error), dict(error.evidence), {}),), config.gates)


def _registered(
    s: Session, registry: Registry, serving: ModelEntry, begun: Begun, decision: Decision
) -> ModelEntry | None:
    """The model's entry, made once; None where the training ended before there was a model."""
    phase = s.run.phase("policy", EPOCH)
    if not phase.finished():
        return None
    for entry in registry.list():
        if (entry.run, entry.epoch) == (s.run.url, EPOCH):
            return entry
    return registry.register(
        phase.fetch(),
        base=serving.base,
        parent=serving.version,
        run=s.run.url,
        epoch=EPOCH,
        status="candidate" if decision.promote else "refused",
        log_until=begun.log_until,
        metrics=_metrics(s),
        gates=decision.to_dict(),
        notes=f"retrained from logs: {begun.reason}",
    )


def _metrics(s: Session) -> Mapping[str, Any]:
    """Figures of validation, of the click predictor and of the log."""
    file = f"epoch-{EPOCH:03d}/evaluation.json"
    figures = dict(s.run.read_json(file)) if s.run.exists(file) else {}
    fitted = json.loads((s.run.phase("reward_model", EPOCH).fetch() / FIGURES).read_text("utf-8"))
    log = json.loads((s.run.phase("feedback", EPOCH).fetch() / ABOUT).read_text("utf-8"))
    return {**figures, "click_predictor": {k: v for k, v in fitted.items() if k != "curve"}, "log": log}

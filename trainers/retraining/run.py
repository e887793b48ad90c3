"""One retraining: an epoch from the serving model on its log, the gates, and the entry in the registry.

A killed retraining continues when the same call is made again: what began is written first, the phases are those of a
run directory, the gates' decision is kept beside them, and a model is registered once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mechanism.errors import GuardError, InputError
from trainers.artifacts.registry import ModelEntry, Registry
from trainers.artifacts.run_directory import EVALUATION, RunDirectory, epoch_file
from trainers.config import RetrainConfig, dump_config
from trainers.gates.decision import Decision, Gate
from trainers.irpo.loop import train
from trainers.irpo.phases import FIGURES
from trainers.irpo.session import Progress, Session
from trainers.logs.snapshot import ABOUT
from trainers.retraining.attempts import Attempt, Attempts, Begun, Ended, new_since
from trainers.retraining.release import EPOCH, gate, status_of

Report = Callable[[str], None]
Step = Callable[[int, int, float], None]


@dataclass(frozen=True, slots=True)
class RetrainOutcome:
    """The result of a retraining.

    `entry` is the registered model, a candidate or refused; None where a guard stopped the training before there was a
    model. `run` is the run directory's URL.
    """

    entry: ModelEntry | None
    decision: Decision
    run: str

    @property
    def promote(self) -> bool:
        """Whether the model may serve."""
        return self.entry is not None and self.decision.promote


def retrain(
    config: RetrainConfig,
    lake: str,
    registry: Registry,
    serving: str,
    workdir: str | Path,
    report: Report,
    *,
    reason: str = "requested",
    now: datetime | None = None,
    step: Step = lambda done, total, loss: None,
) -> RetrainOutcome:
    """Train one epoch from version `serving` of `registry` on the log in `lake`, apply the gates, and register it.

    The log is read up to `now`. `workdir` (a folder or URL) keeps the runs, one process at a time; an unfinished
    retraining there is continued. InputError where the log holds too little or another process works in `workdir`.
    """
    attempts = Attempts(workdir)
    with attempts.lock():
        entry = registry.get(serving)
        moment = now or datetime.now(UTC)
        attempt = attempts.unfinished(entry.version)
        if attempt is None:
            _abandon(attempts, moment)
            attempt = attempts.begin(_begun(config, lake, entry, attempts, moment, reason))
        else:
            report(f"resuming {attempt.run.url}, started at {attempt.begun.begun_at:%Y-%m-%d %H:%M:%S%z}")
        return _carry_out(attempt, registry, entry, report, step, moment)


def _begun(
    config: RetrainConfig, lake: str, serving: ModelEntry, attempts: Attempts, now: datetime, reason: str
) -> Begun:
    hours = config.log.max_age_hours
    return Begun(
        serving=serving.version,
        begun_at=now,
        lake=lake,
        log_since=now - timedelta(hours=hours) if hours is not None else None,
        log_until=now,
        newest_since=new_since(attempts, serving.log_until),
        reason=reason,
        config=config,
    )


def _abandon(attempts: Attempts, now: datetime) -> None:
    """End unfinished attempts that started from a version that no longer serves."""
    for attempt in attempts.all():
        if attempt.ended is None:
            stopped = f"abandoned: {attempt.begun.serving} was replaced before it ended"
            attempt.end(Ended(ended_at=now, version=None, promote=False, reasons=(stopped,), stopped=stopped))


def _carry_out(
    attempt: Attempt, registry: Registry, serving: ModelEntry, report: Report, step: Step, now: datetime
) -> RetrainOutcome:
    begun, run = attempt.begun, attempt.run
    base = registry.fetch(serving.version)
    config = begun.config.run(
        str(base), begun.lake, begun.config.seed + attempt.number, begun.log_since, begun.log_until
    )
    run.create(dump_config(config), resume=True)
    progress = Progress(
        report=report,
        step=step,
        begin=lambda phase, _: report(phase),
        end=lambda phase, _, result, seconds: report(f"{phase}: {result} ({seconds:.0f} s)"),
    )
    session = Session(config, run, progress)
    stopped: GuardError | None = None
    try:
        train(session)
    except GuardError as error:
        stopped = error
    except InputError as error:
        if not run.phase("feedback", EPOCH).finished():
            # Nothing of the log was used: a later attempt with more of it may succeed.
            attempt.end(
                Ended(ended_at=now, version=None, promote=False, reasons=(str(error),), stopped=str(error), read=False)
            )
        raise
    if stopped:
        decision = _stopped(stopped, begun.config)
    else:
        decision = gate(session, serving, base, begun.config.gates, begun.newest_since, report)
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
    """Return the decision of a training that a guard stopped: nothing else was measured."""
    return Decision((Gate("training_guard", "failed", str(error), dict(error.evidence), {}),), config.gates)


def _registered(
    session: Session, registry: Registry, serving: ModelEntry, begun: Begun, decision: Decision
) -> ModelEntry | None:
    """Return the model's entry, registered once; None where the training ended before there was a model."""
    phase = session.run.phase("policy", EPOCH)
    if not phase.finished():
        return None
    for entry in registry.list():
        if (entry.run, entry.epoch) == (session.run.url, EPOCH):
            return entry
    return registry.register(
        phase.fetch(),
        base=serving.base,
        parent=serving.version,
        run=session.run.url,
        epoch=EPOCH,
        status=status_of(decision),
        log_until=begun.log_until,
        metrics=_metrics(session.run),
        gates=decision.to_dict(),
        notes=f"retrained from logs: {begun.reason}",
    )


def _metrics(run: RunDirectory) -> Mapping[str, Any]:
    """Return the figures of validation, of the click predictor and of the log."""
    file = epoch_file(EPOCH, EVALUATION)
    figures = dict(run.read_json(file)) if run.exists(file) else {}
    fitted = run.phase("reward_model", EPOCH).read_json(FIGURES)
    log = run.phase("feedback", EPOCH).read_json(ABOUT)
    return {**figures, "click_predictor": {k: v for k, v in fitted.items() if k != "curve"}, "log": log}

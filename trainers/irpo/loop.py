"""Iterative reward-preference optimisation: Algorithm 1 of arXiv 2512.10551 over resumable phases."""

from __future__ import annotations

import time
from collections.abc import Collection

from mechanism.errors import ConfigError, GuardError
from trainers.irpo.phases import (
    PHASE_FUNCTIONS,
    PHASES,
    TEMPERATURE,
    VALIDATION,
    WARM_START,
    PhaseFunction,
    finished,
    history_of,
    join_policy,
    rollouts,
)
from trainers.irpo.session import Session
from trainers.irpo.validation import check_guards, learned_reward_of

SECONDS = "seconds.json"
"""Seconds spent on finished phases, by epoch."""


def train(session: Session, only: Collection[str] = (), epoch: int | None = None) -> int:
    """Run every unfinished phase of every epoch and return the best epoch (0: the base).

    `only` and `epoch` restrict the run to some phases of one epoch. A guard stops the run with its GuardError;
    `best_epoch` then still names the last good epoch.

    Raises:
        ConfigError: if `only` names an unknown phase.
    """
    for name in only:
        if name not in PHASES:
            raise ConfigError("--phase", name, f"phases are {', '.join(PHASES)}")
    config = session.config
    with session.run.lock():
        if config.warm_start is not None:
            run_phase(session, WARM_START, 0)
        for number in range(1, config.epochs + 1) if epoch is None else [epoch]:
            for name in PHASES:
                if not only or name in only:
                    run_phase(session, name, number)
            if not only:
                # Checked again on resume: a guard may have stopped the run, or a kill may have come before it did.
                check_guards(history_of(session, number), config.guards)
        best = best_epoch(session)
        if not only and best > 0 and config.evaluation.temperatures:
            run_phase(session, TEMPERATURE, best)
    return best


def run_phase(session: Session, name: str, epoch: int) -> None:
    """Run one phase unless it is finished, and add its seconds to the run's SECONDS."""
    if finished(session, name, epoch):
        return
    seconds = timed(session, name, epoch, PHASE_FUNCTIONS[name])
    spent: dict[str, float] = session.run.read_json(SECONDS) if session.run.exists(SECONDS) else {}
    session.run.write_json(SECONDS, {**spent, str(epoch): spent.get(str(epoch), 0.0) + seconds})


def timed(session: Session, name: str, epoch: int, function: PhaseFunction) -> float:
    """Run a phase between its two progress reports and return its seconds."""
    session.progress.begin(name, epoch)
    started = time.monotonic()
    result = function(session, epoch)
    seconds = time.monotonic() - started
    session.progress.end(name, epoch, result, seconds)
    return seconds


def take_part(session: Session, only: Collection[str], epoch: int | None) -> None:
    """Run this process's part of a phase that several processes share, without holding the run's lock.

    Raises:
        ConfigError: if `only` is not the one phase that can be shared this way, or `epoch` is missing.
    """
    shared: dict[str, PhaseFunction] = {"rollouts": rollouts} if session.part.nodes == 1 else {"policy": join_policy}
    [name] = shared
    if list(only) != [name] or epoch is None:
        remedy = f"--shard and --node belong to one phase: give --phase {name} --epoch N"
        raise ConfigError("--phase", ", ".join(only), remedy)
    if not finished(session, name, epoch):
        timed(session, name, epoch, shared[name])


def best_epoch(session: Session) -> int:
    """Return the good epoch with the highest learned reward on validation contexts (0: the base).

    In production no other reward than the learned one is known. All epochs are scored by the latest click predictor,
    which was fitted to the most feedback. Epochs from the first failed guard on do not count.
    """
    good = 0
    for epoch in range(1, session.config.epochs + 1):
        if not finished(session, "evaluation", epoch):
            break
        try:
            check_guards(history_of(session, epoch), session.config.guards)
        except GuardError:
            break
        good = epoch
    if good == 0:
        return 0
    contexts, predictor, config = session.contexts.validation(), session.predictor(good), session.config.preference
    rewards = [
        learned_reward_of(
            session.read_epoch_json(VALIDATION, e),
            contexts,
            predictor,
            session.penalty,
            config.lam,
            config.quality_weight,
        )
        for e in range(good + 1)
    ]
    return rewards.index(max(rewards))

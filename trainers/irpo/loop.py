"""Iterative reward-preference optimisation: Algorithm 1 of arXiv 2512.10551 over resumable phases."""

from __future__ import annotations

import time
from collections.abc import Collection

from mechanism.errors import ConfigError, GuardError
from trainers.irpo.evaluation_phase import VALIDATION, history_of
from trainers.irpo.phases import (
    PHASE_FUNCTIONS,
    PHASES,
    SHARED,
    TEMPERATURE,
    WARM_START,
    PhaseFunction,
    finished,
    join_policy,
)
from trainers.irpo.session import Session
from trainers.irpo.shared_phases import one_at_a_time
from trainers.irpo.validation import check_guards, learned_reward_of
from trainers.optimisation.sharding import shards_of

SECONDS = "seconds.json"
"""Seconds spent on finished phases, by epoch."""


def train(session: Session, only: Collection[str] = (), epoch: int | None = None) -> int:
    """Run every unfinished phase of every epoch and return the best epoch (0: the base).

    `only` and `epoch` restrict the run to some phases of one epoch. In a session of several shards, the first phase of
    `only` that can be divided merges its shards. A guard stops the run with its GuardError; `best_epoch` then still
    names the last good epoch.

    Raises:
        ConfigError: if `only` names an unknown phase, or in a session of several shards none that can be divided.
    """
    for name in only:
        if name not in PHASES:
            raise ConfigError("--phase", name, f"phases are {', '.join(PHASES)}")
    functions = dict(PHASE_FUNCTIONS)
    if session.part.shards > 1:
        divided = next((name for name in PHASES if name in only and name in SHARED), None)
        if divided is None:
            raise ConfigError("--phase", ", ".join(only), f"--shard all/N merges a phase: {', '.join(SHARED)}")
        functions[divided] = SHARED[divided].merge
    config = session.config
    with session.run.lock():
        if config.warm_start is not None:
            run_phase(session, WARM_START, 0)
        for number in range(1, config.epochs + 1) if epoch is None else [epoch]:
            for name in PHASES:
                if not only or name in only:
                    run_phase(session, name, number, functions[name])
            if not only:
                # Checked again on resume: a guard may have stopped the run, or a kill may have come before it did.
                check_guards(history_of(session, number), config.guards)
        best = best_epoch(session)
        if not only and best > 0 and config.evaluation.temperatures:
            run_phase(session, TEMPERATURE, best)
    return best


def run_phase(session: Session, name: str, epoch: int, function: PhaseFunction | None = None) -> None:
    """Run one phase unless it is finished, and add its seconds to the run's SECONDS."""
    if not finished(session, name, epoch):
        seconds = timed(session, name, epoch, function or PHASE_FUNCTIONS[name])
        spent: dict[str, float] = session.run.read_json(SECONDS) if session.run.exists(SECONDS) else {}
        session.run.write_json(SECONDS, {**spent, str(epoch): spent.get(str(epoch), 0.0) + seconds})
    if name in SHARED:  # also where a kill came between the result and this
        SHARED[name].remove_chunks(session, epoch)


def timed(session: Session, name: str, epoch: int, function: PhaseFunction) -> float:
    """Run a phase between its two progress reports and return its seconds."""
    session.progress.begin(name, epoch)
    started = time.monotonic()
    result = function(session, epoch)
    seconds = time.monotonic() - started
    session.progress.end(name, epoch, result, seconds)
    return seconds


def take_part(session: Session, only: Collection[str], epoch: int | None) -> bool:
    """Run this process's part of a phase that several processes share, without holding the run's lock.

    Returns whether this process published the phase's result, as the last of its shards.

    Raises:
        ConfigError: if `only` is not one phase that can be shared this way, or `epoch` is missing.
    """
    part = session.part
    names = tuple(SHARED) if part.nodes == 1 else ("policy",)
    if len(only) != 1 or not set(only) <= set(names) or epoch is None:
        remedy = f"--shard and --node belong to one phase: give --epoch N and --phase with one of {', '.join(names)}"
        raise ConfigError("--phase", ", ".join(only), remedy)
    [name] = only
    if part.nodes == 1:
        return _take_shard(session, name, epoch)
    if not finished(session, name, epoch):
        timed(session, name, epoch, join_policy)
    return False


def _take_shard(session: Session, name: str, epoch: int) -> bool:
    """Run this process's shard; if it is the last one, merge all of them and return True.

    Raises:
        ConfigError: for feedback from a lake, of which one snapshot is taken.
    """
    if name == "feedback" and session.config.feedback.source == "lake":
        raise ConfigError("--shard", name, "one snapshot of the lake is taken: run the phase without --shard")
    phase, part = SHARED[name], session.part
    if session.config.warm_start is not None and not finished(session, WARM_START, 0):
        with one_at_a_time(session, WARM_START):
            if not finished(session, WARM_START, 0):
                timed(session, WARM_START, 0, PHASE_FUNCTIONS[WARM_START])
    if not finished(session, name, epoch) and not phase.shard_finished(session, epoch, part):
        timed(session, name, epoch, phase.run_shard)
    phase.remove_chunks(session, epoch, part)
    if all(phase.shard_finished(session, epoch, one) for one in shards_of(part.shards)):
        with one_at_a_time(session, f"epoch-{epoch:03d}/{name}"):
            if not finished(session, name, epoch):
                timed(session, name, epoch, phase.merge)
                return True
    return False


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

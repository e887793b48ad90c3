"""Iterative Reward-Preference Optimisation (arXiv 2512.10551, Algorithm 1): the loop over epochs and phases."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from mechanism.errors import ConfigError, GuardError
from trainers.irpo.guards import check_guards
from trainers.irpo.phases import PHASES, VALIDATION, finished, history_of, policy_with_others, rollouts, warm
from trainers.irpo.session import BASE_PHASE, Session
from trainers.irpo.temperature import choose_temperature, chosen_for
from trainers.irpo.validation import learned_reward_of

SECONDS = "seconds.json"
"""Seconds spent on finished phases, by epoch."""
Report = Callable[[str, int, str, float], None]
"""(phase, epoch, what it found, seconds) of every phase that was run."""
Begin = Callable[[str, int], None]
"""(phase, epoch) before it is run."""


def train(s: Session, begin: Begin, report: Report, only: Collection[str] = (), epoch: int | None = None) -> int:
    """Runs every unfinished phase of every epoch, or only some; returns the best epoch.

    When a guard fires, the run stops with its GuardError, and `best_epoch` still names the last good one.
    """
    for name in only:
        if name not in PHASES:
            raise ConfigError("--phase", name, f"phases are {', '.join(PHASES)}")
    with s.run.lock():
        if s.config.warm_start is not None and not s.run.phase(BASE_PHASE).finished():
            begin("warm_start", 0)
            _timed(s, "warm_start", 0, lambda: warm(s), report)
        for number in range(1, s.config.epochs + 1) if epoch is None else [epoch]:
            for name, run_phase in PHASES.items():
                if (only and name not in only) or finished(s, name, number):
                    continue
                begin(name, number)
                _timed(s, name, number, lambda f=run_phase, e=number: f(s, e), report)  # type: ignore[misc]
            if not only:
                # again, because the run may have been stopped by a guard, or killed before it could be
                check_guards(history_of(s, number), s.config.guards)
        best = best_epoch(s)
        if not only and best > 0 and s.config.evaluation.temperatures and chosen_for(s, best) is None:
            begin("temperature", best)
            _timed(s, "temperature", best, lambda: choose_temperature(s, best), report)
    return best


def take_part(s: Session, begin: Begin, report: Report, only: Collection[str], epoch: int | None) -> None:
    """This process's part of a phase that it shares with others: it does not hold the run, and finishes no epoch."""
    shared = {"rollouts": rollouts} if s.part.nodes == 1 else {"policy": policy_with_others}
    [name] = shared
    if list(only) != [name] or epoch is None:
        remedy = f"--shard and --node belong to one phase: give --phase {name} --epoch N"
        raise ConfigError("--phase", ", ".join(only), remedy)
    if finished(s, name, epoch):
        return
    begin(name, epoch)
    started = time.monotonic()
    found = shared[name](s, epoch)
    report(name, epoch, found, time.monotonic() - started)


def best_epoch(s: Session) -> int:
    """The epoch with the highest learned reward on validation contexts among the good ones (0: the base).

    The learned reward decides, because in production there is no other; all epochs are scored by the latest click
    predictor, which has seen the most. Epochs from the first guard on do not count.
    """
    good = 0
    for epoch in range(1, s.config.epochs + 1):
        if not finished(s, "evaluation", epoch):
            break
        try:
            check_guards(history_of(s, epoch), s.config.guards)
        except GuardError:
            break
        good = epoch
    if good == 0:
        return 0
    contexts, predictor, lam = s.contexts.validation(), s.predictor(good), s.config.preference.lam
    rewards = [
        learned_reward_of(s.figures(VALIDATION, e), contexts, predictor, s.penalty, lam) for e in range(good + 1)
    ]
    return rewards.index(max(rewards))


def _timed(s: Session, name: str, epoch: int, run_phase: Callable[[], str], report: Report) -> None:
    started = time.monotonic()
    found = run_phase()
    seconds = time.monotonic() - started
    spent: dict[str, float] = s.run.read_json(SECONDS) if s.run.exists(SECONDS) else {}
    s.run.write_json(SECONDS, {**spent, str(epoch): spent.get(str(epoch), 0.0) + seconds})
    report(name, epoch, found, seconds)

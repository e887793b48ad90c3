"""Iterative Reward-Preference Optimisation (arXiv 2512.10551, Algorithm 1): the loop over epochs and phases."""

from __future__ import annotations

import time
from collections.abc import Callable

from mechanism.errors import ConfigError, GuardError
from trainers.guards import check_guards
from trainers.phases import PHASES, VALIDATION, finished, history_of, warm
from trainers.session import BASE_PHASE, Session
from trainers.validation import learned_reward_of

SECONDS = "seconds.json"
"""Seconds spent on finished phases, by epoch."""
Report = Callable[[str, int, str, float], None]
"""(phase, epoch, what it found, seconds) of every phase that was run."""
Begin = Callable[[str, int], None]
"""(phase, epoch) before it is run."""


def train(s: Session, begin: Begin, report: Report, only: str | None = None, epoch: int | None = None) -> int:
    """Runs every unfinished phase of every epoch, or one phase alone; returns the best epoch.

    When a guard fires, the run stops with its GuardError, and `best_epoch` still names the last good one.
    """
    if only is not None and only not in PHASES:
        raise ConfigError("--phase", only, f"phases are {', '.join(PHASES)}")
    with s.run.lock():
        if s.config.warm_start is not None and not s.run.phase(BASE_PHASE).finished():
            begin("warm_start", 0)
            _timed(s, "warm_start", 0, lambda: warm(s), report)
        for number in range(1, s.config.epochs + 1) if epoch is None else [epoch]:
            for name, run_phase in PHASES.items():
                if only not in (None, name) or finished(s, name, number):
                    continue
                begin(name, number)
                _timed(s, name, number, lambda f=run_phase, e=number: f(s, e), report)  # type: ignore[misc]
            if only is None:
                # again, because the run may have been stopped by a guard, or killed before it could be
                check_guards(history_of(s, number), s.config.guards)
    return best_epoch(s)


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

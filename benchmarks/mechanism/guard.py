"""`make bench-guard`: how often the guard rolls identical versions back, and how often and when it finds worse ones.

Rollouts with the shipped steps and limits of an AuctionService, looked at every minute from the first traffic on. Every
decision is `mechanism.canary`'s; traffic is simulated (`benchmarks.mechanism.canaries`). Figures go to
build/bench/guard.json.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.figures import percentile, write_figures
from benchmarks.mechanism.canaries import Version, simulate
from mechanism.canary.checks import checks
from mechanism.canary.cohorts import CLICK_WINDOW_S, MINUTE_S, Cohorts, Evidence, Pair
from mechanism.canary.decision import verdicts
from mechanism.canary.limits import Limits
from mechanism.statistics import proportion_interval
from operators.auctionservice.guard import limits_of
from operators.resources.auctionservice import Guards, Rollout

RATES = (20.0, 100.0, 500.0)
"""Answers a second of both versions together."""
DELAYS_S = (0.0, 30.0, 60.0)
"""Mean seconds from an answer to its clicks."""
HORIZON = {20.0: 375, 100.0: 180, 500.0: 60}
"""Minutes for which a rollout is simulated at each rate: the steps and the patience, or what certainly suffices."""
LOSS = 0.2
STABLE = Version()
WORSE = {
    "20% less revenue": replace(STABLE, click_rate=STABLE.click_rate * (1 - LOSS)),
    "5 more in a hundred answers fail": replace(STABLE, failed=STABLE.failed + 0.05),
    "1.5 times the latency": replace(STABLE, seconds=1.5 * STABLE.seconds),
}
IDENTICAL, REGRESSION = "identical", "20% less revenue"
MAX_FALSE, MAX_MISSED = 0.01, 0.05


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is rolled out, at how many answers a second, with clicks how late."""

    name: str
    version: Version
    rate: float
    delay_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Minutes from the first traffic until each canary was rolled back or promoted; -1 for neither."""

    rolled_back: NDArray[np.int64]
    promoted: NDArray[np.int64]


def shares(minutes: int) -> NDArray[np.float64]:
    """Return the new version's share of the traffic in each minute, by the shipped steps; the last one goes on."""
    steps = Rollout().steps
    plan = [step.weight / 100 for step in steps for _ in range(step.pause_seconds // MINUTE_S)]
    return np.array((plan + [steps[-1].weight / 100] * minutes)[:minutes])


def roll_out(scenario: Scenario, canaries: int, limits: Limits, rng: np.random.Generator) -> Outcome:
    """Run rollouts until each is decided or the horizon is reached."""
    horizon = HORIZON[scenario.rate]
    share = shares(horizon)
    # an empty cohort in front stands for the time in which none is ripe
    traffic = [np.concatenate([[0.0], scenario.rate * part]) for part in (share, 1 - share)]
    new = simulate(scenario.version, traffic[0], canaries, scenario.delay_s, rng)
    old = simulate(STABLE, traffic[1], canaries, scenario.delay_s, rng)
    unripe = int(np.ceil(CLICK_WINDOW_S / MINUTE_S))
    earliest = sum(step.pause_seconds for step in Rollout().steps) // MINUTE_S
    rolled_back, promoted = (np.full(canaries, -1) for _ in range(2))
    running = np.arange(canaries)
    for minute in range(1, horizon + 1):
        sides = [_rows(side, running) for side in (new, old)]
        early, ripe = (
            Pair(*(side.first(count) for side in sides)) for count in (minute + 1, max(1, minute + 1 - unripe))
        )
        worse, safe = verdicts(checks(Evidence(early, ripe), limits), ripe.new.answers.sum(axis=-1), limits)
        rolled_back[running[worse]] = minute
        done = safe & (minute >= earliest)
        promoted[running[done]] = minute
        running = running[~(worse | done)]
        if not running.size:
            break
    return Outcome(rolled_back, promoted)


def _rows(cohorts: Cohorts, rows: NDArray[np.int64]) -> Cohorts:
    """Return the cohorts of some canaries."""
    return Cohorts(*(getattr(cohorts, name)[rows] for name in Cohorts.__dataclass_fields__))


def scenarios() -> list[Scenario]:
    """Return identical versions and lost revenue at every rate and delay, and the other regressions at every rate."""
    found = []
    for rate in RATES:
        for delay_s in DELAYS_S:
            found.append(Scenario(IDENTICAL, STABLE, rate, delay_s))
            found.append(Scenario(REGRESSION, WORSE[REGRESSION], rate, delay_s))
        found += [Scenario(name, version, rate, 30.0) for name, version in WORSE.items() if name != REGRESSION]
    return found


def figures_of(scenario: Scenario, outcome: Outcome) -> dict[str, Any]:
    """Return the figures of one scenario."""
    rolled_back, promoted = (when[when >= 0] for when in (outcome.rolled_back, outcome.promoted))
    canaries, wrong = len(outcome.promoted), len(rolled_back)
    if scenario.name != IDENTICAL:
        wrong = canaries - len(rolled_back)
    decided = promoted if scenario.name == IDENTICAL else rolled_back
    return {
        "version": scenario.name,
        "answers_per_s": scenario.rate,
        "click_delay_s": scenario.delay_s,
        "canaries": canaries,
        "rolled_back": len(rolled_back),
        "promoted": len(promoted),
        "undecided": canaries - len(rolled_back) - len(promoted),
        "wrong": wrong,
        "wrong_share": proportion_interval(wrong, canaries).to_dict(),
        "minutes_to_decide": {f"p{p}": percentile(decided.astype(float).tolist(), p) for p in (50, 95, 100)},
        "horizon_minutes": HORIZON[scenario.rate],
    }


def main(
    canaries: Annotated[int, typer.Option(help="Simulated canaries of each kind.", min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the traffic.")] = 0,
    out: Annotated[Path, typer.Option(help="File for the figures.")] = Path("build/bench/guard.json"),
) -> None:
    """Measure the guard's errors; exit status 1 if it misses a target.

    Raises:
        typer.Exit: if it misses a target.
    """
    console, began, limits = Console(width=120), time.monotonic(), limits_of(Guards())
    rows = []
    for number, scenario in enumerate(scenarios()):
        rows.append(figures_of(scenario, roll_out(scenario, canaries, limits, np.random.default_rng([seed, number]))))
    worst = {
        name: max(row["wrong"] / row["canaries"] for row in rows if row["version"] == name)
        for name in (IDENTICAL, *WORSE)
    }
    checked = {
        "identical versions rolled back in at most 1%, at every rate and delay": worst[IDENTICAL] <= MAX_FALSE,
        "20% less revenue found in at least 95%, at every rate and delay": worst[REGRESSION] <= MAX_MISSED,
    }
    figures = {
        "false_rollbacks": _share(rows, IDENTICAL),
        "missed_regressions": _share(rows, REGRESSION),
        "worst_scenario": worst,
        "limits": limits,
        "steps": [step.model_dump() for step in Rollout().steps],
        "traffic": {"stable": STABLE, "worse": WORSE},
        "scenarios": rows,
        "seed": seed,
        "seconds": time.monotonic() - began,
        "checks": checked,
        "passed": all(checked.values()),
    }
    write_figures(out, figures)
    console.print(_table(rows))
    console.print({name: "yes" if held else "NO" for name, held in checked.items()})
    if not all(checked.values()):
        raise typer.Exit(1)


def _share(rows: list[dict[str, Any]], name: str) -> dict[str, float | None]:
    """Return the share of wrong decisions over all scenarios of a kind, with its interval."""
    chosen = [row for row in rows if row["version"] == name]
    return proportion_interval(sum(row["wrong"] for row in chosen), sum(row["canaries"] for row in chosen)).to_dict()


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        "new version", "answers/s", "clicks late", "rolled back", "promoted", "undecided", "minutes p50", "p95"
    )
    for row in rows:
        minutes = row["minutes_to_decide"]
        table.add_row(
            row["version"],
            f"{row['answers_per_s']:g}",
            f"{row['click_delay_s']:g} s",
            *(str(row[name]) for name in ("rolled_back", "promoted", "undecided")),
            *("" if minutes[p] is None else f"{minutes[p]:.0f}" for p in ("p50", "p95")),
        )
    return table


if __name__ == "__main__":
    typer.run(main)

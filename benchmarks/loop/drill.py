"""`make drill-loop`: does retraining from its own log improve the model, and are bad models rejected?

Five retrainings in a row from what the simulated users were shown and clicked, each promoted if its gates pass; a sixth
from shuffled clicks, which the gates must refuse; a seventh that serves ten times slower, which the guard must roll
back. Log, judge, lake worker, tables, retraining, gates, promotion and guard are real; time is event time
(`benchmarks.loop.traffic`). Figures by version go to build/bench/loop.json.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.figures import write_figures
from benchmarks.loop.traffic import Server, Traffic, put, revenue, run_workers, shuffled
from cli.promote import routable_version
from mechanism.canary.limits import Limits
from mechanism.objective import Penalty
from mechanism.statistics import bootstrap_interval
from serving.canary.guard import GuardSettings
from serving.canary.lake_cohorts import LakeCohorts
from serving.canary.monitor import CanaryMonitor
from serving.canary.promotion_and_rollback import Change, Deployment
from streaming.embedded import EmbeddedLog
from streaming.events import AnyEvent, Interaction
from streaming.topics import all_topics
from trainers.artifacts.registry import Registry
from trainers.config import RetrainConfig, load_retraining

if TYPE_CHECKING:
    from trainers.retraining import RetrainOutcome

WINDOW = timedelta(minutes=30)
WANTED_RATIO = 1.8
RETRAININGS = 5
SLOWED = 10.0
CAUTION = 0.2
EARLY = 100
"""Answers of a new version before the guard's first check."""
LEAST = 300
"""Answers before the guard keeps a version."""
POISONED = "shuffled clicks"


@dataclass
class Drill:
    """The loop's parts in one process."""

    folder: Path
    config: RetrainConfig
    traffic: Traffic
    console: Console

    def __post_init__(self) -> None:
        self.registry = Registry(self.folder / "runs")
        self.deployment = Deployment(self.folder / "routes.json", lambda: self.traffic.now)
        self.log = new_log(self.folder / "log")
        self.lake = str(self.folder / "lake")
        self.cohorts = LakeCohorts(self.lake, WINDOW.total_seconds(), Penalty(), lambda: self.traffic.now)
        # answers are generated in batches and all quick, so that any ratio of latencies must count
        guard = GuardSettings(Limits(min_answers=LEAST, fast_s=0.0), patience_answers=LEAST)
        self.monitor = CanaryMonitor(self.deployment, self.cohorts, guard)
        self.events: list[AnyEvent] = []
        self.versions: dict[str, dict[str, Any]] = {}
        self.revenues: dict[str, list[float]] = {}

    @property
    def serving(self) -> str:
        """The version with most of the traffic."""
        version = self.deployment.serving()
        assert version is not None
        return version.name

    def start(self) -> None:
        """Register and route to the shipped base model."""
        from inference.models import resolve

        entry = self.registry.register(resolve("tiny"), base="tiny", notes="the shipped base")
        self.deployment.start(routable_version(self.registry, entry), "drill", "the shipped base")
        self.versions[entry.version] = {"version": entry.version, "decision": "first"}

    def serve(self, count: int, slowed: float = 1.0) -> str:
        """Serve traffic with the routed version and return the guard's decision; "" without a version on probation."""
        from inference.policy import Policy

        version = self.deployment.serving()
        assert version is not None
        server = Server(Policy.load(version.policy), version.digest, slowed)
        events = self.traffic.serve(server, count, self.log)
        self.events += events
        run_workers(self.log, self.lake, self.events, WINDOW.total_seconds())
        self.cohorts.refresh()
        self._record(version.name, events)
        # the clicks of the last answers arrive within the window
        found = self.monitor.check(self.traffic.now + WINDOW)
        if found is None:
            return ""
        decision = found[1]
        self.versions[version.name]["guard"] = {
            "decision": decision.action,
            "reason": decision.reason,
            "figures": {name: dict(figures) for name, figures in decision.figures.items()},
        }
        if decision.action == "rollback":
            self.versions[version.name]["decision"] = "rolled back"
        self._print(f"{version.name}: guard: {decision.action}: {decision.reason}")
        return decision.action

    def retrain(self, log: EmbeddedLog, lake: str, events: Sequence[AnyEvent], what: str) -> RetrainOutcome:
        """Have a log of `events` judged and written to a lake, and retrain the serving version from them."""
        from trainers.retraining import retrain

        run_workers(log, lake, events, WINDOW.total_seconds())
        self.traffic.now += WINDOW
        parent, began = self.serving, time.process_time()
        outcome = retrain(
            self.config,
            lake,
            self.registry,
            parent,
            self.folder / "retrainings",
            self._print,
            reason=what,
            now=self.traffic.now,
        )
        name = outcome.entry.version if outcome.entry else f"none-{len(self.versions)}"
        self.versions[name] = {
            "version": name,
            "parent": parent,
            "trained_on": what,
            "decision": "promoted" if outcome.promote else "refused",
            "reasons": list(outcome.decision.reasons),
            "gates": outcome.decision.to_dict(),
            "cpu_s": time.process_time() - began,
        }
        self._print(f"{name}: {self.versions[name]['decision']} {'; '.join(outcome.decision.reasons)}")
        return outcome

    def promote(self, outcome: RetrainOutcome) -> None:
        """Route the traffic to a model that passed its gates."""
        assert outcome.entry is not None
        self.deployment.promote(routable_version(self.registry, outcome.entry), "gates", "every gate passed")

    def revenue_of(self, version: str) -> float:
        """Return a version's served revenue per query, in points."""
        return float(np.mean(self.revenues[version]))

    def _record(self, version: str, events: Sequence[AnyEvent]) -> None:
        found = self.revenues.setdefault(version, [])
        found += revenue(events)
        answers = [event for event in events if isinstance(event, Interaction)]
        served = self.versions[version].setdefault("served", {"answers": 0, "ads": 0, "clicks": 0})
        served["answers"] += len(answers)
        served["ads"] += sum(len(answer.shown) for answer in answers)
        served["clicks"] += len(events) - len(answers)
        served["revenue_per_query"] = bootstrap_interval(found, 0).to_dict()
        served["trust"] = self.traffic.population.trust
        mean = served["revenue_per_query"]
        self._print(
            f"{version}: {len(found)} answers, {mean['mean']:.1f} ({mean['lo']:.1f} to {mean['hi']:.1f}) a query"
        )

    def _print(self, text: str) -> None:
        self.console.print(f"{datetime.now(UTC):%H:%M:%S} {text}", highlight=False, markup=False)


def cautious(config: RetrainConfig) -> RetrainConfig:
    """Return the configuration with a small learning rate, so that the model passes its gates and reaches the guard."""
    optimisation = config.optimisation
    slow = optimisation.model_copy(update={"learning_rate": optimisation.learning_rate * CAUTION})
    return config.model_copy(update={"optimisation": slow})


def new_log(folder: Path) -> EmbeddedLog:
    """Create an event log with all topics."""
    log = EmbeddedLog(folder)
    log.create(all_topics())
    return log


def main(
    answers: Annotated[int, typer.Option(help="Answers served before each retraining.", min=2 * EARLY)] = 1_500,
    profiles: Annotated[int, typer.Option(help="Users of the world.", min=10)] = 1_000,
    candidates: Annotated[int, typer.Option(help="Ads in each prompt.", min=2)] = 20,
    config: Annotated[str, typer.Option(help="Retraining configuration.")] = "tiny",
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting of it: key.path=value.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    folder: Annotated[Path, typer.Option(help="Log, lake, runs; emptied first.")] = Path("build/drills/loop"),
    out: Annotated[Path, typer.Option(help="File for the figures.")] = Path("build/bench/loop.json"),
) -> None:
    """Run the drill; exit status 1 if a check fails.

    Raises:
        typer.Exit: if a check fails.
    """
    console, began = Console(), time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    settings = load_retraining(config, set_ or [])
    traffic = Traffic.begin(datetime.now(UTC) - timedelta(days=28), profiles, candidates, seed)
    drill = Drill(folder, settings, traffic, console)
    result: dict[str, Any] = {
        "wanted_ratio": WANTED_RATIO,
        "answers": answers,
        "profiles": profiles,
        "candidates": candidates,
        "seed": seed,
        "config": settings.model_dump(mode="json"),
    }

    def write(*, finished: bool = False) -> dict[str, bool]:
        checks = checked(drill)
        figures = result | {
            "versions": list(drill.versions.values()),
            "history": [change_values(c) for c in drill.deployment.history()],
            "checks": checks,
            "finished": finished,
            "passed": finished and all(checks.values()),
            "seconds": time.monotonic() - began,
            "cpu_s": time.process_time(),
        }
        write_figures(out, figures)
        return checks

    drill.start()
    for number in range(1, RETRAININGS + 1):
        if drill.serve(EARLY) != "rollback":
            drill.serve(answers - EARLY)
        outcome = drill.retrain(drill.log, drill.lake, drill.events, f"the log ({number})")
        if outcome.promote:
            drill.promote(outcome)
        write()
    if drill.serve(EARLY) != "rollback":
        drill.serve(answers - EARLY)
    write()
    poisoned = new_log(folder / "poisoned-log")
    events = shuffled(drill.events, np.random.default_rng(seed))
    put(poisoned, events)
    drill.retrain(poisoned, str(folder / "poisoned-lake"), events, POISONED)
    write()
    drill.config = cautious(settings)
    outcome = drill.retrain(drill.log, drill.lake, drill.events, "the log, served slowed down")
    if outcome.promote:
        drill.promote(outcome)
        drill.serve(EARLY, slowed=SLOWED)
    checks = write(finished=True)
    console.print(table(drill))
    console.print({name: "yes" if held else "NO" for name, held in checks.items()})
    if not all(checks.values()):
        raise typer.Exit(1)


def checked(drill: Drill) -> dict[str, bool]:
    """Return the drill's checks on what has happened so far."""
    served = [name for name, v in drill.versions.items() if "served" in v and v["decision"] != "rolled back"]
    first, best = served[0], served[-1]
    poisoned = [v for v in drill.versions.values() if v.get("trained_on") == POISONED]
    slowed = [v for v in drill.versions.values() if str(v.get("trained_on", "")).endswith("slowed down")]
    return {
        "revenue per query rises from version to version": all(
            drill.revenue_of(a) < drill.revenue_of(b) for a, b in pairwise(served)
        ),
        "revenue per query rises to 1.8 times the first": (
            drill.revenue_of(best) >= WANTED_RATIO * drill.revenue_of(first)
        ),
        "shuffled clicks are refused by the gates": [v["decision"] for v in poisoned] == ["refused"],
        "a version slowed down is rolled back": [v["decision"] for v in slowed] == ["rolled back"],
    }


def change_values(change: Change) -> dict[str, Any]:
    """Return a change as values for JSON."""
    return {
        "at": change.at.isoformat(),
        "kind": change.kind,
        "version": change.version,
        "by": change.by,
        "why": change.why,
    }


def table(drill: Drill) -> Table:
    """Return the versions as a table."""
    found = Table("version", "trained on", "answers", "revenue/query", "ads/answer", "decision", "why")
    for version in drill.versions.values():
        served = version.get("served")
        revenue_text = ""
        if served:
            r = served["revenue_per_query"]
            revenue_text = f"{r['mean']:.1f} ({r['lo']:.1f} to {r['hi']:.1f})"
        guard = version.get("guard", {})
        why = guard.get("reason", "") if guard.get("decision") == "rollback" else "; ".join(version.get("reasons", ()))
        found.add_row(
            version["version"],
            version.get("trained_on", ""),
            str(served["answers"]) if served else "",
            revenue_text,
            f"{served['ads'] / served['answers']:.2f}" if served else "",
            version["decision"],
            why[:80],
        )
    return found


if __name__ == "__main__":
    typer.run(main)

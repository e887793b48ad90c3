"""`python -m benchmarks.simulator.world`: what can be earned in the built-in world, without any model.

On held-out queries it compares the best answer that the world's language can express with fixed rules that know the
true relevance of every ad and write each into a sentence that fits it. The gap between them is what is left to a method
that looks at the whole answer. Figures go to build/bench/world.json, the table of docs/click-model.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.figures import machine_name, write_figures
from mechanism.markers import parse, render_marker
from mechanism.objective import Penalty, reward, value
from mechanism.prompt import MICROS_PER_POINT
from mechanism.statistics import bootstrap_interval
from mechanism.types import Ad, Answer, Context
from simulator.clicks import ClickModel
from simulator.language import Woven, compose, style_of
from simulator.optimum import Limits, best_answer
from simulator.world import Query, World

OPTIMUM = "best attainable answer"
BOUNDED = {"best of one ad at most": Limits(ads=1), "best in the base's sentences": Limits(sober=True)}
"""What stands between the rules and the optimum: a second ad, and sentences that the base model does not write."""
WIDTH = 100
"""Columns of the table, also when the output goes to a file."""
Worth = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
"""Relevance and bids of the candidates, shape (candidates,) each -> what a rule ranks them by."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A fixed rule: show the `ads` candidates that are worth most."""

    name: str
    ads: int
    worth: Worth


RULES = (
    Rule("one ad, by relevance times bid", 1, lambda relevance, bids: relevance * bids),
    Rule("two ads, by relevance times bid", 2, lambda relevance, bids: relevance * bids),
    Rule("the most relevant ad", 1, lambda relevance, bids: relevance),
    Rule("the two most relevant ads", 2, lambda relevance, bids: relevance),
    Rule("the two highest bids", 2, lambda relevance, bids: bids),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer under the true click probabilities: reward and revenue in points, and its number of ads."""

    reward: float
    revenue: float
    ads: int


def main(
    contexts: Annotated[int, typer.Option(help="Held-out contexts.", min=2)] = 200,
    candidates: Annotated[int, typer.Option(help="Ads in each.", min=2)] = 20,
    per_ad: Annotated[float, typer.Option(help="Penalty of each ad, in points.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Seed of the world, its bids and the rules' wording.")] = 0,
    out: Annotated[Path, typer.Option(help="File for the figures.")] = Path("build/bench/world.json"),
) -> None:
    """Measure the best attainable answer and the fixed rules on the same contexts."""
    console, began = Console(), time.monotonic()
    world, truth, penalty = World(seed), ClickModel(), Penalty(per_ad=per_ad)
    outcomes: dict[str, list[Outcome]] = {name: [] for name in (OPTIMUM, *BOUNDED, *(rule.name for rule in RULES))}
    for number, query in enumerate(track(world.test_queries[:contexts], "contexts", console=console)):
        rng = np.random.default_rng([seed, number, 61])
        context = world.sample_context(query, rng, candidates)
        best = best_answer(world, query, context, truth, penalty)
        outcomes[OPTIMUM].append(_outcome(best.answer, context, truth, penalty))
        for name, limits in BOUNDED.items():
            bounded = best_answer(world, query, context, truth, penalty, limits=limits)
            outcomes[name].append(_outcome(bounded.answer, context, truth, penalty))
        relevance = truth.relevance(context, [c.ad for c in context.candidates])
        bids = np.array([c.bid for c in context.candidates], np.float64) / MICROS_PER_POINT
        for rule in RULES:
            order = np.argsort(-rule.worth(relevance, bids), kind="stable")[: rule.ads]
            answer = written(world, query, context, [context.candidates[int(i)].ad for i in order], rng)
            outcomes[rule.name].append(_outcome(answer, context, truth, penalty))
    methods = {name: _summary(own, outcomes[OPTIMUM], seed) for name, own in outcomes.items()}
    write_figures(
        out,
        {
            "contexts": len(outcomes[OPTIMUM]),
            "candidates": candidates,
            "per_ad": per_ad,
            "seed": seed,
            "machine": machine_name(),
            "date": datetime.now(UTC).date().isoformat(),
            "seconds": time.monotonic() - began,
            "methods": methods,
        },
    )
    Console(width=max(console.width, WIDTH)).print(_table(methods, len(outcomes[OPTIMUM])))
    console.print(f"{time.monotonic() - began:.0f} s; {out}")


def written(world: World, query: Query, context: Context, ads: list[Ad], rng: np.random.Generator) -> Answer:
    """Return an answer of the world's language that shows the given ads in sentences that fit them."""
    category = next(c for c in world.categories if c.name == query.category)
    aspect = next((a for a in category.aspects if a in query.text), category.aspects[0])
    asked = (query.category, query.also)
    woven = [Woven(ad, ad.category, render_marker(ad), style_of(asked, ad.category, plain=False)) for ad in ads]
    raw = compose(category.name, aspect, category.advice, woven, rng)
    return parse(raw, [c.ad for c in context.candidates])


def _outcome(answer: Answer, context: Context, truth: ClickModel, penalty: Penalty) -> Outcome:
    rates, bids = truth.probabilities(context, answer), context.bids()
    return Outcome(reward(answer, bids, rates, penalty), value(answer, bids, rates), len(answer.shown()))


def _summary(own: list[Outcome], best: list[Outcome], seed: int) -> dict[str, Any]:
    rewards = [outcome.reward for outcome in own]
    return {
        "reward": bootstrap_interval(rewards, seed).to_dict(),
        "revenue": float(np.mean([outcome.revenue for outcome in own])),
        "ads": float(np.mean([outcome.ads for outcome in own])),
        "share_of_optimum": float(np.mean(rewards) / np.mean([outcome.reward for outcome in best])),
    }


def _table(methods: Mapping[str, Mapping[str, Any]], contexts: int) -> Table:
    table = Table(title=f"Points a query on {contexts} held-out contexts, true click probabilities")
    for name in ("method", "reward", "95%", "of optimum", "revenue", "ads"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for name, figures in methods.items():
        mean, low, high = (figures["reward"][end] for end in ("mean", "lo", "hi"))
        table.add_row(
            name,
            f"{mean:.1f}",
            f"{low:.1f}..{high:.1f}",
            f"{figures['share_of_optimum']:.0%}",
            f"{figures['revenue']:.1f}",
            f"{figures['ads']:.2f}",
        )
    return table


if __name__ == "__main__":
    typer.run(main)

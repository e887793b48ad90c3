"""`make bench-predictor`: how well does the pCTR model recover the true click probabilities, and from which features?

A policy answers questions of the built-in world and simulated users click. The model is fitted to those clicks with all
its features, without each group, with the paper's inputs (arXiv 2512.10551, Eq. 3) and with ids alone, and compared
with the truth on answers to held-out questions. AUC and log loss are expectations over clicks, so the truth's own are
the best attainable. Figures go to build/bench/predictor.json.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.figures import write_figures
from inference.encoder import shared_encoder
from inference.policy import Policy
from mechanism.types import Answer, Context
from simulator.clicks import ClickModel
from simulator.world import Query, World
from trainers.config import RewardConfig
from trainers.config.schema import FEATURE_GROUPS, FeatureGroup
from trainers.reward.training import Shown, fit

Floats = NDArray[np.float64]
Pairs = list[tuple[Context, Answer]]

ROWS: dict[str, tuple[FeatureGroup, ...]] = {
    "all features": FEATURE_GROUPS,
    **{f"without {group}": tuple(g for g in FEATURE_GROUPS if g != group) for group in FEATURE_GROUPS},
    "the paper's inputs": ("query", "answer", "ids"),
    "ids alone": ("ids",),
}


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of predictions with true probabilities: expected AUC, log loss (nats) and Pearson correlation."""

    auc: float
    log_loss: float
    correlation: float


def agreement(predicted: Floats, true: Floats) -> Agreement:
    """Compare predictions with true probabilities, both of shape (N,), in expectation over the clicks."""
    p = np.clip(predicted, 1e-6, 1 - 1e-6)
    pairs_NN = np.outer(true, 1.0 - true)
    # No ad is clicked and not clicked.
    np.fill_diagonal(pairs_NN, 0.0)
    ranked_NN = (p[:, None] > p) + 0.5 * (p[:, None] == p)
    log_loss = -(true * np.log(p) + (1.0 - true) * np.log(1.0 - p)).mean()
    varies = p.std() > 0 and true.std() > 0
    correlation = float(np.corrcoef(p, true)[0, 1]) if varies else 0.0
    return Agreement(float((pairs_NN * ranked_NN).sum() / pairs_NN.sum()), float(log_loss), correlation)


def mean_agreement(found: Sequence[Agreement]) -> dict[str, float]:
    """Return the mean of each figure over seeds, and its standard error where there are several."""
    columns = {name: [asdict(a)[name] for a in found] for name in ("auc", "log_loss", "correlation")}
    means = {name: float(np.mean(values)) for name, values in columns.items()}
    if len(found) < 2:
        return means
    return means | {f"{n}_error": float(np.std(v, ddof=1) / np.sqrt(len(v))) for n, v in columns.items()}


def main(
    contexts: Annotated[int, typer.Option(help="Questions to answer for fitting.", min=2)] = 300,
    held_out: Annotated[int, typer.Option(help="Held-out questions to answer for measuring.", min=2)] = 150,
    answers: Annotated[int, typer.Option(help="Answers to each question.", min=1)] = 2,
    sizes: Annotated[list[int] | None, typer.Option(help="Shown ads to fit to; by default all.")] = None,
    seeds: Annotated[int, typer.Option(help="Draws of the clicks, each with a fit of its own.", min=1)] = 3,
    candidates: Annotated[int, typer.Option(help="Ads in each prompt.")] = 20,
    model: Annotated[str, typer.Option(help="Model that answers: a name or folder.")] = "tiny",
    seed: Annotated[int, typer.Option()] = 0,
    out: Annotated[Path, typer.Option(help="File for the figures.")] = Path("build/bench/predictor.json"),
) -> None:
    """Fit every row of the ablation to every number of shown ads, and print the table."""
    console, began = Console(), time.monotonic()
    world, truth, policy = World(seed), ClickModel(), Policy.load(model)
    rng = np.random.default_rng([seed, 47])

    def written(queries: Sequence[Query], count: int, at: int) -> Pairs:
        chosen = [queries[i] for i in rng.permutation(len(queries))[:count]]
        asked = [world.sample_context(query, rng, candidates) for query in chosen]
        generations = policy.generate(asked, answers, seed * 1_000_003 + at)
        return [(c, g.answer) for c, own in zip(asked, generations, strict=True) for g in own]

    console.print(f"{model} answers {contexts} questions for fitting and {held_out} held-out ones")
    fitting, measuring = written(world.train_queries, contexts, 1), written(world.test_queries, held_out, 2)
    chances = [truth.probabilities(context, answer) for context, answer in fitting]
    true = np.array([p for context, answer in measuring for p in truth.probabilities(context, answer).values()])
    total = sum(len(own) for own in chances)
    wanted = sorted({min(size, total) for size in sizes or [total]})
    found: dict[tuple[int, str], list[Agreement]] = {(size, row): [] for size in wanted for row in ROWS}
    for size, row in track(list(found), "fits", console=console):
        for number in range(seeds):
            shown = _clicked(fitting, chances, truth, size, np.random.default_rng([seed, 48, number]))
            config = RewardConfig(features=ROWS[row])
            predictor, _ = fit(shown, config, shared_encoder().encode, seed + number)
            predicted = [p for own in predictor.probabilities(measuring) for p in own.values()]
            found[size, row].append(agreement(np.array(predicted), true))
    result = {
        "model": {"name": model, "digest": policy.digest},
        "held_out": {"answers": len(measuring), "shown": len(true), "click_rate": float(true.mean())},
        "seeds": seeds,
        "truth": asdict(agreement(true, true)),
        "click_rate_alone": asdict(agreement(np.full(len(true), true.mean()), true)),
        "rows": {str(size): {row: mean_agreement(found[size, row]) for row in ROWS} for size in wanted},
        "seconds": time.monotonic() - began,
    }
    write_figures(out, result)
    for size in wanted:
        console.print(_table(size, {row: found[size, row] for row in ROWS}, true))
    console.print(f"figures: {out}")


def _clicked(
    pairs: Pairs, chances: Sequence[dict[str, float]], truth: ClickModel, size: int, rng: np.random.Generator
) -> list[Shown]:
    """Draw clicks on answers in random order, until `size` ads or more are shown."""
    shown: list[Shown] = []
    count = 0
    for i in rng.permutation(len(pairs)):
        if count >= size:
            break
        context, answer = pairs[i]
        shown.append((context, answer, truth.click(chances[i], rng)))
        count += len(chances[i])
    return shown


def _table(size: int, rows: dict[str, list[Agreement]], true: Floats) -> Table:
    table = Table(title=f"Click predictor fitted to {size} shown ads, against the truth on {len(true)} held-out ones")
    table.add_column("features")
    for name in ("AUC", "log loss", "correlation"):
        table.add_column(name, justify="right")
    bounds = {
        "the truth itself": [agreement(true, true)],
        "the click rate alone": [agreement(np.full(len(true), true.mean()), true)],
    }
    for row, found in {**bounds, **rows}.items():
        means = mean_agreement(found)
        table.add_row(row, f"{means['auc']:.3f}", f"{means['log_loss']:.4f}", f"{means['correlation']:.3f}")
    return table


if __name__ == "__main__":
    typer.run(main)

"""`python -m benchmarks.trainers.offpolicy`: do off-policy confidence intervals cover the truth?

Each trial on the built-in world logs one policy's answers with simulated clicks, estimates another policy's revenue and
experience per query from the log alone, and compares the estimates with the click model's expectation over many fresh
answers of that other policy. Figures go to build/bench/offpolicy.json.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.figures import write_figures
from inference.encoder import shared_encoder
from inference.policy import Policy
from inference.scoring import Sampler
from mechanism.objective import Penalty, s_resp, value
from mechanism.statistics import proportion_interval
from mechanism.types import Context
from simulator.clicks import ClickModel
from simulator.world import World
from trainers.artifacts.sampled import Sampled
from trainers.config import PenaltyConfig, RewardConfig
from trainers.config.gates import OffPolicySettings
from trainers.gates.evidence import Action, gather
from trainers.gates.offpolicy import Estimate, estimate
from trainers.reward.model import ClickPredictor
from trainers.reward.training import fit

METHODS = ("dr", "snips", "ips")
ACTIONS: tuple[Action, ...] = ("answer", "ads")
FIGURES = ("revenue", "experience")
WANTED = 0.9
"""Share of the trials in which the interval must cover the truth."""
LAM = 1.0
WIDTH = 88
"""Columns of the table, also when the output goes to a file."""


@dataclass(frozen=True, slots=True)
class Bench:
    """The world and settings of all trials."""

    world: World
    truth: ClickModel
    penalty: Penalty
    candidates: int

    def contexts(self, count: int, rng: np.random.Generator) -> list[Context]:
        """Return random questions of the world, each with its own bids."""
        queries = [*self.world.train_queries, *self.world.test_queries]
        chosen = rng.choice(len(queries), size=count, replace=count > len(queries))
        return [self.world.sample_context(queries[i], rng, self.candidates) for i in chosen]

    def log(self, logging: Sampler, count: int, rng: np.random.Generator) -> list[Sampled]:
        """Return one shown answer to each of `count` contexts, with its clicks."""
        contexts = self.contexts(count, rng)
        answers = logging.policy.generate(contexts, 1, int(rng.integers(2**31)), logging.settings)
        return [
            Sampled(c, tuple(own), (self.truth.click(self.truth.probabilities(c, own[0].answer), rng),))
            for c, own in zip(contexts, answers, strict=True)
        ]

    def expected(self, sampler: Sampler, count: int, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
        """Return a sampler's true mean revenue and experience per query, with standard errors, on `count` contexts."""
        contexts = self.contexts(count, rng)
        answers = sampler.policy.generate(contexts, 1, int(rng.integers(2**31)), sampler.settings)
        pairs = [(c, own[0].answer) for c, own in zip(contexts, answers, strict=True)]
        values = {
            "revenue": [value(a, c.bids(), self.truth.probabilities(c, a)) for c, a in pairs],
            "experience": [-LAM * s_resp(a, self.penalty) for _, a in pairs],
        }
        return {name: (float(np.mean(v)), float(np.std(v) / np.sqrt(count))) for name, v in values.items()}


def main(
    trials: Annotated[int, typer.Option(help="Logs to estimate from.", min=1)] = 50,
    contexts: Annotated[int, typer.Option(help="Logged contexts in each.", min=2)] = 250,
    fitting: Annotated[int, typer.Option(help="Contexts of an earlier log, for the pCTR model.")] = 1000,
    fresh: Annotated[int, typer.Option(help="Fresh answers to measure the truth.", min=2)] = 3000,
    candidates: Annotated[int, typer.Option(help="Ads in each prompt.")] = 20,
    logging: Annotated[str, typer.Option(help="Model whose answers are logged: a name or folder.")] = "tiny",
    target: Annotated[str, typer.Option(help="Model to estimate: a name or folder.")] = "tiny",
    logging_temperature: Annotated[float, typer.Option(help="Its sampling temperature.")] = 1.0,
    target_temperature: Annotated[float, typer.Option(help="Its sampling temperature.")] = 0.7,
    clip: Annotated[float | None, typer.Option(help="Upper limit of the importance weights.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    out: Annotated[Path, typer.Option(help="File for the figures.")] = Path("build/bench/offpolicy.json"),
) -> None:
    """Run the trials; exit status 1 if the configured estimate's intervals cover the truth too seldom.

    Raises:
        typer.Exit: if they do.
    """
    console, began = Console(), time.monotonic()
    rng = np.random.default_rng([seed, 31])
    penalty = PenaltyConfig().penalty()
    bench = Bench(World(seed), ClickModel(), penalty, candidates)
    models = {name: Policy.load(name) for name in {logging, target}}
    old, new = (
        Sampler(models[name], replace(models[name].sampling, temperature=heat))
        for name, heat in ((logging, logging_temperature), (target, target_temperature))
    )
    settings = OffPolicySettings(clip=clip)
    console.print(f"truth: {fresh} answers of {target}; forecasts: {fitting} answers of {logging}")
    truth = bench.expected(new, fresh, rng)
    served = bench.expected(old, fresh, rng)
    shown = [
        (s.context, s.generations[0].answer, dict(c)) for s in bench.log(old, fitting, rng) for c in s.clicks or ()
    ]
    predictor, quality = fit(shown, RewardConfig(), shared_encoder().encode, seed)
    about = {
        "wanted_share": WANTED,
        "trials": trials,
        "contexts": contexts,
        "settings": settings.model_dump(mode="json"),
        "logging": {"model": logging, "digest": old.policy.digest, "temperature": logging_temperature},
        "target": {"model": target, "digest": new.policy.digest, "temperature": target_temperature},
        "truth": truth,
        "logging_truth": served,
        "fresh_answers": fresh,
        "pctr": {"auc": quality.auc, "calibration_error": quality.calibration_error, "examples": quality.examples},
    }
    found: list[dict[str, Estimate]] = []
    for number in track(range(trials), "trials", console=console):
        log = bench.log(old, contexts, rng)
        found.append(_estimates(log, old, new, predictor, penalty, settings, seed * 1_000_003 + number))
        rows = {key: _judged([f[key] for f in found], truth[key.split("/")[0]]) for key in found[0]}
        configured = [rows[f"{figure}/{settings.method}/{settings.action}"] for figure in FIGURES]
        passed = all(row["covered"] >= WANTED * trials for row in configured)
        result = about | {
            "passed": passed,
            "done": len(found),
            "estimates": rows,
            "seconds": time.monotonic() - began,
        }
        # after every trial, so that an interrupted run leaves figures
        write_figures(out, result)
    Console(width=max(console.width, WIDTH)).print(_table(rows, trials))
    console.print(f"logging model: revenue {served['revenue'][0]:.2f}, experience {served['experience'][0]:.2f}; {out}")
    if not passed:
        raise typer.Exit(1)


def _estimates(
    log: Sequence[Sampled],
    old: Sampler,
    new: Sampler,
    predictor: ClickPredictor,
    penalty: Penalty,
    settings: OffPolicySettings,
    seed: int,
) -> dict[str, Estimate]:
    """Return the estimate of every method, action and figure, by "figure/method/action"."""
    evidence = gather(log, old, new, predictor, penalty, LAM, settings, seed)
    return {
        f"{figure}/{method}/{action}": estimate(
            getattr(evidence, figure)(action), settings.model_copy(update={"method": method}), seed
        )
        for figure in FIGURES
        for method in METHODS
        for action in ACTIONS
    }


def _judged(estimates: Sequence[Estimate], truth: tuple[float, float]) -> dict[str, Any]:
    """Return an estimator's coverage and errors over all trials; a refused estimate covers nothing."""
    usable = [e for e in estimates if e.refusal is None]
    covered = sum(e.value.lo <= truth[0] <= e.value.hi for e in usable)
    means = [e.value.mean for e in estimates]
    return {
        "covered": covered,
        "refused": len(estimates) - len(usable),
        "coverage": proportion_interval(covered, len(usable)).to_dict() if usable else None,
        "truth": truth[0],
        "truth_error": truth[1],
        "mean": float(np.mean(means)),
        "deviation": float(np.std(means, ddof=1)) if len(means) > 1 else None,
        "half_width": float(np.mean([(e.value.hi - e.value.lo) / 2 for e in estimates])),
        "gain_half_width": float(np.mean([(e.gain.hi - e.gain.lo) / 2 for e in estimates])),
        "effective_sample": float(np.mean([e.effective_sample for e in estimates])),
        "mean_weight": float(np.mean([e.mean_weight for e in estimates])),
        "max_weight": float(np.max([e.max_weight for e in estimates])),
        "refusals": sorted({e.refusal for e in estimates if e.refusal is not None})[:3],
    }


def _table(rows: dict[str, dict[str, Any]], trials: int) -> Table:
    table = Table(title=f"Off-policy estimates in {trials} trials")
    for name in ("estimate", "held", "refused", "truth", "mean", "+-", "gain +-", "n_eff"):
        table.add_column(name, justify="left" if name == "estimate" else "right", no_wrap=True)
    for key, row in rows.items():
        table.add_row(
            key,
            str(row["covered"]),
            str(row["refused"]),
            f"{row['truth']:.2f}",
            f"{row['mean']:.2f}",
            f"{row['half_width']:.2f}",
            f"{row['gain_half_width']:.2f}",
            f"{row['effective_sample']:.0f}",
        )
    return table


if __name__ == "__main__":
    typer.run(main)

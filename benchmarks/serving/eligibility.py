"""Measures one request's way to its candidates: rules one by one, the index, retrieval and selection, in one run.

`python -m benchmarks.serving.eligibility` prints a table and writes `build/bench/eligibility.json`. Vectors are drawn
around topics, so no model is needed and the encoder's own time is not part of the figures. Processor time is given
beside the time on the clock, which other work on the machine lengthens.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.serving.campaigns import made_campaigns, made_requests
from serving.answering.auction_records import EvaluationSummary
from serving.auction.eligibility import EligibilityIndex, PlacementRequest, ReachedCaps, rules
from serving.auction.offers import choose_offers
from serving.auction.retrieval import CreativeIndex
from serving.campaigns.types import Campaign

WIDTH = 384
TOPICS = 400
SEARCHED, SHOWN = 60, 20
COUNTED = ReachedCaps(countable=True)
Vectors = NDArray[np.float32]


def main(
    campaigns: Annotated[int, typer.Option(help="Campaigns in the index.")] = 10_000,
    creatives: Annotated[int, typer.Option(help="Creatives of each campaign.")] = 10,
    requests: Annotated[int, typer.Option(help="Requests to the index.")] = 400,
    naive: Annotated[int, typer.Option(help="Requests to the rules one by one.")] = 5,
    out: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("build/bench/eligibility.json"),
) -> None:
    """Builds the indices, then measures each step of the same requests."""
    console = Console()
    booked = list(track(made_campaigns(campaigns, creatives), "campaigns", total=campaigns, console=console))
    index, found = EligibilityIndex(), CreativeIndex(WIDTH)
    topics = _unit(np.random.default_rng(1).standard_normal((TOPICS, WIDTH)))
    filing = _timed(lambda one: _file(index, found, one, topics), list(track(booked, "index", console=console)))
    if (clustering := found.start_clustering()) is not None:
        clustering.run()
        found.adopt(clustering)
    asked = made_requests(requests)
    for number, campaign in enumerate(booked):
        index.set_participation(campaign.id, 0.5 if number % 3 else 1.0)
    evaluate: Callable[[PlacementRequest], Any] = lambda r: index.evaluate(r, COUNTED)  # noqa: E731
    list(map(evaluate, asked[:20]))
    evaluations = [evaluate(request) for request in asked]
    questions = _unit(
        topics[np.arange(len(asked)) % TOPICS] + 0.03 * np.random.default_rng(2).standard_normal((len(asked), WIDTH))
    )
    by_words = [(r.query, None, e, SEARCHED) for r, e in zip(asked, evaluations, strict=True)]
    by_both = [(r.query, q, e, SEARCHED) for r, q, e in zip(asked, questions, evaluations, strict=True)]
    hits = [found.search(*b) for b in by_both]
    participation = {c.id: index.participation(c.id) for c in booked}
    steps = {
        "rules_one_by_one": _timed(lambda r: rules.evaluate(booked, r, {}, participation, COUNTED), asked[:naive]),
        "eligibility": _timed(evaluate, asked),
        "exclusion_counts": _timed(lambda e: EvaluationSummary.of(e).counts(), evaluations),
        "exclusion_of_every_creative": _timed(lambda e: EvaluationSummary.of(e).exclusions(), evaluations[:20]),
        "retrieval_words": _timed(lambda b: found.search(*b), by_words),
        "retrieval_words_and_vectors": _timed(lambda b: found.search(*b), by_both),
        "selection": _timed(lambda h: choose_offers(h, SHOWN), hits),
        "campaign_change": _timed(lambda c: _file(index, found, c, topics), booked[:200]),
        "first_load_per_campaign": filing,
    }
    figures = {
        "campaigns": campaigns,
        "creatives": campaigns * creatives,
        "eligible_creatives_mean": float(np.mean([len(e) for e in evaluations])),
        "machine": f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}",
        "microseconds": {name: _quantiles(times) for name, times in steps.items()},
    }
    columns = ["cpu_p50", "cpu_p99", "wall_p50", "wall_p99"]
    table = Table("µs", *columns, title=f"{campaigns:,} campaigns, {campaigns * creatives:,} creatives")
    for name, times in steps.items():
        table.add_row(name.replace("_", " "), *(f"{_quantiles(times)[c]:,.0f}" for c in columns))
    console.print(table)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")


def _file(index: EligibilityIndex, found: CreativeIndex, campaign: Campaign, topics: Vectors) -> None:
    """Puts a campaign into both indices, as the router does."""
    if index.get(campaign.id) is not None:
        found.remove(index.rows_of(campaign.id))
    index.put(campaign)
    noise = np.random.default_rng(int(campaign.id[1:]))
    picked = topics[noise.integers(0, TOPICS, len(campaign.creatives))]
    vectors = _unit(picked + 0.04 * noise.standard_normal(picked.shape))
    found.put(index.rows_of(campaign.id), campaign.creatives)
    found.put_vectors(index.rows_of(campaign.id), vectors)


def _timed(step: Callable[[Any], Any], inputs: list[Any]) -> list[tuple[float, float]]:
    """Microseconds of each call: of this thread's processor time, and on the clock."""
    times = []
    for one in inputs:
        wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
        step(one)
        times.append(((time.thread_time_ns() - cpu) / 1_000, (time.perf_counter_ns() - wall) / 1_000))
    return times


def _quantiles(times: list[tuple[float, float]]) -> dict[str, float]:
    cpu, wall = np.array(times).T
    figures = {"cpu_p50": (cpu, 50), "cpu_p99": (cpu, 99), "wall_p50": (wall, 50), "wall_p99": (wall, 99)}
    return {name: round(float(np.percentile(values, q)), 1) for name, (values, q) in figures.items()}


def _unit(vectors: NDArray[Any]) -> Vectors:
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


if __name__ == "__main__":
    typer.run(main)

"""The reports of several seeds as one table: means over seeds, intervals over seeds and queries.

A resample draws seeds with replacement, then queries within each drawn seed, the same ones for every method, so that
differences of two methods stay paired. With few seeds the bootstrap understates their spread: the number of seeds
stands in the table, and the spread between them beside each interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Final

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from mechanism.errors import InputError
from mechanism.statistics import Floats, Interval, percentile_interval, resampled_means
from trainers.evaluation.metrics import COMPARED, FIELD, METHODS, METRICS, PER_AD, SINGLE_GENERATION
from trainers.evaluation.report import Figure, Report
from trainers.evaluation.text import METHOD, METRIC, TIMES, half_width, number, span

DRAWS: Final = 1000
LEVEL: Final = 0.95


@dataclass(frozen=True, slots=True)
class OverSeeds:
    """A figure over seeds: the interval over seeds and queries, and the figure of each seed alone."""

    interval: Interval
    each: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SeedTable:
    """Several seeds of one configuration.

    `methods` holds the metrics of each method, `ratios` those of LLM-Auction divided by each rival's; a ratio is left
    out where the rival's mean is not positive. `best_single_generation` has the highest mean reward of the rivals that
    write one answer, over all seeds.
    """

    config: str
    seeds: tuple[int, ...]
    queries: int
    methods: Mapping[str, Mapping[str, OverSeeds]]
    ratios: Mapping[str, Mapping[str, OverSeeds]]
    best_single_generation: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return the table as plain values; a number that is not finite becomes None."""
        plain = asdict(self)
        for rows in (plain["methods"], plain["ratios"]):
            for figures in rows.values():
                for metric, found in figures.items():
                    each = [x if math.isfinite(x) else None for x in found["each"]]
                    figures[metric] = {**Figure.of(Interval(**found["interval"])).model_dump(), "each": each}
        return plain


def merge(reports: Sequence[Report], seed: int = 0) -> SeedTable:
    """Merge the reports of several seeds; methods that one of them lacks are left out.

    Raises:
        InputError: if there are not several reports of one configuration with different seeds.
    """
    seeds = tuple(report.meta.seed for report in reports)
    if len(seeds) < 2 or len(set(seeds)) != len(seeds):
        raise InputError("seeds of the reports", seeds, "give at least two reports, each of another seed")
    if len(configs := {report.meta.config for report in reports}) != 1:
        raise InputError("configurations of the reports", sorted(configs), "merge reports of one configuration")
    names = [name for name in METHODS if all(name in report.per_query for report in reports)]
    resamples = _resamples(reports, names, seed)
    methods: dict[str, dict[str, OverSeeds]] = {name: {} for name in names}
    figures: dict[tuple[str, str], Floats] = {}
    for name, metric in product(names, METRICS):
        means_S2 = np.stack([_columns(report, name, metric).mean(1) for report in reports])
        figures[name, metric] = _quotient(resamples[name, metric])
        interval = _interval(float(_quotient(means_S2.sum(0))), figures[name, metric])
        methods[name][metric] = OverSeeds(interval, tuple(_quotient(means_S2).tolist()))
    rivals = [name for name in SINGLE_GENERATION if name in methods]
    best = max(rivals, key=lambda n: methods[n]["reward_per_query"].interval.mean, default=None)
    queries = sum(report.meta.queries for report in reports)
    return SeedTable(reports[0].meta.config, seeds, queries, methods, _ratios(methods, figures), best)


def _columns(report: Report, name: str, metric: str) -> Floats:
    """Return numerators and denominators (2, queries) of a metric."""
    own = report.per_query[name]
    top = np.array(getattr(own, FIELD[metric]), dtype=np.float64)
    return np.stack([top, np.array(own.ads, dtype=np.float64) if metric in PER_AD else np.ones(len(top))])


def _resamples(reports: Sequence[Report], names: Sequence[str], seed: int) -> dict[tuple[str, str], Floats]:
    """Return (method, metric) -> resampled means of numerator and denominator (DRAWS, 2).

    Raises:
        InputError: if the methods of a report were played on different queries.
    """
    keys = list(product(names, METRICS))
    per_seed = []
    for k, report in enumerate(reports):
        queries = {report.per_query[name].query for name in names}
        if len(queries) > 1:
            raise InputError(f"queries of seed {report.meta.seed}", len(queries), "play all methods on the same ones")
        rows = np.concatenate([_columns(report, *key) for key in keys])
        per_seed.append(resampled_means(rows, seed + k, DRAWS))
    means_SDR = np.stack(per_seed)
    picked = np.random.default_rng([seed, len(reports)]).integers(len(reports), size=(DRAWS, len(reports)))
    # A seed that is drawn twice comes with another resample of its queries: that of a later draw.
    slots = [means_SDR[picked[:, j], (np.arange(DRAWS) + 37 * j) % DRAWS] for j in range(len(reports))]
    drawn_DR = np.mean(slots, axis=0)
    return {key: drawn_DR[:, 2 * k : 2 * k + 2] for k, key in enumerate(keys)}


def _quotient(pairs: Floats) -> Floats:
    """Return numerator / denominator of pairs (..., 2); nan where no ad was shown."""
    top, below = pairs[..., 0], pairs[..., 1]
    figures: Floats = np.divide(top, below, out=np.full(top.shape, np.nan), where=below > 0)
    return figures


def _interval(mean: float, draws: Floats) -> Interval:
    usable = draws[~np.isnan(draws)]
    if math.isnan(mean) or not len(usable):
        return Interval(math.nan, math.nan, math.nan)
    return percentile_interval(mean, usable, LEVEL)


def _ratios(
    methods: Mapping[str, Mapping[str, OverSeeds]], figures: Mapping[tuple[str, str], Floats]
) -> dict[str, dict[str, OverSeeds]]:
    """Return rival -> metric -> LLM-Auction's figure over the rival's, resampled in pairs."""
    ratios: dict[str, dict[str, OverSeeds]] = {}
    for rival, metric in product([n for n in methods if n != "llm_auction" and "llm_auction" in methods], COMPARED):
        ours, theirs = methods["llm_auction"][metric], methods[rival][metric]
        if not theirs.interval.mean > 0 or math.isnan(ours.interval.mean):
            continue
        above, below = figures["llm_auction", metric], figures[rival, metric]
        # Where a resample of the rival is not positive, the ratio has no bound on the side of our sign.
        quotients = np.divide(above, below, out=np.where(above < 0, -np.inf, np.inf), where=below > 0)
        each = tuple(a / b if b > 0 else math.nan for a, b in zip(ours.each, theirs.each, strict=True))
        ratio = ours.interval.mean / theirs.interval.mean
        ratios.setdefault(rival, {})[metric] = OverSeeds(_interval(ratio, quotients), each)
    return ratios


def seeds_table(table: SeedTable) -> Table:
    """Build the table of methods by metrics, with LLM-Auction's reward over each rival's in the last column."""
    caption = f"{len(table.seeds)} seeds, {table.queries} queries in all; ± and ranges: 95% over seeds and queries"
    built = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    built.add_column("", no_wrap=True)
    for metric in METRICS:
        built.add_column(METRIC[metric].short, justify="right")
    built.add_column("LLM-Auction's reward over it", justify="right")
    for name, figures in table.methods.items():
        cells = []
        for metric in METRICS:
            figure, digits = Figure.of(figures[metric].interval), METRIC[metric].digits
            spread = half_width(figure, digits)
            cells.append(Text.assemble(number(figure.mean, digits), (f"±{spread}" if spread else "", "dim")))
        cells.append(_ratio_cell(table.ratios.get(name, {}).get("reward_per_query")))
        best = " (best of one generation)" if name == table.best_single_generation else ""
        built.add_row(METHOD[name][0] + best, *cells, style="bold" if name == "llm_auction" else "")
    return built


def _ratio_cell(found: OverSeeds | None) -> Text:
    if found is None:
        return Text("")
    ratio = Figure.of(found.interval)
    return Text.assemble(number(ratio.mean, 2) + TIMES, (f" ({span(ratio, 2)})", "dim"))

"""The report as text: names, units and verdicts in words, and tables for a terminal of 100 columns (rich).

`page` takes its words from here, so that terminal and HTML cannot differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from trainers.evaluation.metrics import COMPARED, METHODS, METRICS
from trainers.evaluation.report import Compared, Figure, Machine, Property, Report

MINUS: Final = "\N{MINUS SIGN}"
TIMES: Final = "\N{MULTIPLICATION SIGN}"
ABSENT: Final = "\N{EN DASH}"
ON_ONE_LINE: Final = 5
"""Metrics of a method that fit on a line of the terminal."""


@dataclass(frozen=True, slots=True)
class MetricWords:
    """A metric's name, short name (terminal) and unit, decimals shown, and which direction is better (0: neither)."""

    name: str
    short: str
    unit: str
    digits: int
    better: int = 0


METRIC: Final[Mapping[str, MetricWords]] = {
    "revenue_per_query": MetricWords("Revenue per query", "revenue/query", "bid points", 1, 1),
    "reward_per_query": MetricWords("Reward per query", "reward/query", "bid points", 1, 1),
    "ctr": MetricWords("Click-through rate", "CTR", "clicks per shown ad", 3, 1),
    "relevance": MetricWords("Ad-query relevance", "relevance", "0 to 1, mean over shown ads", 3, 1),
    "ads_per_answer": MetricWords("Ads per answer", "ads/answer", "ads", 2),
    "invalid_insertions": MetricWords("Invalid insertions", "invalid/answer", "per answer", 3, -1),
    "answer_quality": MetricWords("Answer quality", "quality", "0 to 1, without the ads", 3, 1),
    "generations_per_query": MetricWords("Generations per query", "generations", "model calls", 1, -1),
    "seconds_per_query": MetricWords("Time per query", "seconds/query", "seconds", 3, -1),
}

METHOD: Final[Mapping[str, tuple[str, str]]] = {
    "pretrained": ("pretrained", "Pretrained model"),
    "most_relevant": ("most relevant", "The two most relevant ads, bids unread"),
    "highest_bids": ("highest bids", "The two highest bids, ads unread"),
    "gsp": ("GSP", "GSP position auction, winners written in"),
    "segment": ("segment", "Segment auction over retrieved ads"),
    "token": ("token", "Token auction over retrieved advertisers"),
    "lera": ("LERA", "LERA, retrieved ads ranked by logits"),
    "mosaic_5": ("MOSAIC-5", "MOSAIC, best of 5 samples"),
    "mosaic_20": ("MOSAIC-20", "MOSAIC, best of 20 samples"),
    "mosaic_50": ("MOSAIC-50", "MOSAIC, best of 50 samples"),
    "best_of_m": ("best of M", "Supervised training on the best of M samples"),
    "rloo": ("RLOO", "RLOO policy gradient on the same rollouts"),
    "llm_auction": ("LLM-Auction", "LLM-Auction, learned pCTR"),
    "oracle": ("oracle", "LLM-Auction, oracle feedback"),
    "optimum": ("optimum", "Best attainable answer, by search"),
}
"""Short and full name of each method."""

PROPERTY: Final[Mapping[str, str]] = {
    "monotonicity": "Allocation monotonicity (Theorem 4.2)",
    "continuity": "Continuity (Theorem 4.3)",
    "individual_rationality": "Individual rationality",
    "value_maximiser_ic": "Incentive compatibility, value maximisers (Theorem 4.5)",
    "exploitability": "Equilibrium, utility maximisers (Corollary 4.4)",
    "equilibrium": "Revenue and welfare at equilibrium, bidders shading",
    "new_titles": "Ads under titles that are new to the model",
}

PAPER_RATIO: Final[Mapping[tuple[str, str], float]] = {
    ("pretrained", "revenue_per_query"): 2.67,
    ("mosaic_20", "revenue_per_query"): 1.71,
    ("mosaic_20", "reward_per_query"): 2.17,
}
"""What arXiv 2512.10551 reports for (baseline, metric), in its own environment."""


def number(value: float | None, digits: int) -> str:
    """Format a number with a true minus sign and narrow spaces between thousands; a dash for an unknown one."""
    if value is None:
        return ABSENT
    text = f"{abs(value):,.{digits}f}"
    negative = value < 0 and any(c in "123456789" for c in text)
    return (MINUS if negative else "") + text.replace(",", "\N{NARROW NO-BREAK SPACE}")


def span(figure: Figure, digits: int) -> str:
    """Format `lo to hi`, or the bounded end; "" for a figure that cannot vary."""
    if figure.mean == figure.lo == figure.hi:
        return ""
    if figure.lo is None and figure.hi is None:
        return "unbounded" if figure.mean is not None else ""
    if figure.hi is None:
        return f"at least {number(figure.lo, digits)}"
    if figure.lo is None:
        return f"at most {number(figure.hi, digits)}"
    return f"{number(figure.lo, digits)} to {number(figure.hi, digits)}"


def half_width(figure: Figure, digits: int) -> str:
    """Format the wider half of the interval, for narrow tables; a dash where it is unbounded, "" as for `span`."""
    if not span(figure, digits):
        return ""
    if figure.mean is None or figure.lo is None or figure.hi is None:
        return ABSENT
    return number(max(figure.mean - figure.lo, figure.hi - figure.mean), digits)


def ratio_words(compared: Compared) -> tuple[str, str]:
    """Format (figure, interval) of a comparison: `2.41×`, or the difference where there is no ratio."""
    if compared.ratio is not None:
        return number(compared.ratio.mean, 2) + TIMES, span(compared.ratio, 2)
    if compared.difference is not None and compared.difference.mean is not None:
        mean = compared.difference.mean
        return ("+" if mean > 0 else "") + number(mean, 2), span(compared.difference, 2)
    return ABSENT, ""


def machine_words(machine: Machine) -> str:
    """Format a machine: `Model of processor, 2 cores, 16 GiB`."""
    parts = [machine.cpu, f"{machine.cores} core{'s' * (machine.cores != 1)}"]
    if machine.ram_gib is not None:
        parts.append(f"{machine.ram_gib:g} GiB")
    return ", ".join([*parts, machine.accelerator] if machine.accelerator else parts)


def verdict(name: str, found: Property) -> str:
    """Describe a property's measurement in a sentence, without whether it holds."""
    extra = found.model_extra or {}
    try:
        return _SENTENCE[name](found, extra)
    except (KeyError, TypeError, ValueError, IndexError):
        # A report may hold the headline interval without the figures of a sentence.
        return f"Measured {_headline(found)}."


def _headline(found: Property) -> str:
    interval = span(Figure(mean=found.mean, lo=found.lo, hi=found.hi), 4)
    return f"{number(found.mean, 4)} ({interval})" if interval else number(found.mean, 4)


def _percent(value: float | None, digits: int = 1) -> str:
    return ABSENT if value is None else number(100 * value, digits) + "%"


def _pair(bids: list[float]) -> str:
    return f"{bids[0]:g} and {bids[1]:g}"


def _monotonicity(found: Property, extra: Mapping[str, Any]) -> str:
    bids, rise = extra["bids"], Figure.model_validate(extra["rise"])
    gain = f"From bid {bids[0]:g} to {bids[-1]:g}, expected clicks per query change by {number(rise.mean, 3)} "
    gain += f"({span(rise, 3)}). "
    if not extra["rises"]:
        gain += "That is no rise beyond chance. "
    fall, at = extra["largest_fall"], _pair(extra["lowest_at"])
    if not fall:
        return gain + "They fall between no two neighbouring bids."
    if extra["never_falls"]:
        pointwise = "" if extra["holds_pointwise"] else ", though not within that step's own"
        return gain + (
            f"The largest fall, {number(fall, 4)} between bids {at}, is within the joint interval of all "
            f"steps{pointwise}."
        )
    return gain + f"They fall by {number(fall, 4)} between bids {at}, beyond the joint interval of all steps."


def _continuity(found: Property, extra: Mapping[str, Any]) -> str:
    rise, queries = Figure.model_validate(extra["rise"]), number(extra["queries"], 0)
    curves = f"Two ads of {queries} queries, whose clicks rise by {number(rise.mean, 3)} ({span(rise, 3)}). "
    if extra["finding"] == "vacuous":
        return curves + "Curves that do not rise show nothing."
    if extra["finding"] == "concentrated":
        share = Figure.model_validate(extra["concentration"])
        return curves + (
            f"One step holds {_percent(share.mean)} of a curve's rise on average, more than the "
            f"{_percent(extra['most_concentrated'])} that counts as smooth."
        )
    jump = f"The largest jump between neighbouring bids is {number(found.mean, 3)} (bids {_pair(extra['at'])}); "
    allowed = max(extra["critical"], extra["tolerance"])
    relation = "within" if found.holds else "beyond"
    return curves + jump + f"that is {relation} the {number(allowed, 3)} that a smooth curve shows by chance or slope."


def _rationality(found: Property, extra: Mapping[str, Any]) -> str:
    counted = f"{number(extra['violations'], 0)} of {number(extra['charges'], 0)} charges above the bid or the value"
    if found.holds:
        return counted + f"; with 95% confidence fewer than {_percent(found.hi, 3)} are."
    return counted + f", {number(extra['overcharged_micros'] / 1e6, 6)} units of money too much in all."


def _value_maximiser(found: Property, extra: Mapping[str, Any]) -> str:
    return (
        f"Over {number(extra['pairs'], 0)} pairs of a query and an ad, another bid than value over target gains "
        f"{_percent(found.mean)} of the value{_upper(found)}; the tolerance is {_percent(extra['tolerance'])}."
    )


def _exploitability(found: Property, extra: Mapping[str, Any]) -> str:
    return (
        f"At the end of no-regret play in {number(extra['instances'], 0)} auctions, leaving one's strategy "
        f"gains {_percent(found.mean)} of the largest utility{_upper(found)}; "
        f"the tolerance is {_percent(extra['tolerance'])}."
    )


def _new_titles(found: Property, extra: Mapping[str, Any]) -> str:
    interval = span(Figure(mean=found.mean, lo=found.lo, hi=found.hi), 2)
    return (
        f"The offer that fits best is shown in {_percent(extra['new'])} of the answers under an invented title, and in "
        f"{_percent(extra['known'])} under its own: {number(found.mean, 2)} ({interval}) of it; at least "
        f"{number(extra['least'], 2)} is asked."
    )


def _upper(found: Property) -> str:
    if found.hi is None or not math.isfinite(found.hi):
        return " (no upper bound)"
    return f" (at most {_percent(found.hi)})"


_SENTENCE: Final[Mapping[str, Callable[[Property, Mapping[str, Any]], str]]] = {
    "monotonicity": _monotonicity,
    "continuity": _continuity,
    "individual_rationality": _rationality,
    "value_maximiser_ic": _value_maximiser,
    "exploitability": _exploitability,
    "new_titles": _new_titles,
}


def headline(report: Report) -> str:
    """Return in one sentence how our reward stands to the best rival of one generation and to the optimum.

    "" where the report compares nothing.
    """
    best, ours = report.best_single_generation, report.methods.get("llm_auction")
    if best is None or ours is None:
        return ""
    found = report.ratios[best]["reward_per_query"]
    figure, interval = ratio_words(found)
    above = found.difference is not None and found.difference.lo is not None and found.difference.lo > 0
    below = found.difference is not None and found.difference.hi is not None and found.difference.hi < 0
    standing = "ahead of" if above else "behind" if below else "not separated from"
    reward = number(ours["reward_per_query"].mean, 1)
    sentence = f"LLM-Auction earns a reward of {reward} per query: {standing} the best rival of one generation, "
    sentence += f"{METHOD[best][0]} ({figure}{', ' + interval if interval else ''})"
    if "optimum" in report.ratios:
        share = report.ratios["optimum"]["reward_per_query"].ratio
        sentence += f"; {_percent(None if share is None else share.mean, 0)} of the attainable optimum"
    return sentence + "."


def methods_table(report: Report, metrics: Sequence[str]) -> Table:
    """Build the table of methods by metrics, `mean±half` with the wider half of the 95% interval."""
    caption = "± is the wider half of the 95% bootstrap interval over queries; money in bid points"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("", no_wrap=True)
    for metric in metrics:
        table.add_column(METRIC[metric].short, justify="right")
    for name in [name for name in METHODS if name in report.methods]:
        cells = []
        for metric in metrics:
            figure, digits = report.methods[name][metric], METRIC[metric].digits
            spread = half_width(figure, digits)
            cells.append(Text.assemble(number(figure.mean, digits), (f"±{spread}" if spread else "", "dim")))
        table.add_row(METHOD[name][0], *cells, style="bold" if name == "llm_auction" else "")
    return table


def ratios_table(report: Report) -> Table:
    """Build the table of LLM-Auction over each baseline, with paired intervals."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), caption="paired 95% intervals", caption_justify="left")
    table.add_column("LLM-Auction over", no_wrap=True)
    for metric in COMPARED:
        table.add_column(METRIC[metric].short, justify="right")
    for name in [name for name in METHODS if name in report.ratios]:
        cells = []
        for metric in COMPARED:
            found = report.ratios[name].get(metric)
            figure, interval = ratio_words(found) if found else ("", "")
            cells.append(Text.assemble(figure, (f"  ({interval})" if interval else "", "dim")))
        table.add_row(METHOD[name][0], *cells)
    return table


def print_report(report: Report, console: Console) -> None:
    """Print who is ahead, methods, ratios and properties, as far as the report holds them."""
    if first := headline(report):
        console.print(escape(first), highlight=False)
    if report.methods:
        for metrics in (METRICS[:ON_ONE_LINE], METRICS[ON_ONE_LINE:]):
            console.print(methods_table(report, metrics))
    if report.ratios:
        console.print(ratios_table(report))
    for name, found in report.properties.items():
        mark = "[green]holds[/]" if found.holds else "[red]does not hold[/]"
        console.print(f"[bold]{escape(PROPERTY[name])}[/]: {mark}. {escape(verdict(name, found))}", highlight=False)

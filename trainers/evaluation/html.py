"""The report as one self-contained HTML page: no script, no outside asset, readable in the light and in the dark.

Queries, answers and ad titles are untrusted text: the template escapes everything but the plots, and the page's own
policy forbids scripts and requests. What the figures mean in words is left to `wording`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from trainers.evaluation.comparison import COMPARED
from trainers.evaluation.plots import PLOT_TITLE, plots
from trainers.evaluation.records import METHODS, METRICS
from trainers.evaluation.report import PROPERTIES, Report, Sample, ShownAd
from trainers.evaluation.wording import (
    METHOD,
    METRIC,
    PAPER_RATIO,
    PROPERTY,
    machine_words,
    number,
    ratio_words,
    span,
    verdict,
)

_TEMPLATES: Final = Path(__file__).parent / "templates"

PLOT_NOTE: Final = {
    "learning": "Each epoch's policy; the methods of the table above as horizontal lines.",
    "allocation": "One ad's bid is swept over the test queries, everything else stays. Bands: 95% intervals.",
    "continuity": "One ad on one query. Theorem 4.3 promises a curve without steps.",
    "calibration": "Where the model says 30%, are 30% clicked? The bars count the shown ads behind each point.",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure and its interval as shown."""

    figure: str
    interval: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Headline:
    """One of the few figures that open the page."""

    figure: str
    label: str
    interval: str


def render_html(report: Report) -> str:
    """The page as text. What the report does not hold has no section."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    methods = [name for name in METHODS if name in report.methods]
    rivals = [name for name in METHODS if name in report.ratios]
    return environment.get_template("report.html.j2").render(
        report=report,
        meta=report.meta,
        machine=machine_words(report.meta.machine),
        headlines=headlines(report),
        metrics=[METRIC[metric] for metric in METRICS],
        methods=[(name, *METHOD[name], [_figure_cell(report, name, metric) for metric in METRICS]) for name in methods],
        rivals=[METHOD[name] for name in rivals],
        ratios=[(METRIC[metric], [_ratio_cell(report, name, metric) for name in rivals]) for metric in COMPARED],
        properties=[
            (PROPERTY[name], report.properties[name].holds, verdict(name, report.properties[name]))
            for name in PROPERTIES
            if name in report.properties
        ],
        plots=[(PLOT_TITLE[name], svg, PLOT_NOTE[name]) for name, svg in plots(report).items()],
        samples=[
            (query, [(METHOD[s.method][1], segments(s), s.ads) for s in group])
            for query, group in groupby(report.samples, key=lambda sample: sample.query)
        ],
        number=number,
    )


def segments(sample: Sample) -> list[tuple[str, ShownAd | None]]:
    """The answer's text cut at its ads: (text, the ad whose title it is, or None). Joined it is the whole text."""
    parts: list[tuple[str, ShownAd | None]] = []
    at = 0
    for ad in sorted(sample.ads, key=lambda ad: ad.start):
        parts += [(sample.text[at : ad.start], None), (sample.text[ad.start : ad.end], ad)]
        at = ad.end
    parts.append((sample.text[at:], None))
    return [(text, ad) for text, ad in parts if text or ad]


def headlines(report: Report) -> list[Headline]:
    """The comparisons that the paper is read for, and the cost of an answer; those that were measured."""
    shown = []
    for (rival, metric), _ in PAPER_RATIO.items():
        compared = report.ratios.get(rival, {}).get(metric)
        if compared is None or compared.ratio is None:
            continue
        figure, interval = ratio_words(compared)
        name = METRIC[metric].name.removesuffix(" per query").lower()
        shown.append(Headline(figure, f"{name} of {'the ' * (rival == 'pretrained')}{_rival(rival)}", interval))
    ours = report.methods.get("llm_auction")
    if ours is not None:
        calls, invalid = ours["generations_per_query"], ours["invalid_insertions"]
        shown.append(Headline(number(calls.mean, 1), "model calls per query", _calls_of(report)))
        shown.append(Headline(number(invalid.mean, 3), "invalid insertions per answer", span(invalid, 3)))
    return shown


def _rival(name: str) -> str:
    return "pretrained model" if name == "pretrained" else METHOD[name][0]


def _calls_of(report: Report) -> str:
    mosaic = report.methods.get("mosaic")
    return f"MOSAIC: {number(mosaic['generations_per_query'].mean, 1)}" if mosaic else ""


def _figure_cell(report: Report, method: str, metric: str) -> Cell:
    figure, digits = report.methods[method][metric], METRIC[metric].digits
    note = "no ad shown" if figure.mean is None else ""
    return Cell(number(figure.mean, digits), span(figure, digits), note)


def _ratio_cell(report: Report, rival: str, metric: str) -> Cell:
    compared = report.ratios[rival].get(metric)
    if compared is None:
        return Cell(number(None, 0))
    notes = [] if compared.ratio else ["difference: the rival's figure is not positive"]
    if (rival, metric) in PAPER_RATIO:
        notes.append(f"paper: {PAPER_RATIO[rival, metric]:.2f}\N{MULTIPLICATION SIGN}")
    return Cell(*ratio_words(compared), "; ".join(notes))

"""The report as one self-contained HTML page with plots as inline SVG: no script, no outside asset, light and dark.

Queries, answers and ad titles are untrusted text: the template escapes everything but the plots, and the page's own
policy forbids scripts and requests. Plots are drawn by matplotlib without a display; every series differs in colour
and in its dashes, and each SVG carries its own dark variant.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import fsspec
import matplotlib as mpl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainers.evaluation.metrics import COMPARED, METHODS, METRICS
from trainers.evaluation.report import PROPERTIES, REPORT_HTML, REPORT_JSON, Report, Sample, ShownAd, encode_report
from trainers.evaluation.text import (
    METHOD,
    METRIC,
    PAPER_RATIO,
    PROPERTY,
    headline,
    machine_words,
    number,
    ratio_words,
    span,
    verdict,
)

_TEMPLATES: Final = Path(__file__).parent / "templates"

INK, FAINT = "#16202e", "#c3ccd9"
# Okabe and Ito's hues, each in a tone that stands out from white and one that does from near-black.
SERIES: Final[Mapping[str, tuple[str, str, Any]]] = {
    "pretrained": ("#6b7688", "#a3afc2", (0, (1, 1.6))),
    "mosaic_20": ("#c04d00", "#ff9b5c", (0, (5, 2))),
    "gsp": ("#007a5a", "#3fd0a6", (0, (5, 1.5, 1, 1.5))),
    "segment": ("#a8457c", "#ee9cc6", (0, (3, 1.5, 1, 1.5, 1, 1.5))),
    "llm_auction": ("#0064a8", "#62b8f5", "-"),
    "oracle": ("#7d6500", "#ecd05a", (0, (9, 2.5))),
    "optimum": ("#16202e", "#e8ecf3", (0, (2, 3))),
}
"""Methods that are drawn, with their colours in a light and a dark page, and their dashes."""
PAIR: Final[Mapping[str, str]] = {
    INK: "#e8ecf3",
    FAINT: "#3a475b",
    **{light: dark for light, dark, _ in SERIES.values()},
}
"""Colour in a light page -> colour in a dark one; the epochs' ramp apart."""

EARLY, LATE = ("#a9bdd4", "#3f5878"), ("#003e6b", "#9fd8ff")
MAX_EPOCHS: Final = 6
"""Most epochs drawn in one plot: the first, the last and some between."""

PLOT_TITLE: Final = {
    "learning": "Revenue and reward by epoch",
    "allocation": "Allocation by bid, for each epoch",
    "continuity": "Allocation of one ad, bid by bid",
    "calibration": "Calibration of the pCTR model",
}

# Inches at the page's scale of about 100 pixels each, so that letters are of one size in all plots.
_WHOLE, _HALF = (11.3, 4.0), (5.4, 4.2)

_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "llm-auction",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.9,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}

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
    """Render the page; what the report does not hold has no section."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    methods = [name for name in METHODS if name in report.methods]
    baselines = [name for name in METHODS if name in report.ratios]
    return environment.get_template("report.html.j2").render(
        report=report,
        meta=report.meta,
        machine=machine_words(report.meta.machine),
        headline=headline(report),
        headlines=headlines(report),
        metrics=[METRIC[metric] for metric in METRICS],
        methods=[(name, *METHOD[name], [_figure_cell(report, name, metric) for metric in METRICS]) for name in methods],
        compared=[METRIC[metric] for metric in COMPARED],
        ratios=[(*METHOD[name], [_ratio_cell(report, name, metric) for metric in COMPARED]) for name in baselines],
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


def write_report(report: Report, out_dir: str | Path) -> None:
    """Write report.json and report.html into a folder or fsspec URL; each appears whole or not at all."""
    # Both are rendered before either is written, so that a folder never pairs a new report with an old page.
    files = {REPORT_JSON: encode_report(report), REPORT_HTML: render_html(report)}
    fs, root = fsspec.core.url_to_fs(str(out_dir))
    fs.makedirs(root, exist_ok=True)
    for name, text in files.items():
        with fs.open(f"{root}/{name}.partial", "wb") as file:
            file.write(text.encode("utf-8"))
        fs.mv(f"{root}/{name}.partial", f"{root}/{name}")


def segments(sample: Sample) -> list[tuple[str, ShownAd | None]]:
    """Cut the answer's text at its ads: (text, the ad whose title it is, or None); joined it is the whole text."""
    parts: list[tuple[str, ShownAd | None]] = []
    at = 0
    for ad in sorted(sample.ads, key=lambda ad: ad.start):
        parts += [(sample.text[at : ad.start], None), (sample.text[ad.start : ad.end], ad)]
        at = ad.end
    parts.append((sample.text[at:], None))
    return [(text, ad) for text, ad in parts if text or ad]


def headlines(report: Report) -> list[Headline]:
    """Return the paper's main comparisons and the cost of an answer, as far as they were measured."""
    shown = []
    for (baseline, metric), _ in PAPER_RATIO.items():
        compared = report.ratios.get(baseline, {}).get(metric)
        if compared is None or compared.ratio is None:
            continue
        figure, interval = ratio_words(compared)
        name = METRIC[metric].name.removesuffix(" per query").lower()
        shown.append(
            Headline(figure, f"{name} of {'the ' * (baseline == 'pretrained')}{_baseline(baseline)}", interval)
        )
    ours = report.methods.get("llm_auction")
    if ours is not None:
        calls, invalid = ours["generations_per_query"], ours["invalid_insertions"]
        shown.append(Headline(number(calls.mean, 1), "model calls per query", _calls_of(report)))
        shown.append(Headline(number(invalid.mean, 3), "invalid insertions per answer", span(invalid, 3)))
    return shown


def _baseline(name: str) -> str:
    return "pretrained model" if name == "pretrained" else METHOD[name][0]


def _calls_of(report: Report) -> str:
    mosaic = report.methods.get("mosaic_20")
    return f"MOSAIC-20: {number(mosaic['generations_per_query'].mean, 1)}" if mosaic else ""


def _figure_cell(report: Report, method: str, metric: str) -> Cell:
    figure, digits = report.methods[method][metric], METRIC[metric].digits
    note = "no ad shown" if figure.mean is None else ""
    return Cell(number(figure.mean, digits), span(figure, digits), note)


def _ratio_cell(report: Report, baseline: str, metric: str) -> Cell:
    compared = report.ratios[baseline].get(metric)
    if compared is None:
        return Cell(number(None, 0))
    notes = [] if compared.ratio else ["difference: the rival's figure is not positive"]
    if (baseline, metric) in PAPER_RATIO:
        notes.append(f"paper: {PAPER_RATIO[baseline, metric]:.2f}\N{MULTIPLICATION SIGN}")
    return Cell(*ratio_words(compared), "; ".join(notes))


def plots(report: Report) -> dict[str, Markup]:
    """Draw the plots that the report has data for, as SVG by name: learning, allocation, continuity, calibration."""
    drawing: dict[str, Callable[[Report], Figure]] = {}
    if report.epochs:
        drawing["learning"] = _learning
    if report.allocation is not None and report.allocation.epochs:
        drawing["allocation"] = _allocation
    if report.continuity_curve is not None:
        drawing["continuity"] = _continuity
    if report.calibration is not None:
        drawing["calibration"] = _calibration
    with mpl.rc_context(_STYLE):
        return {name: _svg(name, draw(report)) for name, draw in drawing.items()}


def _learning(report: Report) -> Figure:
    figure = Figure(figsize=_WHOLE, layout="constrained")
    panels = figure.subplots(1, 2)
    titles = ("Revenue per query (bid points)", "Reward per query (bid points)")
    for axes, title, metric in zip(panels, titles, ("revenue_per_query", "reward_per_query"), strict=True):
        points = [(e.epoch, getattr(e, metric)) for e in report.epochs if getattr(e, metric) is not None]
        colour = SERIES["llm_auction"][0]
        axes.plot(*zip(*points, strict=True) if points else ([], []), "o-", color=colour, ms=4.5, label="LLM-Auction")
        for method, (light, _, dashes) in SERIES.items():
            figures = report.methods.get(method)
            if method == "llm_auction" or figures is None or figures[metric].mean is None:
                continue
            axes.axhline(figures[metric].mean, color=light, linestyle=dashes, lw=1.6, label=METHOD[method][0])
        axes.set_title(title)
        axes.set_xlabel("Epoch (0: before training)")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.margins(y=0.1)
    lines, labels = panels[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=len(labels), handlelength=3)
    return figure


def _allocation(report: Report) -> Figure:
    found = report.allocation
    assert found is not None
    figure, axes = _one_panel()
    epochs = _some(sorted(found.epochs, key=int))
    for k, epoch in enumerate(epochs):
        share = k / max(1, len(epochs) - 1) if len(epochs) > 1 else 1.0
        colour = _between(share)
        band = found.epochs[epoch]
        axes.fill_between(found.bids, band.lo, band.hi, color=colour, alpha=0.18, lw=0)
        axes.plot(found.bids, band.mean, color=colour, lw=1.3 + 0.9 * share, marker=".", label=f"epoch {epoch}")
    axes.set_xlabel("Bid of the ad, the others' bids fixed (bid points)")
    axes.set_ylabel("Expected clicks per query")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _continuity(report: Report) -> Figure:
    found = report.continuity_curve
    assert found is not None
    figure, axes = _one_panel()
    colour = SERIES["llm_auction"][0]
    low = [max(0.0, m - 1.96 * e) for m, e in zip(found.mean, found.error, strict=True)]
    high = [m + 1.96 * e for m, e in zip(found.mean, found.error, strict=True)]
    axes.fill_between(found.bids, low, high, color=colour, alpha=0.2, lw=0, label="±1.96 standard errors")
    axes.plot(found.bids, found.mean, color=colour, lw=1.5, label="one ad on one query")
    measured = report.properties.get("continuity")
    at = (measured.model_extra or {}).get("at") if measured else None
    if isinstance(at, list) and len(at) == 2:
        mosaic = SERIES["mosaic_20"][0]
        axes.axvspan(at[0], at[1], color=mosaic, alpha=0.35, lw=0, label=f"largest jump, bid {at[0]:g} to {at[1]:g}")
    axes.set_xlabel("Bid of the ad (bid points)")
    axes.set_ylabel("Expected clicks per answer")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _calibration(report: Report) -> Figure:
    found = report.calibration
    assert found is not None
    figure = Figure(figsize=_HALF, layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    colour = SERIES["llm_auction"][0]
    top = 1.08 * max([*found.predicted, *found.observed, 0.05])
    axes.plot([0, top], [0, top], color=SERIES["pretrained"][0], ls=(0, (4, 2)), lw=1.2, label="perfect calibration")
    axes.plot(found.predicted, found.observed, "o-", color=colour, ms=5, label="pCTR model, by bin of prediction")
    axes.set_ylabel("Observed click rate")
    axes.set_ylim(0, top)
    axes.legend(loc="upper left")
    counts.bar(found.predicted, found.count, width=0.02 * top, color=colour)
    counts.set_xlim(0, top)
    counts.set_ylabel("Shown ads")
    counts.set_xlabel("Predicted click probability")
    return figure


def _one_panel() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_HALF, layout="constrained")
    return figure, figure.subplots()


def _some(epochs: list[str]) -> list[str]:
    """Choose at most MAX_EPOCHS of the epochs, evenly spread, first and last included."""
    if len(epochs) <= MAX_EPOCHS:
        return epochs
    step = (len(epochs) - 1) / (MAX_EPOCHS - 1)
    return [epochs[round(k * step)] for k in range(MAX_EPOCHS)]


def _between(share: float) -> str:
    """Return the light-page colour of an epoch at `share` of the way from the first to the last."""
    return _mix(EARLY[0], LATE[0], share)


def _mix(first: str, last: str, share: float) -> str:
    channels = (round(int(first[k : k + 2], 16) * (1 - share) + int(last[k : k + 2], 16) * share) for k in (1, 3, 5))
    return "#" + "".join(f"{c:02x}" for c in channels)


def _dark_pairs() -> dict[str, str]:
    """Map every colour that may be drawn to its dark variant."""
    steps = {k / n for n in range(1, MAX_EPOCHS) for k in range(n + 1)}
    return {**PAIR} | {_between(share): _mix(EARLY[1], LATE[1], share) for share in steps}


def _svg(name: str, figure: Figure) -> Markup:
    """Render the figure as an `<svg>` element with ids unique in the page and colours as variables."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    pairs = _dark_pairs()
    used = [light for light in pairs if light in text]
    for light in used:
        text = text.replace(light, f"var(--c{light[1:]},{light})")
    dark = "".join(f"--c{light[1:]}:{pairs[light]};" for light in used)
    style = f"<style>@media (prefers-color-scheme:dark){{.plot-{name}{{{dark}}}}}</style>"
    title = PLOT_TITLE[name]
    width, height = re.findall(r'(?:width|height)="([\d.]+)pt"', text)[:2]
    opening = (
        f'<svg class="plot plot-{name}" role="img" aria-label="{title}" xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {width} {height}"><title>{title}</title>{style}'
    )
    # Text is drawn in the page's own font, so that it can be selected and read aloud.
    text = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", "inherit-font", text).replace("inherit-font", "var(--font,sans-serif)")
    return Markup(re.sub(r"^<svg[^>]*>", lambda _: opening, text, count=1).strip())

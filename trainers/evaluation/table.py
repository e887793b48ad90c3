"""The report in a terminal of 100 columns (rich), and as Markdown for docs/results.md.

Figures, digits and verdicts come from `wording`; what is worth showing is what the report holds.
"""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from trainers.evaluation.comparison import COMPARED
from trainers.evaluation.records import METHODS, METRICS
from trainers.evaluation.report import Report
from trainers.evaluation.wording import (
    METHOD,
    METRIC,
    PROPERTY,
    half_width,
    machine_words,
    number,
    ratio_words,
    span,
    verdict,
)


def methods_table(report: Report) -> Table:
    """Metrics by methods, `mean±half` with the wider half of the 95% interval."""
    caption = "± is the wider half of the 95% bootstrap interval over queries; money in bid points"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("", no_wrap=True)
    names = [name for name in METHODS if name in report.methods]
    for name in names:
        table.add_column(METHOD[name][0], justify="right", style="bold" if name == "llm_auction" else "", no_wrap=True)
    for metric in METRICS:
        words = METRIC[metric]
        cells = []
        for name in names:
            figure = report.methods[name][metric]
            spread = half_width(figure, words.digits)
            cells.append(Text.assemble(number(figure.mean, words.digits), (f"±{spread}" if spread else "", "dim")))
        table.add_row(words.short, *cells)
    return table


def ratios_table(report: Report) -> Table:
    """LLM-Auction over each rival, with paired intervals."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), caption="paired 95% intervals", caption_justify="left")
    table.add_column("LLM-Auction over", no_wrap=True)
    rivals = [name for name in METHODS if name in report.ratios]
    for name in rivals:
        table.add_column(METHOD[name][0], justify="right")
    for metric in COMPARED:
        cells = []
        for name in rivals:
            found = report.ratios[name].get(metric)
            figure, interval = ratio_words(found) if found else ("", "")
            cells.append(Text.assemble(figure, (f"  ({interval})" if interval else "", "dim")))
        table.add_row(METRIC[metric].short, *cells)
    return table


def print_report(report: Report, console: Console) -> None:
    """Methods, ratios and verdicts, whichever the report holds."""
    if report.methods:
        console.print(methods_table(report))
    if report.ratios:
        console.print(ratios_table(report))
    for name, found in report.properties.items():
        mark = "[green]holds[/]" if found.holds else "[red]does not hold[/]"
        console.print(f"[bold]{escape(PROPERTY[name])}[/]: {mark}. {escape(verdict(name, found))}", highlight=False)


def markdown_table(report: Report) -> str:
    """Methods and ratios as Markdown tables, the verdicts, and how to repeat them: a section of docs/results.md."""
    names = [name for name in METHODS if name in report.methods]
    lines = [_row(["", *(METHOD[name][1] for name in names)]), _row(["---", *["---:"] * len(names)])]
    for metric in METRICS:
        words = METRIC[metric]
        cells = [f"{words.name} ({words.unit})"]
        for name in names:
            figure = report.methods[name][metric]
            interval = span(figure, words.digits)
            cells.append(number(figure.mean, words.digits) + (f" ({interval})" if interval else ""))
        lines.append(_row(cells))
    rivals = [name for name in METHODS if name in report.ratios]
    if rivals:
        lines += ["", _row(["LLM-Auction over", *(METHOD[name][1] for name in rivals)])]
        lines.append(_row(["---", *["---:"] * len(rivals)]))
        for metric in COMPARED:
            cells = [METRIC[metric].name]
            for name in rivals:
                found = report.ratios[name].get(metric)
                value, interval = ratio_words(found) if found else ("", "")
                cells.append(value + (f" ({interval})" if interval else ""))
            lines.append(_row(cells))
    if report.properties:
        lines.append("")
        for key, result in report.properties.items():
            holds = "holds" if result.holds else "**does not hold**"
            lines.append(f"- {PROPERTY[key]}: {holds}. {verdict(key, result)}")
    meta = report.meta
    lines += [
        "",
        f"95% intervals, bootstrap over {meta.queries} held-out queries with {meta.candidates} candidates each; "
        f"base {_cell(meta.base)}, config {_cell(meta.config)}, seed {meta.seed}; "
        f"{_cell(machine_words(meta.machine))}; {_cell(meta.date)}.",
        "",
        # Indented code needs no fence that the command could close.
        *("    " + line for line in meta.command.splitlines()),
    ]
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    """Text that cannot end a cell or begin a tag."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")

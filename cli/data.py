"""`llm-auction data`: read a catalogue and queries, and report which rows were accepted, refused or repaired.

`simulator.importers` reads the files; this prints its report in the terminal, or as JSON for programs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechanism.errors import InputError

if TYPE_CHECKING:
    from simulator.importers import ImportedData, RowIssue


def data(
    source: Annotated[
        Path,
        typer.Argument(
            help="The folder of a data set (README, Real data), or a catalogue: CSV or JSONL with id,title,text."
        ),
    ],
    queries: Annotated[
        Path | None, typer.Argument(help="Queries for a catalogue file: CSV or JSONL with query.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail if any row is refused.")] = False,
    rows: Annotated[int, typer.Option(min=0, help="How many rows of each kind to list; 0 lists all.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON.")] = False,
) -> None:
    """Read catalogues and queries, and report every invalid row with its file, line and field."""
    imported = read(source, queries, strict=strict)
    if as_json:
        typer.echo(json.dumps(summary(imported), ensure_ascii=False, indent=2))
    else:
        show(imported, rows)


def read(source: Path, queries: Path | None, *, strict: bool) -> ImportedData:
    """Read the folder of a data set, or a catalogue file with or without queries.

    Raises:
        InputError: if queries are given for a folder, or as the importers raise it.
    """
    from simulator.importers import LOADERS, folder_kind, load_tables

    if not source.is_dir():
        return load_tables(source, queries, strict=strict)
    if queries is not None:
        raise InputError("QUERIES", str(queries), "leave it out: a folder holds its own queries")
    return LOADERS[folder_kind(source)](source, strict=strict)


def summary(imported: ImportedData) -> dict[str, object]:
    """Return the report as plain values: counts of usable records, counts by file, refused and repaired rows."""
    report = imported.report
    return {
        "ads": len(imported.ads),
        "queries": len(imported.queries),
        "labelled_queries": sum(bool(q.relevant) for q in imported.queries),
        "labels": sum(len(q.relevant) for q in imported.queries),
        "answers": sum(len(q.answers) for q in imported.queries),
        "files": {name: asdict(count) for name, count in report.files.items()},
        "refused": [asdict(issue) for issue in report.issues],
        "mended": [asdict(note) for note in report.repairs],
    }


def show(imported: ImportedData, rows: int) -> None:
    """Print counts by file, then the refused rows, then the repaired ones, at most `rows` of each (0: all)."""
    from rich.console import Console
    from rich.table import Table

    table = Table("file")
    for name in ("read", "accepted", "refused"):
        table.add_column(name, justify="right")
    for file, count in imported.report.files.items():
        table.add_row(file, f"{count.read:,}", f"{count.accepted:,}", f"{count.reported:,}")
    Console().print(table)
    facts = summary(imported)
    typer.echo(
        f"{facts['ads']} ads; {facts['queries']} queries, {facts['labelled_queries']} of them with"
        f" {facts['labels']} relevance labels" + (f"; {facts['answers']} answers" if facts["answers"] else "")
    )
    print_rows("refused", imported.report.issues, rows)
    print_rows("repaired", imported.report.repairs, rows)


def print_rows(title: str, issues: Sequence[RowIssue], rows: int) -> None:
    """Print one row a line, and the number of rows that are not listed."""
    typer.echo(f"{len(issues)} rows {title}" + (":" if issues else ""))
    shown = issues[: rows or None]
    for issue in shown:
        typer.echo(f"  {issue}")
    if len(shown) < len(issues):
        typer.echo(f"  and {len(issues) - len(shown)} more: --rows 0 lists all")

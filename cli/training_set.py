"""`llm-auction training-set`: write the training set of a lake to a file, for people and other tools."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import LakeUrl, Window
from cli.retrain import parse_moment
from mechanism.errors import InputError

SUFFIXES = (".parquet", ".jsonl")


def training_set(
    lake: LakeUrl,
    out: Annotated[Path, typer.Option(help="File to write: .parquet or .jsonl.")],
    since: Annotated[str, typer.Option(help="Answers from this time on, ISO 8601; empty: all.")] = "",
    until: Annotated[str, typer.Option(help="Answers before this time, ISO 8601; empty: all.")] = "",
    window: Window = 1_800.0,
    every: Annotated[bool, typer.Option("--all", help="Also answers that no trainer can use.")] = False,
) -> None:
    """Write every answer once, with its clicks within the window and its latest judgement.

    Raises:
        InputError: if the file's suffix is unknown, or there is no lake.
    """
    from streaming.lake import TrainingSet

    if out.suffix not in SUFFIXES:
        raise InputError("--out", str(out), f"end its name with {' or '.join(SUFFIXES)}")
    found = TrainingSet(lake, window)
    if not found.exists:
        raise InputError("--lake", lake, "no lake is there: give what `llm-auction worker lake` writes to")
    start, end = (parse_moment(name, text) for name, text in (("--since", since), ("--until", until)))
    rows = _write(out, found.tables(start, end, usable=not every))
    pinned = found.versions
    at = pinned.watermark.isoformat(timespec="seconds") if pinned.watermark else "unknown"
    typer.echo(
        f"{out}: {rows} answers from interactions@{pinned.interactions}, clicks@{pinned.clicks}, "
        f"judgements@{pinned.judgements}; complete up to {at}"
    )


def _write(out: Path, tables: Iterable[Any]) -> int:
    """Write the file under a temporary name and rename it; return the number of rows."""
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        rows = _write_parquet(draft, tables) if out.suffix == ".parquet" else _write_lines(draft, tables)
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return rows


def _write_parquet(path: Path, tables: Iterable[Any]) -> int:
    import pyarrow.parquet as pq

    from streaming.lake.training_set import training_schema

    rows, schema = 0, training_schema()
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table.cast(schema))
            rows += table.num_rows
    return rows


def _write_lines(path: Path, tables: Iterable[Any]) -> int:
    import msgspec

    rows = 0
    with path.open("wb") as file:
        for table in tables:
            for row in table.to_pylist(maps_as_pydicts="strict"):
                file.write(msgspec.json.encode(row) + b"\n")
                rows += 1
    return rows

"""`llm-auction training-set`: write the training set of a lake to a file, for people and other tools."""

from __future__ import annotations

import os
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import LakeUrl, Window
from cli.retrain import parse_moment
from mechanism.errors import ConfigError, InputError

if TYPE_CHECKING:
    from datetime import datetime

    from streaming.lake import Versions

SUFFIXES = (".parquet", ".jsonl")


class Engine(StrEnum):
    """What runs the query: an engine in this process, or Spark, here or on a cluster."""

    DATAFUSION = "datafusion"
    SPARK = "spark"


def training_set(
    lake: LakeUrl,
    out: Annotated[str, typer.Option(help="File to write: .parquet or .jsonl. With Spark: a new folder or URL.")],
    since: Annotated[str, typer.Option(help="Answers from this time on, ISO 8601; empty: all.")] = "",
    until: Annotated[str, typer.Option(help="Answers before this time, ISO 8601; empty: all.")] = "",
    window: Window = 1_800.0,
    every: Annotated[bool, typer.Option("--all", help="Also answers that no trainer can use.")] = False,
    engine: Annotated[Engine, typer.Option(help="What runs the query.")] = Engine.DATAFUSION,
) -> None:
    """Write every answer once, with its clicks within the window and its latest judgement.

    Raises:
        InputError: if the file's suffix is unknown, or there is no lake.
    """
    from streaming.lake import TrainingSet

    if engine is Engine.DATAFUSION and Path(out).suffix not in SUFFIXES:
        raise InputError("--out", out, f"end its name with {' or '.join(SUFFIXES)}")
    found = TrainingSet(lake, window)
    if not found.exists:
        raise InputError("--lake", lake, "no lake is there: give what `llm-auction worker lake` writes to")
    start, end = (parse_moment(name, text) for name, text in (("--since", since), ("--until", until)))
    pinned = found.versions
    if engine is Engine.SPARK:
        rows = _write_by_spark(lake, pinned, out, window, start, end, usable=not every)
    else:
        rows = _write(Path(out), found.tables(start, end, usable=not every))
    at = pinned.watermark.isoformat(timespec="seconds") if pinned.watermark else "unknown"
    typer.echo(
        f"{out}: {rows} answers from interactions@{pinned.interactions}, clicks@{pinned.clicks}, "
        f"judgements@{pinned.judgements}; complete up to {at}"
    )


def _write_by_spark(lake: str, pinned: Versions, out: str, window: float, *span: datetime | None, usable: bool) -> int:
    """Write the training set by Spark; return the number of rows.

    Raises:
        ConfigError: if Spark or its Java is not installed.
    """
    from streaming.lake.spark import write_training_set

    try:
        return write_training_set(lake, pinned, out, window, *span, usable=usable)
    except ModuleNotFoundError as error:
        remedy = f"it needs the package {error.name}: pip install 'llm-auction[spark]'"
        raise ConfigError("--engine", "spark", remedy) from error


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

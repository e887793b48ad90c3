"""Rows of Arrow files in the stream format, as `datasets.save_to_disk` writes them.

Such a file has no lines: a row's line is its number, from 1. Text that is not UTF-8 reaches the importer as surrogates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mechanism.errors import InputError
from simulator.importers.dataset import ReportBuilder, RowIssue
from simulator.importers.rows import Row


def arrow_rows(
    path: Path, file: str, required: Sequence[str], optional: Sequence[str], report: ReportBuilder
) -> Iterator[Row]:
    """Yield the rows of a file, named `file` in the report; text is not stripped, so that spans count its characters.

    Raises:
        InputError: if the file is no Arrow stream, lacks a `required` column, or pyarrow is not installed.
    """
    table = _read(path)
    report.open(file)
    missing = [name for name in required if name not in table.column_names]
    if missing or len(set(table.column_names)) != len(table.column_names):
        remedy = f"add the columns {', '.join(missing)}" if missing else "name each column once"
        raise InputError(f"{path} columns", ", ".join(table.column_names), remedy)
    for name in table.column_names:
        if name not in required and name not in optional:
            report.repair(RowIssue(file, 1, name, name, "this column is not known and is ignored"))
    known = [name for name in table.column_names if name in required or name in optional]
    number = 0
    for batch in table.select(known).to_batches():
        columns = [_values(batch.column(name)) for name in known]
        for values in zip(*columns, strict=True):
            number += 1
            report.read(file)
            yield Row(file, number, number, dict(zip(known, values, strict=True)))


def _read(path: Path) -> Any:
    try:
        import pyarrow as pa
    except ModuleNotFoundError as error:
        raise InputError(str(path), "an Arrow file", "install pyarrow: pip install 'llm-auction[train]'") from error
    try:
        with path.open("rb") as source, pa.ipc.open_stream(source) as stream:
            table = stream.read_all()
        table.validate()
    except OSError as error:
        raise InputError(str(path), error.strerror or str(error), "give a readable, complete Arrow stream") from error
    except pa.ArrowException as error:
        raise InputError(str(path), str(error), "give an Arrow file in the stream format") from error
    return table


def _values(column: Any) -> list[object]:
    import pyarrow as pa

    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        raw = column.cast(pa.large_binary()).to_pylist()
        return [None if value is None else value.decode("utf-8", errors="surrogateescape") for value in raw]
    return list(column.to_pylist())

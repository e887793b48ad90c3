"""The training set of a lake: `training_set.sql` over one version of each table, as columns or as rows.

Several passes over one `TrainingSet` read the same data, even if the tables are written in between; another object
reads their newest versions. Memory holds SLICE_ROWS answers at a time, with their clicks and judgements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from importlib.resources import files
from re import sub
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder

from mechanism.errors import InputError
from streaming.lake.schema import EPOCH, TABLES, arrow_schema, to_us
from streaming.lake.store import Lake, store_errors
from streaming.lake.table import watermark
from streaming.lake.training_rows import Row, Totals, Versions, to_row
from streaming.topics import CLICKS, INTERACTIONS, JUDGEMENTS

WINDOW_S = 1_800.0
"""The default attribution window: a click counts within half an hour of the answer."""
SLICE_ROWS = 100_000
CLOCKS_DIFFER = timedelta(minutes=10)
"""By how much a click or a judgement may seem to precede its answer, since another machine wrote it."""
_SQL = files("streaming.lake").joinpath("training_set.sql").read_text(encoding="utf-8")
_DAY = timedelta(days=1)
_END = datetime(9999, 1, 1, tzinfo=UTC)
_CLICKS = pa.list_(pa.struct([("ad_id", pa.string()), ("clicked_after_s", pa.float64())]))


class TrainingSet:
    """The training set at the lake's newest versions, or at pinned `versions`.

    Raises:
        InputError: if `window_s` is not positive, or a pinned version is no longer kept.
        LakeUnavailable: if the lake cannot be read now.
    """

    def __init__(self, url: str, window_s: float = WINDOW_S, versions: Versions | None = None) -> None:
        if not window_s > 0:
            raise InputError("window_s", window_s, "give more than 0 seconds")
        self.window_s = window_s
        self._lake = Lake(url)
        self._tables: dict[str, DeltaTable] = {}
        for name in TABLES:
            pinned = None if versions is None else getattr(versions, name)
            if pinned is not None or (versions is None and self._lake.has(name)):
                self._tables[name] = self._lake.open(name, pinned)

    @property
    def exists(self) -> bool:
        """Whether the lake has the tables."""
        return len(self._tables) == len(TABLES)

    @cached_property
    def versions(self) -> Versions:
        """The versions that are read. Passed to the constructor, they give the same training set again."""
        found = {name: handle.version() for name, handle in self._tables.items()}
        return Versions(
            interactions=found.get(INTERACTIONS),
            clicks=found.get(CLICKS),
            judgements=found.get(JUDGEMENTS),
            watermark=self.watermark(),
        )

    def watermark(self) -> datetime | None:
        """Return the time until which all interactions and clicks of the log are in the tables; None if unknown."""
        if not self.exists:
            return None
        marks = [watermark(self._tables[topic], topic) for topic in (INTERACTIONS, CLICKS)]
        known = [mark for mark in marks if mark is not None]
        return min(known) if len(known) == len(marks) else None

    def count(self, since: datetime | None = None, until: datetime | None = None) -> int:
        """Return the number of usable answers from `since` to before `until`."""
        return self.totals(since, until).usable

    def totals(self, since: datetime | None = None, until: datetime | None = None) -> Totals:
        """Count the answers from `since` to before `until`."""
        counted = Totals()
        sql = (
            "SELECT count(*) AS answers, count(judge) AS judged, "
            "coalesce(sum(CASE WHEN usable THEN 1 ELSE 0 END), 0) AS usable, "
            "coalesce(sum(clicked_ads), 0) AS clicks FROM training_set"
        )
        for table in self.select(sql, since, until):
            (found,) = table.to_pylist()
            counted = Totals(**{name: getattr(counted, name) + int(found[name]) for name in counted.__struct_fields__})
        return counted

    def tables(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        *,
        columns: Sequence[str] | None = None,
        usable: bool = True,
    ) -> Iterator[Any]:
        """Yield Arrow tables of the answers from `since` to before `until`, in their order.

        With `usable`, only answers that a trainer can use are included.

        Raises:
            InputError: if a column does not exist.
        """
        schema = training_schema()
        wanted = list(schema.names if columns is None else columns)
        if unknown := sorted(set(wanted) - set(schema.names)):
            raise InputError("columns", unknown[0], f"give some of {', '.join(schema.names)}")
        if not self.exists:
            return
        # a table that an older worker wrote may lack the newest columns
        stored = {field.name for field in self._tables[INTERACTIONS].schema().fields}
        available = [name for name in wanted if name in stored or name not in arrow_schema(INTERACTIONS).names]
        where = "WHERE usable " if usable else ""
        names = ", ".join(f'"{name}"' for name in available)
        sql = f"SELECT {names} FROM training_set {where}ORDER BY occurred_us, auction_id"
        for found in self.select(sql, since, until):
            if found.num_rows:
                yield _with_missing_columns(found, wanted, schema)

    def rows(
        self, since: datetime | None = None, until: datetime | None = None, *, usable: bool = True
    ) -> Iterator[Row]:
        """Yield the answers from `since` to before `until`, in their order."""
        for table in self.tables(since, until, usable=usable):
            for batch in table.to_batches(max_chunksize=1_000):
                for values in batch.to_pylist():
                    yield to_row(values, self.window_s)

    def select(self, sql: str, since: datetime | None = None, until: datetime | None = None) -> Iterator[Any]:
        """Yield the result of an SQL query on `training_set`, an Arrow table for each slice of time."""
        for start, end in self._slices(since, until):
            yield self._run(f"WITH training_set AS (\n{query(start, end, self.window_s)}\n)\n{sql}")

    def _slices(self, since: datetime | None, until: datetime | None) -> Iterator[tuple[datetime, datetime]]:
        """Yield spans of time with at most SLICE_ROWS answers each, provided that a day's answers are spread evenly.

        Copies of one answer have the same time, so they are in the same span.
        """
        if not self.exists:
            return
        low, high = bounds(since, until)
        counts = self._run(
            f"SELECT day, count(*) AS answers FROM interactions WHERE day >= DATE '{low.date()}' "
            f"AND day <= DATE '{high.date()}' GROUP BY day ORDER BY day"
        )
        begin, collected = low, 0
        for found in counts.to_pylist():
            midnight = datetime.combine(found["day"], time(), UTC)
            parts = -(-found["answers"] // SLICE_ROWS)
            for i in range(parts):
                edge = midnight + i * _DAY / parts
                if collected + found["answers"] // parts > SLICE_ROWS and begin < edge < high:
                    yield begin, edge
                    begin, collected = edge, 0
                collected += found["answers"] // parts
        if collected and begin < high:
            yield begin, high

    def _run(self, sql: str) -> Any:
        engine = QueryBuilder()
        with store_errors(self._lake.url):
            for name, handle in self._tables.items():
                engine.register(name, handle)
            return pa.table(engine.execute(sql).read_all())


def bounds(since: datetime | None, until: datetime | None) -> tuple[datetime, datetime]:
    """Return the first moment of a span of time and the one that ends it; None is open."""
    return max(since or EPOCH, EPOCH), min(until or _END, _END)


def query(since: datetime, until: datetime, window_s: float) -> str:
    """Return `training_set.sql` for the answers from `since` to before `until`."""
    window_us = round(window_s * 1_000_000)
    earliest = max(since.astimezone(UTC), EPOCH + CLOCKS_DIFFER) - CLOCKS_DIFFER
    values: dict[str, int | date] = {
        "since_us": to_us(since),
        "until_us": to_us(until),
        "window_us": window_us,
        "first_day": since.astimezone(UTC).date(),
        "last_day": until.astimezone(UTC).date(),
        "first_us": to_us(earliest),
        "first_event_day": earliest.date(),
        "last_click_us": to_us(until) + window_us,
        "last_click_day": (until.astimezone(UTC) + timedelta(microseconds=window_us)).date(),
    }
    sql = sub("--.*", "", _SQL)
    for name, value in values.items():
        sql = sub(rf":{name}\b", f"DATE '{value}'" if isinstance(value, date) else str(value), sql)
    return sql


def training_schema() -> Any:
    """Return the Arrow schema of the training set: the columns of an interaction, its clicks, and its judgement."""
    judged = arrow_schema(JUDGEMENTS)
    added = {
        "clicks": _CLICKS,
        "clicked_ads": pa.int64(),
        "judged_at": judged.field("occurred_at").type,
        "judge": judged.field("judge").type,
        "judge_version": judged.field("judge_version").type,
        "grades": judged.field("ads").type,
        "answer_quality": judged.field("answer_quality").type,
        "usable": pa.bool_(),
    }
    return pa.schema([*arrow_schema(INTERACTIONS), *(pa.field(name, kind) for name, kind in added.items())])


def _with_missing_columns(table: Any, wanted: Sequence[str], schema: Any) -> Any:
    """Return the wanted columns in order, with nulls in those that the stored table does not have yet."""
    found = []
    for name in wanted:
        if name in table.column_names:
            column = table.column(name)
            found.append(column.cast(_plain(column.type)))
        else:
            found.append(pa.nulls(table.num_rows, schema.field(name).type))
    return pa.table(found, names=list(wanted))


def _plain(kind: Any) -> Any:
    """Return an Arrow type without views, which some readers of Parquet do not support."""
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _plain(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type))
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    return kind

"""Import of the shards of earlier releases: Parquet files of judged interactions, listed by manifests.

    manifests/0002/0000000017.json     partition 2, generation 17; the highest generation is valid
    shards/day=2026-11-24/....parquet  rows of one day and partition; the highest revision of an auction is valid
    erasures/<pseudonym>.json          a request to erase a user's answers

Each day of each partition is one commit to each table, named by an application transaction. An import that was killed
therefore continues where it stopped, and a second import changes nothing.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import fsspec
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, Transaction, write_deltalake

from mechanism.errors import InputError
from streaming.events import AnyEvent, Click, GradedAd, Interaction, Judgement, click_id_of
from streaming.lake.arrow import struct
from streaming.lake.erasures import Request, Requests, put_requests
from streaming.lake.schema import PARTITION_BY, STATISTICS, TABLES, Stored, arrow_schema, to_table, without_reader
from streaming.lake.store import Lake, store_errors
from streaming.lake.table import LOG_PROPERTY, LakeTable, Mark
from streaming.topics import CLICKS, INTERACTIONS, JUDGEMENTS

Rows = dict[str, list[AnyEvent]]


class _Shard(msgspec.Struct, frozen=True):
    path: str
    day: str


class _Progress(msgspec.Struct, frozen=True):
    watermark: datetime | None = None


class _Manifest(msgspec.Struct, frozen=True):
    partition: int
    shards: tuple[_Shard, ...] = ()
    progress: _Progress = _Progress()


class _Erasure(msgspec.Struct, frozen=True):
    user: str
    requested_at: datetime
    log_until: datetime


def import_shards(url: str, lake: Lake, report: Callable[[str], None] = lambda line: None) -> int:
    """Write the rows of the shards at `url` into the lake's tables; return the number of answers that were written.

    Stop the worker that writes the shards first. InputError propagates if there are no shards or one is damaged, and
    LakeUnavailable if the lake cannot be written now; another call then continues the import.
    """
    files, root = _filesystem(url)
    manifests = _manifests(files, root, url)
    erasures = _erasures(files, root)
    put_requests(lake, erasures.all)
    source = f"shards:{hashlib.sha256(url.rstrip('/').encode()).hexdigest()[:16]}"
    written = 0
    for manifest in manifests:
        for day in sorted({shard.day for shard in manifest.shards}):
            paths = sorted(shard.path for shard in manifest.shards if shard.day == day)
            log = f"{source}/{day}"
            name = f"{log}/{manifest.partition}"
            missing = [table for table in TABLES if not _has(lake, table, name)]
            if not missing:
                continue
            rows = _read_day(files, root, url, paths)
            for table in missing:
                _write(lake, table, rows[table], erasures, log, manifest.partition)
            written += len(rows[INTERACTIONS])
            report(f"{day} partition {manifest.partition}: {len(rows[INTERACTIONS])} answers")
    _keep_watermark(lake, source, manifests)
    return written


def _filesystem(url: str) -> tuple[Any, str]:
    try:
        files, root = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise InputError("--shards", url, f"{error}: give a folder, or a URL that fsspec knows") from None
    return files, root.rstrip("/")


def _manifests(files: Any, root: str, url: str) -> list[_Manifest]:
    found = []
    for partition in _names(files, f"{root}/manifests"):
        generations = [name for name in _names(files, f"{root}/manifests/{partition}") if name.endswith(".json")]
        if generations:
            data = files.cat_file(f"{root}/manifests/{partition}/{generations[-1]}")
            try:
                found.append(msgspec.json.decode(data, type=_Manifest))
            except msgspec.DecodeError as error:
                place = f"{url}/manifests/{partition}/{generations[-1]}"
                raise InputError(place, "<manifest>", f"{error}: bring it back from a copy") from None
    if not found:
        raise InputError("--shards", url, "no shards are there: give the folder or URL that `worker feedback` wrote to")
    return found


def _erasures(files: Any, root: str) -> Requests:
    names = [name for name in _names(files, f"{root}/erasures") if name.endswith(".json")]
    found = [msgspec.json.decode(files.cat_file(f"{root}/erasures/{name}"), type=_Erasure) for name in names]
    return Requests(
        [Request(kind="user", subject=e.user, requested_at=e.requested_at, log_until=e.log_until) for e in found]
    )


def _names(files: Any, folder: str) -> list[str]:
    try:
        paths = files.ls(folder, detail=False)
    except FileNotFoundError:
        return []
    names = sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in paths)
    return [name for name in names if not name.startswith(".")]


def _read_day(files: Any, root: str, url: str, paths: list[str]) -> Rows:
    newest: dict[str, dict[str, Any]] = {}
    for path in paths:
        try:
            table = pq.read_table(io.BytesIO(files.cat_file(f"{root}/{path}")))
        except (FileNotFoundError, pa.ArrowInvalid) as error:
            raise InputError("shard", f"{url}/{path}", f"{error}: bring it back from a copy") from error
        for row in table.to_pylist():
            known = newest.get(row["auction_id"])
            if known is None or known["revision"] < row["revision"]:
                newest[row["auction_id"]] = row
    found: Rows = {table: [] for table in TABLES}
    for row in sorted(newest.values(), key=lambda row: (row["occurred_at"], row["auction_id"])):
        event = struct(Interaction, row)
        found[INTERACTIONS].append(event)
        found[CLICKS] += _clicks(event, row["ads"])
        found[JUDGEMENTS].append(_judgement(row))
    return found


def _clicks(event: Interaction, ads: list[dict[str, Any]]) -> Iterator[Click]:
    """Yield the clicks that the judgement had joined as events, with their prices from `shown`."""
    campaigns = {candidate.ad_id: candidate.campaign_id for candidate in event.candidates}
    shown = {ad.ad_id: ad for ad in event.shown}
    for ad in ads:
        if ad["clicked_after_s"] is None:
            continue
        ad_id = ad["ad_id"]
        yield Click(
            occurred_at=event.occurred_at + timedelta(seconds=ad["clicked_after_s"]),
            click_id=click_id_of(event.auction_id, ad_id),
            auction_id=event.auction_id,
            ad_id=ad_id,
            campaign_id=campaigns[ad_id],
            placement=event.placement,
            verdict="valid",
            price_micros=shown[ad_id].price_micros if shown[ad_id].pricing == "click" else 0,
            currency=event.currency,
            model_version=event.model_version,
        )


def _judgement(row: dict[str, Any]) -> Judgement:
    return Judgement(
        occurred_at=row["judged_at"],
        auction_id=row["auction_id"],
        answered_at=row["occurred_at"],
        judge=row["judge"],
        judge_version=row["judge_version"],
        ads=tuple(
            GradedAd(ad_id=ad["ad_id"], relevance=ad["relevance"], nativeness=ad["nativeness"]) for ad in row["ads"]
        ),
        answer_quality=row["answer_quality"],
    )


def _keep_watermark(lake: Lake, source: str, manifests: list[_Manifest]) -> None:
    """Store the shards' watermarks in tables that no worker has written yet; a worker later replaces them."""
    marks = {n: Mark(0, manifest.progress.watermark) for n, manifest in enumerate(manifests)}
    for name in TABLES:
        if LOG_PROPERTY not in lake.open(name).metadata().configuration:
            table = LakeTable(lake, name, source)
            table.own(sorted(marks))
            table.append([], marks)


def _has(lake: Lake, table: str, name: str) -> bool:
    handle = lake.create(table, arrow_schema(table), [PARTITION_BY], STATISTICS)
    with store_errors(lake.location(table)):
        return handle.transaction_version(name) is not None


def _write(lake: Lake, table: str, events: list[AnyEvent], erasures: Requests, log: str, partition: int) -> None:
    """Commit a day's rows. `log` includes the day, so that log, partition and offset identify a row of the table."""
    rows = [Stored(event, None, event.occurred_at, log, partition, number) for number, event in enumerate(events)]
    kept = [without_reader(row) if erasures.cover(row.event) else row for row in rows]
    done = CommitProperties(app_transactions=[Transaction(f"{log}/{partition}", 1)], max_commit_retries=50)
    with store_errors(lake.location(table)):
        write_deltalake(
            lake.open(table), to_table(table, kept), mode="append", schema_mode="merge", commit_properties=done
        )

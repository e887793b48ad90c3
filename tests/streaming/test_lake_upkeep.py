"""Upkeep of the lake: erasure down to the bytes of the files, retention, merged files, and shards taken over."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.streaming.event_samples import BEGINNING, click, interaction
from mechanism.errors import ConfigError, InputError
from streaming.events import Interaction
from streaming.lake import TrainingSet
from streaming.lake.arrow import columns, plainers
from streaming.lake.erasures import drop_requests, erase, erase_before, read_audit, read_requests
from streaming.lake.import_shards import import_shards
from streaming.lake.maintenance import Maintenance, maintain, merge
from streaming.lake.store import Lake
from streaming.pseudonyms import pseudonym
from tests.streaming.lake_tables import append, judgement

ALICE, BOB = (pseudonym(name, bytes(32)) for name in ("alice", "bob"))
NOW = BEGINNING + timedelta(days=1)
AT_ONCE = Maintenance(kept_hours=0)


def users(url: str) -> list[str]:
    rows = TrainingSet(url).rows(usable=False)
    return [row.interaction.reader.user_id for row in rows if row.interaction.reader is not None]


def mentions(url: str, what: str) -> list[Path]:
    """Files of the lake with a text in them, in whatever row."""
    found = []
    for path in Path(url).rglob("*.parquet"):
        if "_delta_log" not in path.parts and what in str(pq.read_table(path).to_pylist()):
            found.append(path)
    return found + [path for path in Path(url).rglob("*") if path.is_file() and what.encode() in path.read_bytes()]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    url = str(tmp_path / "lake")
    events = [interaction(n, BEGINNING + timedelta(minutes=n), user=(ALICE, BOB, "")[n % 3]) for n in range(9)]
    append(url, *events[:5], click(events[0], "A0", 5.0), *map(judgement, events))
    append(url, *events[5:])
    return Lake(url)


def test_an_erased_user_is_gone_for_readers_at_once_and_from_the_files_after_upkeep(lake: Lake) -> None:
    assert mentions(lake.url, ALICE)
    request, answers = erase(lake, "user", ALICE, "carl", timedelta(days=30), NOW)
    assert answers == 3
    assert users(lake.url) == [BOB, ""] * 3
    totals = TrainingSet(lake.url).totals()
    assert (totals.answers, totals.usable, totals.clicks) == (9, 6, 1), "auctions and clicks remain"
    maintain(lake, AT_ONCE, NOW)
    named = [path for path in mentions(lake.url, ALICE) if "erasures" not in path.parts]
    assert {path.suffix for path in named} <= {".json"}, "the commit that erased names whom, until the log is cleaned"
    assert mentions(lake.url, BOB)
    assert erase(lake, "user", ALICE, "carl", timedelta(days=30), NOW - timedelta(seconds=1))[1] == 0
    assert [(line["who"], line["by"], line["answers"]) for line in read_audit(lake)] == [
        ("carl", "user", 0),
        ("carl", "user", 3),
    ]
    assert ALICE not in str(read_audit(lake))
    assert request.log_until == NOW + 2 * timedelta(days=31)
    drop_requests(lake, request.log_until - timedelta(seconds=1))
    assert read_requests(lake).all
    drop_requests(lake, request.log_until)
    assert read_requests(lake).all == []


def test_one_answer_and_all_before_a_moment_can_be_erased(lake: Lake) -> None:
    anonymous = interaction(2, BEGINNING + timedelta(minutes=2))
    assert erase(lake, "auction", anonymous.auction_id, "carl", timedelta(days=30), NOW)[1] == 1
    assert len(users(lake.url)) == 8
    assert erase_before(lake, BEGINNING + timedelta(minutes=4), "carl", NOW + timedelta(seconds=1)) == 3
    assert len(users(lake.url)) == 5
    assert [line["by"] for line in read_audit(lake)] == ["auction", "age"]


@pytest.mark.parametrize(("kind", "subject"), [("user", "alice"), ("auction", "1' OR '1'='1")])
def test_what_is_no_pseudonym_or_auction_is_refused_and_not_repeated(lake: Lake, kind: Any, subject: str) -> None:
    with pytest.raises(InputError, match=f"<{len(subject)} characters>"):
        erase(lake, kind, subject, "carl", timedelta(days=30))
    assert read_audit(lake) == []


def test_what_a_request_asked_for_and_a_worker_missed_goes_with_the_next_upkeep(lake: Lake) -> None:
    erase(lake, "user", ALICE, "carl", timedelta(days=30), NOW)
    append(lake.url, interaction(20, BEGINNING, user=ALICE), interaction(21, NOW + timedelta(hours=1), user=ALICE))
    assert users(lake.url).count(ALICE) == 2
    assert maintain(lake, Maintenance(), NOW).readers_removed == 1
    assert users(lake.url).count(ALICE) == 1, "what came after the request, with new consent, stays"


def test_readers_go_by_age_before_the_rows_do(lake: Lake) -> None:
    recent = NOW + timedelta(days=200)
    append(lake.url, interaction(30, recent), judgement(interaction(30, recent)))
    done = maintain(lake, Maintenance(), BEGINNING + timedelta(days=200))
    assert (done.readers_removed, done.rows_removed) == (9, 0)
    assert (TrainingSet(lake.url).totals().answers, TrainingSet(lake.url).count()) == (10, 1)
    assert maintain(lake, Maintenance(), BEGINNING + timedelta(days=402)).rows_removed == 9 + 1 + 9
    assert TrainingSet(lake.url).totals().answers == 1
    assert [(line["who"], line["answers"]) for line in read_audit(lake)] == [("retention", 9), ("retention", 1)]
    with pytest.raises(ConfigError, match="1 day"):
        Maintenance(days=0)


def test_small_files_are_merged_and_replaced_ones_removed_in_time(tmp_path: Path) -> None:
    url = str(tmp_path / "lake")
    for n in range(12):
        append(url, interaction(n), judgement(interaction(n)))
    (tmp_path / "lake" / "interactions" / "day=2026-11-24" / "left-by-a-killed-writer.parquet").write_bytes(b"x")
    before, pinned = list(TrainingSet(url).rows()), TrainingSet(url).versions
    done = maintain(Lake(url), Maintenance())
    assert (done.merged_files, done.removed_files) == (24, 0)
    assert len(Lake(url).open("interactions").file_uris()) == 1
    assert list(TrainingSet(url, versions=pinned).rows()) == before == list(TrainingSet(url).rows())
    assert maintain(Lake(url), AT_ONCE).removed_files == 24 + 1
    assert list(TrainingSet(url).rows()) == before
    assert len(list((tmp_path / "lake" / "interactions").rglob("*.parquet"))) >= 1


def test_files_of_recent_commits_are_merged_without_any_other_upkeep(tmp_path: Path) -> None:
    url = str(tmp_path / "lake")
    assert merge(Lake(url)) == 0
    for n in range(3):
        append(url, interaction(n), judgement(interaction(n)))
    before = list(TrainingSet(url).rows())
    assert merge(Lake(url)) == 6
    assert list(TrainingSet(url).rows()) == before
    assert len(Lake(url).open("interactions").file_uris()) == 1
    assert merge(Lake(url)) == 0


def test_upkeep_of_nothing_does_nothing(tmp_path: Path) -> None:
    assert maintain(Lake(str(tmp_path / "nowhere")), Maintenance()).to_dict() == dict.fromkeys(
        ("merged_files", "removed_files", "readers_removed", "rows_removed"), 0
    )


def write_shards(folder: Path, rows: list[tuple[Interaction, int, dict[str, float]]], partition: int = 0) -> None:
    """Write shards of the earlier release: a file a day, its manifest, as `worker feedback` did."""
    judged = [
        ("judged_at", pa.timestamp("us", tz="UTC")),
        ("window_s", pa.float64()),
        ("judge", pa.string()),
        ("judge_version", pa.string()),
        ("revision", pa.int64()),
        ("answer_quality", pa.float64()),
        ("clicks", pa.int32()),
        ("usable", pa.bool_()),
    ]
    ad = [("ad_id", pa.string()), ("clicked", pa.bool_()), ("clicked_after_s", pa.float64())]
    ad += [("relevance", pa.float64()), ("nativeness", pa.float64())]
    schema = pa.schema([*columns(Interaction).items(), *judged, ("ads", pa.list_(pa.struct(ad)))])
    shards = []
    for day in sorted({event.occurred_at.date() for event, _, _ in rows}):
        values = []
        for event, revision, clicked in rows:
            if event.occurred_at.date() != day:
                continue
            plain = {name: plainer(getattr(event, name)) for name, plainer in plainers(Interaction).items()}
            ads = [
                {"ad_id": s.ad_id, "clicked": s.ad_id in clicked, "clicked_after_s": clicked.get(s.ad_id)}
                for s in event.shown
            ]
            values.append(
                plain
                | {"judged_at": event.occurred_at, "window_s": 60.0, "judge": "rules", "judge_version": "1"}
                | {"revision": revision, "answer_quality": 0.5, "ads": ads}
            )
        path = f"shards/day={day}/{partition:04d}-{len(shards)}.parquet"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(values, schema=schema), folder / path)
        data = (folder / path).read_bytes()
        shards.append({"path": path, "day": str(day), "level": 0, "sha256": hashlib.sha256(data).hexdigest()})
    manifests = folder / "manifests" / f"{partition:04d}"
    manifests.mkdir(parents=True)
    (manifests / "0000000001.json").write_text("{")  # an earlier generation is not read
    progress = {"watermark": NOW.isoformat()}
    manifest = {"version": 1, "partition": partition, "progress": progress, "shards": shards}
    (manifests / "0000000002.json").write_bytes(msgspec.json.encode(manifest))


def test_shards_of_an_earlier_release_are_taken_over_once(tmp_path: Path) -> None:
    answers = [interaction(n, BEGINNING + timedelta(hours=n), user=(ALICE, BOB)[n % 2]) for n in range(30)]
    write_shards(tmp_path / "s", [(answer, 0, {}) for answer in answers] + [(answers[3], 1, {"A1": 7.25})])
    write_shards(tmp_path / "s", [(interaction(99, BEGINNING), 1, {"A0": 3.0})], 1)
    (tmp_path / "s/erasures").mkdir()
    asked = {
        "user": BOB,
        "requested_at": BEGINNING + timedelta(hours=10),
        "log_until": datetime.now(UTC) + timedelta(9),
    }
    (tmp_path / "s/erasures" / f"{BOB}.json").write_bytes(msgspec.json.encode(asked))
    lake = Lake(str(tmp_path / "lake"))
    assert import_shards(str(tmp_path / "s"), lake) == 31
    rows = {row.auction_id: row for row in TrainingSet(lake.url).rows(usable=False)}
    assert len(rows) == 31
    assert dict(rows[answers[3].auction_id].clicked_after_s) == {"A1": 7.25}
    assert rows[answers[2].auction_id].interaction == answers[2]
    assert rows[answers[2].auction_id].judgement is not None
    assert users(lake.url).count(BOB) == 15 - 5, "requests to erase hold here, too"
    assert TrainingSet(lake.url).watermark() == NOW
    assert import_shards(str(tmp_path / "s"), lake) == 0
    # the log holds some of the same events: each counts once
    append(lake.url, answers[3], click(answers[3], "A1", 7.25), judgement(answers[3]))
    totals = TrainingSet(lake.url).totals()
    assert (totals.answers, totals.clicks) == (31, 2)


def test_what_are_no_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no shards are there"):
        import_shards(str(tmp_path), Lake(str(tmp_path / "lake")))
    write_shards(tmp_path / "s", [(interaction(1), 0, {})])
    next((tmp_path / "s/shards").rglob("*.parquet")).unlink()
    with pytest.raises(InputError, match="bring it back"):
        import_shards(str(tmp_path / "s"), Lake(str(tmp_path / "lake")))

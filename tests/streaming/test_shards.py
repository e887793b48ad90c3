"""Shards: every field comes back, a generation is written once, newest revisions win, erased readers are gone."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.streaming.event_samples import BEGINNING, interaction
from mechanism.errors import InputError
from streaming.codec import decode
from streaming.events import Interaction, JudgedAd, Judgement
from streaming.log import Fenced
from streaming.pseudonyms import pseudonym
from streaming.shards import Row, ShardReader
from streaming.shards.erasures import request, requests
from streaming.shards.manifest import Manifest, Progress, Totals, merged, spans
from streaming.shards.row import from_table, schema, to_table
from streaming.shards.store import ShardStore
from streaming.shards.writer import FAN, GRACE, PartitionWriter

SAMPLES = Path(__file__).parent / "samples"
ALICE, BOB = (pseudonym(name, bytes(32)) for name in ("alice", "bob"))


def judged(event: Interaction, revision: int = 0, clicked: str = "") -> Row:
    ads = tuple(
        JudgedAd(
            ad_id=shown.ad_id,
            clicked=shown.ad_id == clicked,
            clicked_after_s=2.5 if shown.ad_id == clicked else None,
            relevance=0.5,
            nativeness=0.25,
        )
        for shown in event.shown
    )
    judgement = Judgement(
        occurred_at=event.occurred_at + timedelta(seconds=9),
        auction_id=event.auction_id,
        answered_at=event.occurred_at,
        window_s=60,
        judge="rules",
        judge_version="1",
        revision=revision,
        ads=ads,
        answer_quality=0.75,
    )
    return Row(event, judgement)


def append(writer: PartitionWriter, *rows: Row, watermark: datetime | None = None) -> None:
    start = writer.manifest.progress.judgements
    progress = Progress(interactions=start + len(rows), judgements=start + len(rows), watermark=watermark)
    added = Totals(judgements=len(rows), rows=len(rows), auctions=len(rows), clicks=sum(row.clicks for row in rows))
    writer.append(rows, (start, start + len(rows)), progress, added)


@pytest.fixture(params=["folder", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A folder, and object stores."""
    if request.param == "s3":
        return f"{request.getfixturevalue('new_bucket')()}/shards"
    return str(tmp_path / "shards") if request.param == "folder" else f"memory://{tmp_path.name}"


@pytest.mark.parametrize("name", ["interactions-v1", "interactions-v1-minimal"])
def test_every_field_of_an_event_comes_back_from_its_columns(name: str) -> None:
    event = decode("interactions", (SAMPLES / f"{name}.json").read_bytes())
    assert isinstance(event, Interaction)
    row = judged(event, 3, event.shown[0].ad_id if event.shown else "")
    (found,) = from_table(to_table([row]))
    assert found == row
    assert found.interaction.context() == event.context()
    assert found.interaction.generation() == event.generation()
    assert found.interaction.bids() == event.bids()


def test_there_is_a_column_for_every_field_of_both_events() -> None:
    told = set(Interaction.__struct_fields__) | set(Judgement.__struct_fields__) - {"occurred_at", "answered_at"}
    assert set(schema().names) == told | {"judged_at", "clicks", "usable"}


def test_rows_are_read_between_times_by_columns_and_only_usable_ones(url: str) -> None:
    writer = PartitionWriter(ShardStore(url), 0)
    rows = [judged(interaction(n, BEGINNING + timedelta(hours=n), reader=n != 3)) for n in range(30)]
    append(writer, *rows, watermark=BEGINNING + timedelta(hours=29))
    reader = ShardReader(url)
    assert list(reader.rows(usable=False)) == rows
    assert [row.interaction.sampling.seed for row in reader.rows()] == [n for n in range(30) if n != 3]
    since, until = BEGINNING + timedelta(hours=10), BEGINNING + timedelta(hours=20)
    tables = list(reader.tables(since, until, columns=["auction_id", "ads"]))
    assert [table.column_names for table in tables] == [["auction_id", "ads"]] * 2, "one a day"
    assert sum(table.num_rows for table in tables) == 10
    assert reader.count(since) == 20
    assert reader.watermark() == BEGINNING + timedelta(hours=29)
    assert reader.verify() == 2
    with pytest.raises(InputError, match="'bid'"):
        list(reader.tables(columns=["bid"]))


def test_the_newest_revision_of_an_auction_wins_whatever_the_shard(url: str) -> None:
    writer = PartitionWriter(ShardStore(url), 0)
    one, other = interaction(1), interaction(2)
    append(writer, judged(one, 2, "A1"), judged(other))
    append(writer, judged(one, 1, "A0"))
    found = {row.auction_id: (row.judgement.revision, row.clicks) for row in ShardReader(url).rows()}
    assert found == {one.auction_id: (2, 1), other.auction_id: (0, 0)}
    assert ShardReader(url).count() == 2
    assert writer.find([one.auction_id, "nobody"])[one.auction_id].judged()["A1"].clicked


def test_a_second_writer_is_fenced_off_and_changes_nothing(url: str) -> None:
    alive, dead = PartitionWriter(ShardStore(url), 0), PartitionWriter(ShardStore(url), 0)
    append(alive, judged(interaction(1)))
    with pytest.raises(Fenced):
        append(dead, judged(interaction(1)))
    with pytest.raises(Fenced):
        dead.erase({ALICE: request(ShardStore(url), ALICE, timedelta(days=1))})
    assert len(list(ShardReader(url).rows())) == 1
    assert ShardReader(url).totals() == Totals(judgements=1, rows=1, auctions=1)


def test_small_shards_are_merged_and_replaced_files_go_after_a_while(url: str) -> None:
    store = ShardStore(url)
    writer = PartitionWriter(store, 0)
    for n in range(FAN):
        append(writer, judged(interaction(n)))
    append(writer, judged(interaction(0), 1, "A0"))
    before = sorted(ShardReader(url).rows(), key=lambda row: row.auction_id)
    assert writer.merge() == FAN + 1
    (shard,) = writer.manifest.shards
    assert (shard.level, shard.rows, shard.judgements) == (1, FAN, ((0, FAN + 1),))
    totals = writer.manifest.totals
    assert totals.rows - totals.superseded == shard.rows
    assert sorted(ShardReader(url).rows(), key=lambda row: row.auction_id) == before
    assert len(store.files(0)) == FAN + 2
    now = datetime.now(UTC)
    assert writer.sweep(now) == 0
    assert writer.sweep(now + GRACE + timedelta(seconds=5)) == FAN + 1
    assert store.files(0) == (shard.path,)
    assert ShardReader(url).verify() == 1


def test_a_file_that_a_killed_writer_left_is_never_read_and_goes_after_a_day(url: str) -> None:
    store = ShardStore(url)
    left = store.put_shard(0, to_table([judged(interaction(1))]), 0, [(0, 1)])
    writer = PartitionWriter(store, 0)
    append(writer, judged(interaction(1)))
    assert len(list(ShardReader(url).rows())) == 1
    writer.sweep(datetime.now(UTC))
    assert left.path in store.files(0)
    PartitionWriter(store, 0).sweep(datetime.now(UTC) + timedelta(days=2))
    assert store.files(0) == (writer.manifest.shards[0].path,)


def test_an_erased_users_data_is_gone_for_readers_at_once_and_from_the_files_after(tmp_path: Path) -> None:
    url = str(tmp_path / "shards")
    store = ShardStore(url)
    writer = PartitionWriter(store, 0)
    append(writer, judged(interaction(1, user=ALICE), 0, "A0"), judged(interaction(2, user=BOB)))
    append(writer, judged(interaction(1, user=ALICE), 1, "A0"))
    other = PartitionWriter(store, 1)
    append(other, judged(interaction(4, user=BOB)))
    files = list((tmp_path / "shards/shards").rglob("*.parquet"))
    request(store, ALICE, timedelta(days=30), BEGINNING + timedelta(hours=1))
    assert [row.interaction.reader.user_id for row in ShardReader(url).rows() if row.interaction.reader] == [BOB, BOB]
    assert ShardReader(url).count() == 2
    assert writer.erase(requests(store)) == 2
    assert other.erase(requests(store)) == 0
    writer.sweep(datetime.now(UTC) + GRACE)
    for path in (tmp_path / "shards/shards").rglob("*.parquet"):
        assert ALICE not in pq.read_table(path).column("reader").to_string()
        assert ALICE.encode() not in path.read_bytes()
    kept = [path for path in files if path.exists()]
    assert kept == [tmp_path / "shards" / other.manifest.shards[0].path], "others' files stay as they are"
    rows = list(ShardReader(url).rows(usable=False))
    assert len(rows) == 3
    lost = next(row for row in rows if row.auction_id == interaction(1).auction_id)
    assert (lost.interaction.reader, lost.clicks, lost.usable) == (None, 1, False), "counts stay"
    assert writer.manifest.totals.erased == 2
    assert writer.erase(requests(store)) == 0
    append(writer, judged(interaction(5, BEGINNING + timedelta(hours=2), user=ALICE)))
    assert ShardReader(url).count() == 3, "data of after the request, given with new consent, stay"


def test_a_long_erasure_goes_on_where_it_stopped(url: str) -> None:
    store = ShardStore(url)
    writer = PartitionWriter(store, 0)
    for n in range(4):
        append(writer, judged(interaction(n, user=ALICE)))
    request(store, ALICE, timedelta(days=30))
    assert writer.erase(requests(store), within_s=-1) == 0
    assert writer.manifest.erased == ()
    assert writer.erase(requests(store)) == 4
    assert len(writer.manifest.erased) == 1


def test_what_is_no_pseudonym_and_a_damaged_shard_are_refused(tmp_path: Path) -> None:
    store = ShardStore(str(tmp_path))
    with pytest.raises(InputError, match="32 hexadecimal digits"):
        request(store, "alice", timedelta(days=1))
    writer = PartitionWriter(store, 0)
    append(writer, judged(interaction(1)))
    path = tmp_path / writer.manifest.shards[0].path
    path.write_bytes(path.read_bytes().replace(b"tiny", b"TINY"))
    with pytest.raises(InputError, match="digest"):
        ShardReader(str(tmp_path)).verify()
    path.unlink()
    with pytest.raises(InputError, match="read again"):
        list(ShardReader(str(tmp_path)).rows())
    (tmp_path / "manifests/0000/0000000001.json").write_text("{")
    with pytest.raises(InputError, match="bring it back"):
        ShardReader(str(tmp_path)).manifests()
    shutil.rmtree(tmp_path / "manifests")
    assert ShardReader(str(tmp_path)).watermark() is None


@given(st.sets(st.integers(0, 40)))
def test_spans_hold_exactly_their_offsets(offsets: set[int]) -> None:
    made = spans(sorted(offsets))
    assert {offset for first, end in made for offset in range(first, end)} == offsets
    assert merged(reversed(made)) == made
    assert all(a[1] < b[0] for a, b in pairwise(made))


def test_a_manifest_survives_its_json() -> None:
    manifest = Manifest(partition=3, progress=Progress(interactions=9, waiting=((2, 4),), watermark=BEGINNING))
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=Manifest) == manifest
    assert manifest.progress.start == 2

"""The lake's tables: every field comes back, a record is in once, two writers exclude each other, columns are added."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.streaming.event_samples import BEGINNING, click, interaction
from mechanism.errors import InputError
from streaming.codec import NEWEST, decode
from streaming.events import AnyEvent, Interaction, Judgement
from streaming.lake import TrainingSet, Versions
from streaming.lake.schema import STORED, Stored, arrow_schema, to_table
from streaming.lake.store import Lake, LakeDamaged
from streaming.lake.table import LakeTable, Mark
from streaming.log import Fenced
from streaming.unknown_fields import unknown_fields
from tests.streaming.lake_tables import LOG, append, judgement, stored

SAMPLES = Path(__file__).parent / "samples"


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A folder, and an object store."""
    return str(tmp_path / "lake") if request.param == "folder" else f"{request.getfixturevalue('new_bucket')()}/lake"


def positions(url: str, table: str = "interactions") -> list[tuple[int, int]]:
    found = Lake(url).open(table).to_pyarrow_table(columns=["log_partition", "log_offset"]).to_pylist()
    return sorted((row["log_partition"], row["log_offset"]) for row in found)


def clicked(url: str, **options: Any) -> dict[str, dict[str, float]]:
    return {row.auction_id: dict(row.clicked_after_s) for row in TrainingSet(url, **options).rows(usable=False)}


@pytest.mark.parametrize("name", ["interactions-v1", "interactions-v1-minimal"])
def test_every_field_of_an_event_comes_back_from_its_columns(name: str, tmp_path: Path) -> None:
    event = decode("interactions", (SAMPLES / f"{name}.json").read_bytes())
    assert isinstance(event, Interaction)
    graded = judgement(event)
    append(str(tmp_path), event, graded)
    (row,) = TrainingSet(str(tmp_path)).rows(usable=False)
    assert (row.interaction, row.judgement) == (event, graded)
    assert row.interaction.context() == event.context()
    assert row.interaction.generation() == event.generation()
    assert row.interaction.bids() == event.bids()


@pytest.mark.parametrize("table", STORED)
def test_there_is_a_column_for_every_field_of_an_event(table: str) -> None:
    assert set(NEWEST[table].__struct_fields__) <= set(arrow_schema(table).names)


def test_a_conversion_comes_back_from_its_table(tmp_path: Path) -> None:
    event = decode("conversions", (SAMPLES / "conversions-v1.json").read_bytes())
    append(str(tmp_path), event)
    (row,) = Lake(str(tmp_path)).open("conversions").to_pyarrow_table().to_pylist()
    assert row["day"].isoformat() == "2026-11-26"
    fields = msgspec.structs.asdict(event)
    assert {name: row[name] for name in fields} == fields


def test_rows_and_offsets_are_one_commit(url: str) -> None:
    table = LakeTable(Lake(url), "interactions", LOG)
    assert table.own([0, 1]) == {}
    table.append(stored([interaction(n) for n in range(3)]), {0: Mark(3, BEGINNING), 1: Mark(0, BEGINNING)})
    table.append([], {0: Mark(5, BEGINNING + timedelta(seconds=1)), 1: Mark(0, BEGINNING)})
    again = LakeTable(Lake(url), "interactions", LOG)
    assert again.own([0, 1]) == {0: 5}, "two records after the rows were refused, and are passed over"
    assert positions(url) == [(0, 0), (0, 1), (0, 2)]
    assert LakeTable(Lake(url), "interactions", "another log").own([0]) == {}


def test_of_two_writers_of_a_partition_the_second_is_refused(url: str) -> None:
    alive, dead = (LakeTable(Lake(url), "interactions", LOG) for _ in range(2))
    for table in (alive, dead):
        table.own([0])
    alive.append(stored([interaction(1)]), {0: Mark(1, None)})
    with pytest.raises(Fenced):
        dead.append(stored([interaction(1)]), {0: Mark(1, None)})
    assert positions(url) == [(0, 0)]


def test_a_writer_whose_other_partitions_moved_on_is_refused_all_the_same(url: str) -> None:
    """Its handle is then newer than the other writer's commit, which the commit itself no longer checks."""
    alive, dead = (LakeTable(Lake(url), "interactions", LOG) for _ in range(2))
    alive.own([0])
    dead.own([0, 1])
    alive.append(stored([interaction(1)]), {0: Mark(1, None)})
    dead.append(stored([interaction(2)], 0, 1), {1: Mark(1, None)})
    with pytest.raises(Fenced):
        dead.append(stored([interaction(3)], 1, 1), {1: Mark(2, None)})
    with pytest.raises(Fenced):
        dead.append(stored([interaction(1)]), {0: Mark(1, None)})
    assert positions(url).count((0, 0)) == 1


def test_a_writer_that_opened_its_table_again_is_refused_all_the_same(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streaming.lake.table.REOPENED_COMMITS", 2)
    dead = LakeTable(Lake(url), "interactions", LOG)
    dead.own([0])
    for n in range(5):
        dead.append(stored([interaction(n)], n), {0: Mark(n + 1, None)})
    assert positions(url) == [(0, n) for n in range(5)]
    alive = LakeTable(Lake(url), "interactions", LOG)
    alive.own([0])
    alive.append(stored([interaction(5)], 5), {0: Mark(6, None)})
    dead.append([], {})  # its next commit opens the table with the other writer's commit in it
    with pytest.raises(Fenced):
        dead.append(stored([interaction(5)], 5), {0: Mark(6, None)})
    assert positions(url) == [(0, n) for n in range(6)]


def test_writers_of_different_partitions_do_not_disturb_each_other(url: str) -> None:
    first, second = (LakeTable(Lake(url), "interactions", LOG) for _ in range(2))
    first.own([0])
    second.own([1])
    for n in range(4):
        first.append(stored([interaction(n)], n), {0: Mark(n + 1, None)})
        second.append(stored([interaction(n + 9)], n, 1), {1: Mark(n + 1, None)})
    assert positions(url) == [(p, n) for p in range(2) for n in range(4)]


@settings(max_examples=20)  # each writes six tables' commits
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.sampled_from(["A0", "A1", "A2"]),
            st.floats(-5, 4_000).map(lambda s: round(s, 6)),
            st.booleans(),
        ),
        max_size=30,
    ),
    st.randoms(),
)
def test_the_join_equals_a_plain_reckoning_whatever_the_order(
    tmp_path_factory: pytest.TempPathFactory, links: list[tuple[int, str, float, bool]], chance: Any
) -> None:
    answers = [interaction(n, BEGINNING + timedelta(seconds=n)) for n in range(6)]
    wanted: dict[str, dict[str, float]] = {answer.auction_id: {} for answer in answers}
    events: list[AnyEvent] = [*answers, *map(judgement, answers)]
    for number, ad, after_s, valid in links:
        events.append(click(answers[number], ad, after_s, reason="" if valid else "bot"))
        if valid and after_s <= 1_800 and ad != "A2":  # A2 is a candidate that was not shown
            known = wanted[answers[number].auction_id]
            known[ad] = min(known.get(ad, 1e9), max(0.0, after_s))
    events += chance.sample(events, len(events) // 3)  # what reached the log twice
    chance.shuffle(events)
    url = str(tmp_path_factory.mktemp("lake"))
    half = len(events) // 2
    append(url, *events[:half])
    append(url, *events[half:], partition=1)
    assert clicked(url) == wanted
    totals = TrainingSet(url).totals()
    assert (totals.answers, totals.judged, totals.usable) == (6, 6, 6)
    assert totals.clicks == sum(map(len, wanted.values()))


def test_the_latest_judgement_of_an_answer_counts(tmp_path: Path) -> None:
    answer = interaction(1)
    append(str(tmp_path), answer, judgement(answer, 9.0, 0.9), judgement(answer, 3.0, 0.3))
    (row,) = TrainingSet(str(tmp_path)).rows()
    assert row.judgement is not None
    assert row.judgement.answer_quality == 0.9


def test_the_window_is_the_readers_choice(tmp_path: Path) -> None:
    answer = interaction(1)
    append(str(tmp_path), answer, click(answer, "A0", 59.0), click(answer, "A1", 61.0))
    assert clicked(str(tmp_path), window_s=60.0) == {answer.auction_id: {"A0": 59.0}}
    assert clicked(str(tmp_path)) == {answer.auction_id: {"A0": 59.0, "A1": 61.0}}
    with pytest.raises(InputError, match="more than 0"):
        TrainingSet(str(tmp_path), 0.0)


def test_a_click_after_midnight_finds_its_answer(tmp_path: Path) -> None:
    answer = interaction(1, datetime(2026, 11, 24, 23, 59, tzinfo=UTC))
    append(str(tmp_path), answer, click(answer, "A0", 120.0), judgement(answer, 90.0))
    (row,) = TrainingSet(str(tmp_path)).rows()
    assert dict(row.clicked_after_s) == {"A0": 120.0}


def test_rows_are_read_between_times_by_columns_and_only_usable_ones(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming.lake.training_set.SLICE_ROWS", 7)
    answers = [interaction(n, BEGINNING + timedelta(hours=n), reader=n != 3) for n in range(30)]
    append(url, *reversed(answers), *map(judgement, answers[:29]), watermark=BEGINNING + timedelta(hours=29))
    lake = TrainingSet(url)
    assert [row.interaction for row in lake.rows(usable=False)] == answers
    assert [row.interaction for row in lake.rows()] == answers[:3] + answers[4:29], "the last one is not judged"
    since, until = BEGINNING + timedelta(hours=10), BEGINNING + timedelta(hours=20)
    tables = list(lake.tables(since, until, columns=["auction_id", "clicks"]))
    assert all(table.column_names == ["auction_id", "clicks"] for table in tables)
    assert sum(table.num_rows for table in tables) == 10 == lake.count(since, until)
    assert lake.watermark() == BEGINNING + timedelta(hours=29)
    with pytest.raises(InputError, match="'bid'"):
        list(lake.tables(columns=["bid"]))


def test_a_pinned_snapshot_stays_while_the_lake_grows(url: str) -> None:
    append(url, interaction(1), judgement(interaction(1)), watermark=BEGINNING)
    pinned = TrainingSet(url).versions
    append(url, interaction(2), judgement(interaction(2)), watermark=BEGINNING + timedelta(hours=1))
    assert TrainingSet(url, versions=pinned).versions == pinned
    assert (TrainingSet(url, versions=pinned).count(), TrainingSet(url).count()) == (1, 2)
    gone = msgspec.structs.replace(pinned, clicks=10_000)
    with pytest.raises(InputError, match="clicks at version"):
        TrainingSet(url, versions=gone)


def test_the_watermark_is_that_of_the_slowest_partition(tmp_path: Path) -> None:
    url = str(tmp_path)
    append(url, watermark=BEGINNING + timedelta(hours=3))
    assert TrainingSet(url).watermark() == BEGINNING + timedelta(hours=3)
    append(url, partition=2, watermark=BEGINNING)
    assert TrainingSet(url).watermark() is None, "nothing is known of partition 1"
    append(url, partition=1, watermark=BEGINNING + timedelta(hours=1))
    assert TrainingSet(url).watermark() == BEGINNING


def test_a_lake_that_is_not_there_is_empty(tmp_path: Path) -> None:
    lake = TrainingSet(str(tmp_path / "nowhere"))
    assert (lake.exists, lake.count(), list(lake.rows()), lake.watermark()) == (False, 0, [], None)
    assert lake.versions == Versions(interactions=None, clicks=None, judgements=None)


def older_schema(table: str, without: Sequence[str]) -> Any:
    """A table's schema before some columns were added, one of them within a struct of a list."""
    fields = [field for field in arrow_schema(table) if field.name not in without]
    for i, field in enumerate(fields):
        if field.name == "candidates":
            inner = [part for part in field.type.value_type if part.name != "category"]
            fields[i] = pa.field("candidates", pa.list_(pa.struct(inner)))
    return pa.schema(fields)


def test_a_new_column_touches_no_old_file(url: str) -> None:
    lake, old = Lake(url), older_schema("interactions", ["arm", "explored"])
    first = interaction(1)
    handle = lake.create("interactions", old, ["day"])
    values = to_table("interactions", stored([first])).select(old.names).to_pylist()
    for candidate in values[0]["candidates"]:
        del candidate["category"]
    write_deltalake(handle, pa.Table.from_pylist(values, schema=old), mode="append")
    files = handle.file_uris()
    for name in ("clicks", "judgements"):
        lake.create(name, arrow_schema(name), ["day"])
    assert [row.interaction for row in TrainingSet(url).rows(usable=False)] == [first], "before any new row"
    table = LakeTable(lake, "interactions", LOG)
    table.own([0])
    second = msgspec.structs.replace(interaction(2), arm="b", explored=True)
    table.append(stored([second], 1), {0: Mark(2, None)})
    assert set(files) < set(lake.open("interactions").file_uris())
    assert [row.interaction for row in TrainingSet(url).rows(usable=False)] == [first, second]
    # a worker of the earlier release goes on writing
    write_deltalake(
        lake.open("interactions"), pa.Table.from_pylist(values, schema=old), mode="append", schema_mode="merge"
    )
    assert len(lake.open("interactions").file_uris()) == len(files) + 2


def test_fields_of_a_newer_producer_are_kept_and_those_about_readers_apart(tmp_path: Path) -> None:
    value = json.loads((SAMPLES / "interactions-v1.json").read_bytes())
    value |= {"mood/of": "day"}
    value["candidates"][1]["score"] = 0.25
    value["reader"]["dialect"] = "Swabian"
    data = json.dumps(value).encode()
    event = decode("interactions", data)
    assert unknown_fields("interactions", data) == {
        "/mood~1of": "day",
        "/candidates/1/score": 0.25,
        "/reader/dialect": "Swabian",
    }
    table = LakeTable(Lake(str(tmp_path)), "interactions", LOG)
    table.own([0])
    table.append([Stored(event, data, event.occurred_at, LOG, 0, 0)], {0: Mark(1, None)})
    (row,) = Lake(str(tmp_path)).open("interactions").to_pyarrow_table().to_pylist()
    assert json.loads(row["extra"]) == {"/mood~1of": "day", "/candidates/1/score": 0.25}
    assert json.loads(row["reader"]["extra"]) == {"/reader/dialect": "Swabian"}


def test_a_judgement_of_the_first_version_is_read_as_grades() -> None:
    data = (SAMPLES / "judgements-v1.json").read_bytes()
    event = decode("judgements", data)
    assert isinstance(event, Judgement)
    assert [(ad.ad_id, ad.relevance) for ad in event.ads] == [("A1", 0.75), ("A2", 0.5)]
    assert unknown_fields("judgements", data) == {}


def test_a_table_that_this_program_cannot_read_is_named(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.create("clicks", pa.schema([("auction_id", pa.int64()), ("day", pa.date32())]), ["day"])
    with pytest.raises(LakeDamaged, match="clicks: column auction_id is int64"):
        LakeTable(lake, "clicks", LOG)

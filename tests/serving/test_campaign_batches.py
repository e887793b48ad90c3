"""Files of campaigns: all rows or none, every bad row named, once by key; CSV and JSONL mean the same."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cli.main import app
from mechanism.errors import InputError
from serving.campaigns.rows import MOST_ROWS, read_csv, read_jsonl
from serving.campaigns.screening import Names
from serving.campaigns.types import Campaign

Start = Callable[..., Any]
COLUMNS = ["name", "bid_micros", "currency", "creatives[0].title", "creatives[0].landing_url"]
JSONL = "application/jsonl"


def row(number: int = 1, **changes: Any) -> dict[str, Any]:
    creative = {"id": f"kite-{number}", "title": f"Falcon Kites {number}", "landing_url": "https://falcon.example/"}
    usual = {"id": f"falcon-{number}", "name": f"Spring {number}", "bid_micros": 450_000, "currency": "EUR"}
    return usual | {"creatives": [creative]} | changes


def jsonl(*rows: Any) -> bytes:
    return b"\n".join(json.dumps(one).encode() for one in rows)


def table(header: list[str], *rows: list[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    return text.getvalue().encode()


def send(router: Any, key: str, body: bytes, media: str = JSONL, skip_bad: bool = False, once: str = "") -> Any:
    headers = {"Content-Type": media} | ({"Idempotency-Key": once} if once else {})
    path = "/v1/campaigns:batch" + ("?skip_bad=true" if skip_bad else "")
    return router.call("POST", path, key, content=body, headers=headers)


def booked(router: Any, key: str) -> list[str]:
    items = router.call("GET", "/v1/campaigns?limit=1000", key).json()["items"]
    return sorted(campaign["id"] for campaign in items)


def test_a_csv_file_books_what_its_columns_say(shared: Any) -> None:
    key = shared.key("advertiser", "Kestrel")
    header = [*COLUMNS, "targeting.countries", "dayparts[0].days", "dayparts[0].to_hour", "creatives[1].title"]
    header += ["creatives[1].landing_url", "total_budget_micros", "ends_at", "creatives[0].id"]
    page = "https://k.example/"
    rows: list[list[object]] = [
        ["Kites, cheap", 300_000, "EUR", "Kestrel Kites", page, "DE|AT", "0|6", 12, "Kestrel Bows", page],
        ["Two\nlines", 1, "EUR", "Kestrel Sails", page, "", "", "", "", ""],
    ]
    rows[0] += ["", "2030-01-01T00:00:00Z", "k-1"]
    rows[1] += [5_000_000, "", "k-2"]
    answer = send(shared, key, b"\xef\xbb\xbf" + table(header, *rows), "text/csv; charset=utf-8")
    assert answer.status_code == 201, answer.text
    assert [one["line"] for one in answer.json()["booked"]] == [2, 3]
    first, second = (shared.call("GET", f"/v1/campaigns/{one['id']}", key).json() for one in answer.json()["booked"])
    assert (first["name"], first["advertiser_id"], first["bid_micros"]) == ("Kites, cheap", "Kestrel", 300_000)
    assert first["targeting"]["countries"] == ["DE", "AT"]
    assert first["dayparts"] == [{"days": [0, 6], "from_hour": 0, "to_hour": 12}]
    assert [one["title"] for one in first["creatives"]] == ["Kestrel Kites", "Kestrel Bows"]
    assert {one["review"] for one in first["creatives"]} == {"pending"}
    assert first["total_budget_micros"] is None
    assert (second["name"], second["total_budget_micros"], len(second["creatives"])) == ("Two lines", 5_000_000, 1)


def test_one_bad_row_keeps_all_from_being_booked_and_each_is_named(start: Start) -> None:
    router = start(ads=1)
    key = router.key("advertiser", "Falcon")
    router.call("POST", "/v1/campaigns", key, json=row(9))
    body = jsonl(
        row(1),
        row(2, bid_micros=-1, currency="euro"),
        row(3, surplus=1),
        row(1, creatives=[]),
        row(9, creatives=[]),
        row(5, creatives=[row(9)["creatives"][0]]),
        row(6, advertiser_id="Other"),
        row(7, id="", creatives=row(1)["creatives"]),
        row(8, bid_micros=5_000_000),
    )
    body += b"\n\nnonsense\n[]"
    refused = send(router, key, body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "bad_rows")
    found = {(one["line"], one["column"]) for one in refused.json()["error"]["rows"]}
    assert found == {
        (2, "bid_micros"),
        (2, "currency"),
        (3, "surplus"),
        (4, "id"),
        (5, "id"),
        (6, "creatives[0].id"),
        (7, "advertiser_id"),
        (8, "creatives[0].id"),
        (9, "bid_micros"),
        (11, "line"),
        (12, "line"),
    }
    assert all(one["value"] and one["remedy"] for one in refused.json()["error"]["rows"])
    assert booked(router, key) == ["falcon-9"]
    partly = send(router, key, body, skip_bad=True)
    assert partly.json()["booked"] == [{"line": 1, "id": "falcon-1", "state": "paused"}]
    assert {(one["line"], one["column"]) for one in partly.json()["errors"]} == found
    assert booked(router, key) == ["falcon-1", "falcon-9"]
    nothing = send(router, key, body, skip_bad=True)
    assert (nothing.status_code, booked(router, key)) == (400, ["falcon-1", "falcon-9"])


def test_a_retry_books_nothing_twice(shared: Any) -> None:
    key = shared.key("advertiser", "Osprey")
    rows = [row(n, id="", creatives=[]) for n in range(3)]
    first, again = (send(shared, key, jsonl(*rows), once="upload-1") for _ in range(2))
    assert (first.status_code, first.content) == (201, again.content)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(booked(shared, key)) == 3
    assert send(shared, key, jsonl(*rows[:2]), once="upload-1").status_code == 422
    assert send(shared, key, jsonl(*rows), skip_bad=True, once="upload-1").status_code == 422
    bad = jsonl(row(21, creatives=[]), row(22, bid_micros=-1))
    assert send(shared, key, bad, once="upload-2").status_code == 400
    mended = jsonl(row(21, creatives=[]), row(22, creatives=[]))
    assert send(shared, key, mended, once="upload-2").status_code == 201  # nothing was kept of the failure


def test_an_administrator_books_for_the_advertiser_of_each_row(shared: Any) -> None:
    rows = [row(n, id=f"for-{n}", creatives=[], advertiser_id=name) for n, name in enumerate(("Heron", "Egret"))]
    assert send(shared, shared.admin, jsonl(*rows)).status_code == 201
    assert booked(shared, shared.key("advertiser", "Heron")) == ["for-0"]
    (fault,) = send(shared, shared.admin, jsonl(row(30, creatives=[]))).json()["error"]["rows"]
    assert fault["column"] == "advertiser_id"
    assert send(shared, shared.key("publisher"), jsonl(row(31))).status_code == 403


@pytest.mark.parametrize(
    ("body", "media", "param"),
    [
        (b"[]", "application/json", "Content-Type"),
        (b"\n \n", JSONL, "file"),
        (table(COLUMNS), "text/csv", "file"),
        (b"name\n\xff", "text/csv", "file"),
        (table([*COLUMNS, "bids"], ["x"] * 6), "text/csv", "line 1"),
        (table([*COLUMNS, "name"], ["x"] * 6), "text/csv", "line 1"),
        (table([*COLUMNS, "targeting"], ["x"] * 6), "text/csv", "line 1"),
        (table([*COLUMNS, "creatives[0].landing_url.x"], ["x"] * 6), "text/csv", "line 1"),
        (table([*COLUMNS, "name[0]"], ["x"] * 6), "text/csv", "line 1"),
        (b'name\n"a"b', "text/csv", "line 2"),
        (b"{}\n" * (MOST_ROWS + 1), JSONL, "file"),
    ],
)
def test_a_file_that_is_none_is_refused_as_a_whole(shared: Any, body: bytes, media: str, param: str) -> None:
    refused = send(shared, shared.admin, body, media)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.text
    assert send(shared, shared.admin, body, media, skip_bad=True).status_code == 400


@pytest.mark.parametrize(
    ("header", "cells", "column"),
    [
        (COLUMNS, ["n", "0.45", "EUR", "t", "https://x.example/"], "bid_micros"),
        (COLUMNS, ["n", "1", "EUR", "t"], "line"),
        ([*COLUMNS, "dayparts[0].days"], ["n", "1", "EUR", "t", "https://x.example/", "0|mon"], "dayparts[0].days"),
        ([*COLUMNS, "creatives[2].title"], ["n", "1", "EUR", "t", "https://x.example/", "u"], "creatives[1]"),
    ],
)
def test_a_wrong_cell_is_named_by_its_column(header: list[str], cells: list[object], column: str) -> None:
    rows = read_csv(table(header, cells, ["n", 1, "EUR", "t", "https://x.example/", ""][: len(header)]))
    assert [(line, fault.place) for line, found in rows.faults.items() for fault in found] == [(2, column)]
    assert list(rows.given) == [3]


def test_a_row_of_empty_cells_lacks_what_a_campaign_needs(shared: Any) -> None:
    body = table(COLUMNS, ["n", 1, "EUR", "", ""], [""] * len(COLUMNS))
    rows = send(shared, shared.key("advertiser", "Merlin"), body, "text/csv").json()["error"]["rows"]
    assert [(one["line"], one["column"]) for one in rows] == [(3, "name"), (3, "bid_micros"), (3, "currency")]


names = st.text(st.characters(codec="utf-8", exclude_characters="|\0", exclude_categories=["Cc"]), min_size=1)
texts = names.map(str.strip).filter(bool)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"name": texts, "bid_micros": st.integers(-(10**15), 10**15), "currency": texts},
            optional={
                "targeting": st.fixed_dictionaries({"countries": st.lists(texts, min_size=1, max_size=3)}),
                "creatives": st.lists(
                    st.fixed_dictionaries({"title": texts, "landing_url": texts}), min_size=1, max_size=2
                ),
            },
        ),
        min_size=1,
        max_size=4,
    )
)
def test_the_same_rows_are_read_from_both_formats(rows: list[dict[str, Any]]) -> None:
    header = ["name", "bid_micros", "currency", "targeting.countries"]
    header += [f"creatives[{i}].{name}" for i in range(2) for name in ("title", "landing_url")]

    def cells(raw: dict[str, Any]) -> list[object]:
        creatives = [one[name] for one in raw.get("creatives", ()) for name in ("title", "landing_url")]
        countries = "|".join(raw.get("targeting", {}).get("countries", ()))
        return [raw["name"], raw["bid_micros"], raw["currency"], countries, *creatives, *[""] * (4 - len(creatives))]

    from_csv, from_jsonl = read_csv(table(header, *map(cells, rows))), read_jsonl(jsonl(*rows))
    assert not from_csv.faults
    assert list(from_csv.given.values()) == list(from_jsonl.given.values()) == rows


def test_a_file_without_a_newline_at_its_end_has_all_its_rows() -> None:
    assert list(read_csv(b'name\n\n"a\nb"\nc').given.items()) == [(3, {"name": "a\nb"}), (5, {"name": "c"})]
    with pytest.raises(InputError, match="no rows"):
        read_jsonl(b"")


def test_upload_from_the_command_line(start: Start, tmp_path: Path) -> None:
    router = start(ads=1)
    key = router.key("advertiser", "Falcon")

    def upload(name: str, body: bytes, *options: str) -> Any:
        (tmp_path / name).write_bytes(body)
        environment = {"LLM_AUCTION_URL": router.url, "LLM_AUCTION_KEY": key}
        return CliRunner().invoke(app, ["campaigns", "upload", str(tmp_path / name), *options], env=environment)

    good, bad = row(1), row(2, bid_micros=-1)
    refused = upload("spring.jsonl", jsonl(good, bad))
    assert refused.exit_code == 2
    assert "spring.jsonl:2: bid_micros: -1: give a whole number of micros" in refused.stderr
    assert "1 of 2 rows are wrong" in refused.stderr
    assert booked(router, key) == []
    for outcome in ("", " before: nothing changed"):  # the second one is a retry
        partly = upload("spring.jsonl", jsonl(good, bad), "--skip-bad")
        assert partly.exit_code == 0
        assert partly.stdout == f"spring.jsonl:1: falcon-1 paused\n1 campaigns booked{outcome}, 1 rows skipped\n"
        assert ("approved" in partly.stderr) is not bool(outcome)
        assert "spring.jsonl:2: bid_micros" in partly.stderr
    assert booked(router, key) == ["falcon-1"]
    done = upload("summer.csv", table(COLUMNS, ["n", 1, "EUR", "Falcon Bows", "https://f.example/"]))
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "1 campaigns booked")
    assert "1 paused: resume" in done.stderr
    assert upload("summer.txt", b"").exit_code == 2


def test_a_stored_answer_of_an_earlier_version_is_listed_without_states(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "spring.csv").write_bytes(b"name\nKites\n")
    stored = {"booked": [{"line": 2, "id": "cmp-1"}], "errors": []}
    monkeypatch.setattr("cli.campaigns.send", lambda *_: (stored, True))
    again = CliRunner().invoke(app, ["campaigns", "upload", str(tmp_path / "spring.csv"), "--key", "k"])
    assert again.stdout == "spring.csv:2: cmp-1\n1 campaigns booked before: nothing changed\n"


def test_campaigns_are_checked_beside_the_event_loop(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check walks all campaigns of the market; on the loop, every stream would wait for it."""
    beside: list[bool] = []

    class Watched(Names):
        def __init__(self, campaigns: Iterable[Campaign]) -> None:
            with pytest.raises(RuntimeError, match="no running event loop"):
                asyncio.get_running_loop()
            beside.append(True)
            super().__init__(campaigns)

    monkeypatch.setattr("serving.http.campaigns.Names", Watched)
    monkeypatch.setattr("serving.http.campaign_batches.Names", Watched)
    router = start(ads=1)
    key = router.key("advertiser", "Falcon")
    version = router.call("POST", "/v1/campaigns", key, json=row(1)).json()["version"]
    changed = router.call("PATCH", "/v1/campaigns/falcon-1", key, json={"version": version, "bid_micros": 1})
    assert (changed.status_code, send(router, key, jsonl(row(2))).status_code) == (200, 201)
    assert beside == [True] * 3

"""`llm-auction data` on valid, partly invalid and missing files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tea_qualities.csv").write_text(
        'advertisement,type,qualities\nMountain Leaf,brand,"green, loose"\nNo Text,brand,\n', "utf-8"
    )
    (tmp_path / "tea_queries.txt").write_text("green tea\n\nblack tea\n", "utf-8")
    (tmp_path / "tea_query_pairs.csv").write_text("query,advertisement\ngreen tea,Mountain Leaf\n", "utf-8")
    return tmp_path


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    return result.exit_code, result.output


def test_a_folder_is_counted_and_every_refused_row_is_named(folder: Path) -> None:
    code, output = call(folder)
    assert code == 0
    assert "1 ads; 2 queries, 1 of them with 1 relevance labels" in output
    assert "2 rows refused:" in output
    assert "  tea_qualities.csv:3 qualities: '': fill the field" in output
    assert "  tea_queries.txt:2 query: '': remove the empty line" in output


def test_the_json_report_accounts_for_every_row(folder: Path) -> None:
    code, output = call(folder, "--json")
    report = json.loads(output)
    assert code == 0
    assert sum(f["read"] for f in report["files"].values()) == 6
    assert sum(f["accepted"] for f in report["files"].values()) + len(report["refused"]) == 6


def test_the_list_is_cut_with_a_count_of_the_rest(folder: Path) -> None:
    assert "and 1 more: --rows 0 lists all" in call(folder, "--rows", 1)[1]
    assert "more: --rows" not in call(folder, "--rows", 0)[1]


def test_strict_fails_on_a_refused_row(folder: Path) -> None:
    code, output = call(folder, "--strict")
    assert code == 2
    assert "2 of 6 rows" in output


def test_a_catalogue_with_queries(tmp_path: Path) -> None:
    (tmp_path / "ads.csv").write_text("id,title,text\na1,Mountain Leaf,Loose green tea.\n", "utf-8")
    (tmp_path / "asked.jsonl").write_text('{"query": "green tea", "relevant": ["a1"]}\n', "utf-8")
    code, output = call(tmp_path / "ads.csv", tmp_path / "asked.jsonl")
    assert code == 0
    assert "1 ads; 1 queries, 1 of them with 1 relevance labels" in output


def test_a_data_set_is_recognised_and_its_answers_are_counted(tmp_path: Path) -> None:
    row = {"id": "1", "query": "green tea?", "category": [], "ad_name": "Leaf", "ad_info": "Tea.", "ad_label": ""}
    scores = {"q1": 1, "q2": 1, "q3": 1, "q4": 1}
    row |= {"logic_bridge": "", "strategy": "", "response": "Leaf is mild.", "ppied_scores": scores}
    (tmp_path / "NaiAD_main.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps({**row, 'id': 2})}\n", "utf-8")
    code, output = call(tmp_path)
    assert code == 0
    assert "1 ads; 1 queries, 1 of them with 1 relevance labels; 1 answers" in output
    assert "NaiAD_main.jsonl:2 id: '2': write text in quotes" in output


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    code, output = call(tmp_path / "none.csv")
    assert code == 2
    assert output.startswith("error: ")
    assert len(output.splitlines()) == 1


def test_a_folder_brings_its_own_queries(folder: Path) -> None:
    assert "leave it out" in call(folder, "queries.csv")[1]

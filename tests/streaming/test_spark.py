"""The training set by Spark: the rows of `training_set.sql` are those of the engine in this process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from benchmarks.streaming.event_samples import BEGINNING, click, interaction
from cli.main import app
from streaming.events import AnyEvent
from streaming.lake import TrainingSet
from streaming.lake.training_set import training_schema
from tests.streaming.lake_tables import append, judgement

ANSWERS = 100_000
BATCH = 10_000
WINDOW = timedelta(minutes=30)


def events(first: int, last: int) -> Iterator[AnyEvent]:
    """Answers with clicks in time, late, invalid, before their answers and doubled, judged never, once or twice."""
    chance = Random(first)
    for number in range(first, last):
        answer = interaction(number, BEGINNING + timedelta(seconds=2 * number), reader=number % 10 > 0)
        hits: list[AnyEvent] = []
        for ad in answer.shown:
            kind = chance.choice(("none", "none", "valid", "late", "invalid", "early"))
            after_s = {"late": WINDOW.total_seconds() + 1, "early": -5.0}.get(kind, chance.uniform(0.5, 1_700.0))
            if kind != "none":
                hits.append(click(answer, ad.ad_id, after_s, reason="bot" if kind == "invalid" else ""))
                if chance.random() < 0.3:
                    hits.append(click(answer, ad.ad_id, after_s + chance.uniform(-3.0, 3.0)))
        yield answer
        yield from hits
        if chance.random() < 0.05:
            yield answer
            yield from hits
        if number % 7:
            yield judgement(answer, chance.uniform(0.1, 5.0), chance.random())
        if number % 11 == 0:
            yield judgement(answer, chance.uniform(0.1, 5.0), chance.random())


@pytest.fixture(scope="module")
def spark() -> None:
    """Skip where Spark, Java or the jars of Delta Lake are missing."""
    pytest.importorskip("pyspark")
    pytest.importorskip("delta")
    if shutil.which("java") is None:
        pytest.skip("there is no Java")
    script = "from streaming.lake.spark import open_session; open_session().range(1).count()"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=600)
    if "unresolved dependency" in found.stderr:
        pytest.skip("the jars of Delta Lake are neither here nor to be had")
    assert found.returncode == 0, found.stderr[-2_000:]


def export(*words: Any) -> str:
    """Run `training-set` in a process of its own, as a JVM lives as long as its process."""
    command = [sys.executable, "-m", "cli.main", "training-set", *map(str, words)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert found.returncode == 0, found.stderr[-2_000:]
    return found.stdout


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.usefixtures("spark")
def test_both_engines_give_the_same_rows(tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    for first in range(0, ANSWERS, BATCH):
        append(lake, *events(first, first + BATCH))
    options = ("--lake", lake, "--all", "--window", WINDOW.total_seconds())
    output = export(*options, "--engine", "spark", "--out", tmp_path / "spark")
    assert f"{ANSWERS} answers from interactions@" in output
    export(*options, "--out", tmp_path / "here.parquet")
    by_spark = pq.read_table(tmp_path / "spark").cast(training_schema())
    here = pq.read_table(tmp_path / "here.parquet").cast(training_schema())
    assert by_spark.num_rows == here.num_rows == ANSWERS
    different = [name for name in here.column_names if not by_spark.column(name).equals(here.column(name))]
    assert different == []
    totals = TrainingSet(lake).totals()
    assert 0 < totals.usable < totals.judged < totals.answers == ANSWERS
    assert totals.clicks > ANSWERS / 4


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.usefixtures("spark")
def test_spark_writes_what_trainers_can_use_of_a_time_into_a_new_folder(tmp_path: Path) -> None:
    lake, out = str(tmp_path / "lake"), tmp_path / "out"
    append(lake, *events(0, 200))
    since, until = BEGINNING + timedelta(seconds=40), BEGINNING + timedelta(seconds=300)
    options = ("--lake", lake, "--since", since.isoformat(), "--until", until.isoformat())
    export(*options, "--engine", "spark", "--out", out)
    found = pq.read_table(out).to_pylist()
    wanted = [row.auction_id for row in TrainingSet(lake).rows(since, until)]
    assert [row["auction_id"] for row in found] == wanted
    assert len(wanted) > 50
    command = [sys.executable, "-m", "cli.main", "training-set", *options, "--engine", "spark", "--out", str(out)]
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert (again.returncode, "it exists already" in again.stderr) == (2, True)


def test_without_spark_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(str(tmp_path / "lake"), interaction(1))
    monkeypatch.setitem(sys.modules, "pyspark", None)
    monkeypatch.setitem(sys.modules, "pyspark.errors", None)
    options = ["training-set", "--lake", str(tmp_path / "lake"), "--engine", "spark", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 2
    assert "llm-auction[spark]" in result.output

"""`llm-auction migrate`."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import text
from typer.testing import CliRunner

from cli.main import app
from serving.database.engine import Database
from serving.database.migrations import newest


def test_a_database_is_upgraded_and_a_newer_one_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'router.sqlite3'}"
    for _ in range(2):
        done = CliRunner().invoke(app, ["migrate", "--database", url])
        assert (done.exit_code, done.output) == (0, f"the database has revision {newest()}\n")
    database = Database(url)
    database.transact(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    database.close()
    done = CliRunner().invoke(app, ["migrate"], env={"LLM_AUCTION_DATABASE": url})
    assert done.exit_code == 2
    assert "newer version" in done.output

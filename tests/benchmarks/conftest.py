"""The tests of drills use the databases of the store's tests: a migrated one each on SQLite and PostgreSQL."""

from __future__ import annotations

from tests.serving.database.conftest import database, postgres, url

__all__ = ["database", "postgres", "url"]

"""Add the history of changes, which the database protects from change. It begins with this version."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, DateTime, Integer, String, Text
from sqlalchemy.schema import PrimaryKeyConstraint

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Create the table, and triggers that refuse all but new rows."""
    op.create_table(
        "changes",
        Column("number", BigInteger().with_variant(Integer, "sqlite"), nullable=False, autoincrement=True),
        *(Column(name, String, nullable=False) for name in ("subject", "subject_id", "advertiser_id")),
        Column("changed_at", DateTime(timezone=True), nullable=False),
        *(Column(name, String, nullable=False) for name in ("by_role", "by_key", "by_name")),
        Column("fields", Text, nullable=False),
        PrimaryKeyConstraint("number", name=op.f("pk_changes")),
    )
    op.create_index(op.f("ix_changes_subject_subject_id_number"), "changes", ["subject", "subject_id", "number"])
    op.create_index(op.f("ix_changes_advertiser_id_number"), "changes", ["advertiser_id", "number"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the history of changes is append-only'; END $$"
        )
        op.execute(
            "CREATE TRIGGER changes_are_appended BEFORE UPDATE OR DELETE OR TRUNCATE ON changes "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        return
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER changes_refuse_{verb.lower()} BEFORE {verb} ON changes "
            "BEGIN SELECT RAISE(ABORT, 'the history of changes is append-only'); END"
        )

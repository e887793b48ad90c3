"""The history of campaigns with their creatives, of accounts and of keys: who changed which fields, from what to what.

An entry is written in the transaction of its change and never changed; the database refuses it
(`serving.database.migrations`). No entry holds a secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
from sqlalchemy import Connection, insert, select

from serving.campaigns.types import Campaign
from serving.database.columns import checked_moment
from serving.database.cursors import Page, checked_limit, read_cursor, write_cursor
from serving.database.engine import Database
from serving.database.schema import changes

CHANGES = "changes"
"""The list that its cursors are signed for."""
_UNRECORDED = frozenset({"id", "version", "created_at", "updated_at", "creatives"})


class Subject(StrEnum):
    """What was changed. `subject_id` is the campaign's id, the account's currency, or the key's id."""

    CAMPAIGN = "campaign"
    ACCOUNT = "account"
    KEY = "key"


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """Who makes a change: the id and the label of an API key and its role, or a part of the platform without a key."""

    role: str
    key_id: str = ""
    name: str = ""


PLATFORM = Actor(role="platform")
"""The platform itself, such as the import of a catalogue."""
COMMAND_LINE = Actor(role="command line")
"""A person with access to the database."""


class FieldChange(msgspec.Struct, frozen=True):
    """A field and its values before and after, None where there was or is none.

    Fields of a creative are named `creatives[ID].title`; `creatives` itself is the list of ids.
    """

    field: str
    old: Any
    new: Any


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the history."""

    subject: Subject
    subject_id: str
    advertiser_id: str
    changed_at: datetime
    by: Actor
    fields: tuple[FieldChange, ...]


_FIELDS = msgspec.json.Decoder(tuple[FieldChange, ...])


def record_change(
    connection: Connection,
    subject: Subject,
    subject_id: str,
    advertiser_id: str,
    fields: tuple[FieldChange, ...],
    by: Actor,
    now: datetime,
) -> None:
    """Add an entry to the history, unless no field has changed."""
    if not fields:
        return
    row = {
        "subject": subject.value,
        "subject_id": subject_id,
        "advertiser_id": advertiser_id,
        "changed_at": checked_moment("now", now),
        "by_role": by.role,
        "by_key": by.key_id,
        "by_name": by.name,
        "fields": msgspec.json.encode(fields).decode(),
    }
    connection.execute(insert(changes).values(row))


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[FieldChange, ...]:
    """Return what differs between two sets of values, by name."""
    names = dict.fromkeys((*old, *new))
    return tuple(FieldChange(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name))


def campaign_changes(old: Campaign | None, new: Campaign) -> tuple[FieldChange, ...]:
    """Return what differs between two versions of a campaign; a new one differs in every field that is not empty."""
    after = dict(_flat(new))
    if old is not None:
        return changed_fields(dict(_flat(old)), after)
    return changed_fields({}, {name: value for name, value in after.items() if value not in ("", [], None)})


def history(
    database: Database,
    *,
    advertiser_id: str = "",
    subject: Subject | None = None,
    subject_id: str = "",
    cursor: str = "",
    limit: int = 100,
) -> Page[Change]:
    """Return the changes that fit all filters that are given, newest first, after `cursor`."""
    filters = (
        (changes.c.advertiser_id, advertiser_id),
        (changes.c.subject, subject.value if subject else ""),
        (changes.c.subject_id, subject_id),
    )
    query = select(changes).where(*(column == value for column, value in filters if value))
    if cursor:
        query = query.where(changes.c.number < read_cursor(database.cursors, CHANGES, cursor, int))
    query = query.order_by(changes.c.number.desc()).limit(checked_limit(limit) + 1)
    with database.read() as connection:
        rows = connection.execute(query).mappings().all()
    following = write_cursor(database.cursors, CHANGES, rows[limit - 1]["number"]) if len(rows) > limit else ""
    return Page(
        items=tuple(
            Change(
                subject=Subject(row["subject"]),
                subject_id=row["subject_id"],
                advertiser_id=row["advertiser_id"],
                changed_at=row["changed_at"],
                by=Actor(role=row["by_role"], key_id=row["by_key"], name=row["by_name"]),
                fields=_FIELDS.decode(row["fields"]),
            )
            for row in rows[:limit]
        ),
        cursor=following,
    )


def _flat(campaign: Campaign) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a campaign and of its creatives as JSON values."""
    whole: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(campaign))
    yield from ((name, value) for name, value in whole.items() if name not in _UNRECORDED)
    yield "creatives", [creative["id"] for creative in whole["creatives"]]
    for creative in whole["creatives"]:
        yield from ((f"creatives[{creative['id']}].{name}", value) for name, value in creative.items() if name != "id")

"""Campaigns in SQL: create, change, review, list.

A campaign is stored whole as JSON, beside the columns that SQL filters by and the ledger computes with.
`serving.campaigns.validation` validates the fields; this module enforces what depends on stored campaigns: versions,
unique ids, fields that charges depend on, and reviews, which advertisers cannot give themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, insert, select, tuple_, update

from mechanism.errors import InputError
from serving.campaigns.changes import PLATFORM, Actor, Subject, campaign_changes, record_change
from serving.campaigns.funds import account_of, open_account
from serving.campaigns.stored import decoded, row_of
from serving.campaigns.types import Campaign, CampaignState, Creative, ReviewState
from serving.database.columns import checked_moment, checked_text
from serving.database.cursors import Page, change_mark, checked_limit, read_cursor, write_cursor
from serving.database.engine import Database
from serving.database.schema import campaign_spend, campaigns, creatives

CAMPAIGNS = "campaigns"
"""The list that its cursors are signed for."""


class NotFound(InputError):
    """No campaign, creative or placement has this id."""


class VersionConflict(InputError):
    """The campaign was changed by another request since it was read."""


class CampaignFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which campaigns to list; an empty field admits everything. `text` is a part of the name, in any case."""

    advertiser_id: str = ""
    state: CampaignState | None = None
    category: str = ""
    text: str = ""


Also: TypeAlias = Callable[[Connection, Campaign], None]
"""Runs in the transaction of a change, with the campaign as stored."""


AlsoAll: TypeAlias = Callable[[Connection, Mapping[int, InputError]], None]
"""Runs in the transaction of many changes, with the faults of those that cannot be made by index."""
IDS_PER_QUERY = 1_000


def _nothing_else(connection: Connection, campaign: Campaign) -> None:
    pass


class CampaignStore:
    """The campaigns of one database.

    Every change takes `now`, an aware moment, and who makes it, which its history names. It runs `also` in its
    transaction.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, campaign: Campaign, now: datetime, also: Also = _nothing_else, *, by: Actor = PLATFORM
    ) -> Campaign:
        """Store a new campaign as version 1 with all creatives pending review, and return it as stored.

        Its advertiser gets an account in its currency, if it has none. If the campaign's id, or the id of one of its
        creatives, is taken, that is an InputError.
        """
        stored = _new(campaign, now)
        row = row_of(stored)

        def work(connection: Connection) -> Campaign:
            for fault in _taken(connection, [stored]).values():
                raise fault
            self._insert(connection, [stored], [row])
            _claim(connection, stored)
            _record(connection, None, stored, by)
            also(connection, stored)
            return stored

        return self._database.transact(work)

    def create_all(
        self, new: Sequence[Campaign], now: datetime, also: AlsoAll, *, by: Actor = PLATFORM
    ) -> dict[int, InputError]:
        """Store new campaigns as `create` does, in one transaction; return the faults of the others by index.

        A campaign is left out if its id, or one of its creatives' ids, is taken. Ids among the new ones are unique.
        `also` gets the faults in the transaction; an error of it undoes everything.
        """
        stored = [_new(campaign, now) for campaign in new]
        rows: list[dict[str, Any]] = []
        unfit: dict[int, InputError] = {}
        for index, campaign in enumerate(stored):
            try:
                rows.append(row_of(campaign))
            except InputError as error:
                rows.append({})
                unfit[index] = error

        def work(connection: Connection) -> dict[int, InputError]:
            faults = _taken(connection, stored) | unfit
            good = [index for index in range(len(stored)) if index not in faults]
            self._insert(connection, [stored[index] for index in good], [rows[index] for index in good])
            owned = [{"id": one.id, "campaign_id": stored[i].id} for i in good for one in stored[i].creatives]
            if owned:
                connection.execute(insert(creatives), owned)
            for index in good:
                _record(connection, None, stored[index], by)
            also(connection, faults)
            return faults

        return self._database.transact(work)

    def get(self, campaign_id: str) -> Campaign:
        """Return the campaign; NotFound if there is none."""
        with self._database.read() as connection:
            return _read(connection, campaign_id)

    def campaign_of(self, creative_id: str) -> Campaign:
        """Return the campaign that a creative belongs, or once belonged, to; NotFound if there is none."""
        with self._database.read() as connection:
            return _read(connection, _owner(connection, creative_id))

    def update(
        self, campaign: Campaign, now: datetime, also: Also = _nothing_else, *, by: Actor = PLATFORM
    ) -> Campaign:
        """Replace the campaign if `campaign.version` is the current version; return it with the next version.

        A new or changed creative is pending review; the others keep their stored review. An unknown campaign is
        NotFound, another version VersionConflict. A change of the advertiser, the currency, the priority or an ended
        state, and a taken creative id, are an InputError.
        """

        def change(connection: Connection, old: Campaign) -> Campaign:
            _check_version(old, campaign.version)
            _check_fixed("advertiser_id", old.advertiser_id, campaign.advertiser_id)
            _check_fixed("currency", old.currency, campaign.currency)
            _check_fixed("priority", old.priority, campaign.priority)
            _check_state(old, campaign.state)
            known = {creative.id: creative for creative in old.creatives}
            reviewed = tuple(_reviewed(creative, known.get(creative.id)) for creative in campaign.creatives)
            return msgspec.structs.replace(campaign, creatives=reviewed, created_at=old.created_at)

        return self._change(campaign.id, now, change, also, by)

    def set_state(
        self,
        campaign_id: str,
        state: CampaignState,
        now: datetime,
        *,
        version: int | None = None,
        also: Also = _nothing_else,
        by: Actor = PLATFORM,
    ) -> Campaign:
        """Start, pause or end a campaign, if `version` is None or its current version; an ended one stays ended."""

        def change(connection: Connection, old: Campaign) -> Campaign:
            _check_version(old, version)
            _check_state(old, state)
            return msgspec.structs.replace(old, state=state)

        return self._change(campaign_id, now, change, also, by)

    def review(
        self,
        creative_id: str,
        review: ReviewState,
        now: datetime,
        *,
        note: str = "",
        version: int | None = None,
        also: Also = _nothing_else,
        by: Actor = PLATFORM,
    ) -> Campaign:
        """Set a creative's review, and return its campaign; NotFound if its campaign does not have it.

        With `version`, a campaign that has changed since that version is a VersionConflict: the reviewer has not seen
        the change.
        """
        with self._database.read() as connection:
            campaign_id = _owner(connection, creative_id)

        def change(connection: Connection, old: Campaign) -> Campaign:
            _check_version(old, version)
            if creative_id not in {creative.id for creative in old.creatives}:
                raise NotFound("creative", creative_id, "its campaign no longer has it")
            reviewed = tuple(
                msgspec.structs.replace(c, review=review, review_note=note) if c.id == creative_id else c
                for c in old.creatives
            )
            return msgspec.structs.replace(old, creatives=reviewed)

        return self._change(campaign_id, now, change, also, by)

    def page(self, wanted: CampaignFilter, cursor: str = "", limit: int = 50) -> Page[Campaign]:
        """Return campaigns, newest first, after `cursor`; a bad cursor or limit is an InputError."""
        order = tuple_(campaigns.c.created_at, campaigns.c.id)
        query = select(campaigns.c.body).where(*_conditions(wanted))
        if cursor:
            created_at, campaign_id = read_cursor(self._database.cursors, CAMPAIGNS, cursor, tuple[datetime, str])
            query = query.where(order < tuple_(checked_moment("cursor", created_at), campaign_id))
        query = query.order_by(campaigns.c.created_at.desc(), campaigns.c.id.desc()).limit(checked_limit(limit) + 1)
        with self._database.read() as connection:
            found = [decoded(body) for body in connection.execute(query).scalars()]
        shown, more = found[:limit], len(found) > limit
        following = (
            write_cursor(self._database.cursors, CAMPAIGNS, (shown[-1].created_at, shown[-1].id)) if more else ""
        )
        return Page(items=tuple(shown), cursor=following)

    def _insert(self, connection: Connection, new: Sequence[Campaign], rows: Sequence[dict[str, Any]]) -> None:
        """Insert new campaigns, that have spent nothing, with their `rows`, and open the accounts that are missing."""
        if not new:
            return
        changed_in = change_mark(connection)
        connection.execute(insert(campaigns), [row | {"changed_in": changed_in} for row in rows])
        spends = [{"campaign_id": one.id, "total_micros": 0, "changed_in": changed_in} for one in new]
        connection.execute(insert(campaign_spend), spends)
        for account, since in {account_of(one): one.created_at for one in new}.items():
            open_account(self._database, connection, account, since, changed_in)

    def _change(
        self,
        campaign_id: str,
        now: datetime,
        change: Callable[[Connection, Campaign], Campaign],
        also: Also,
        by: Actor,
    ) -> Campaign:
        def work(connection: Connection) -> Campaign:
            # Charging takes the same lock, so that no charge is computed with a budget that is being changed.
            lock = select(campaign_spend.c.campaign_id).where(campaign_spend.c.campaign_id == campaign_id)
            connection.execute(lock.with_for_update())
            old = _read(connection, campaign_id)
            new = change(connection, old)
            new = msgspec.structs.replace(new, version=old.version + 1, updated_at=now)
            values = row_of(new) | {"changed_in": change_mark(connection)}
            connection.execute(update(campaigns).where(campaigns.c.id == campaign_id).values(values))
            _claim(connection, new)
            _record(connection, old, new, by)
            also(connection, new)
            return new

        return self._database.transact(work)


def _new(campaign: Campaign, now: datetime) -> Campaign:
    pending = tuple(_pending(creative) for creative in campaign.creatives)
    return msgspec.structs.replace(campaign, creatives=pending, version=1, created_at=now, updated_at=now)


def _taken(connection: Connection, new: Sequence[Campaign]) -> dict[int, InputError]:
    """Return the faults of the campaigns with an id, or a creative's id, that another campaign has, by index."""
    taken = set[str]()
    for ids in _slices([campaign.id for campaign in new]):
        taken.update(connection.execute(select(campaigns.c.id).where(campaigns.c.id.in_(ids))).scalars())
    owned = set[str]()
    for ids in _slices([creative.id for campaign in new for creative in campaign.creatives]):
        owned.update(connection.execute(select(creatives.c.id).where(creatives.c.id.in_(ids))).scalars())
    faults: dict[int, InputError] = {}
    for index, campaign in enumerate(new):
        if campaign.id in taken:
            faults[index] = InputError("id", campaign.id, "a campaign has this id: choose another, or leave it out")
        elif used := [n for n, one in enumerate(campaign.creatives) if one.id in owned]:
            place, value = f"creatives[{used[0]}].id", campaign.creatives[used[0]].id
            faults[index] = InputError(place, value, "another campaign has this id: choose another, or leave it out")
    return faults


def _slices(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + IDS_PER_QUERY] for start in range(0, len(ids), IDS_PER_QUERY))


def _claim(connection: Connection, campaign: Campaign) -> None:
    """Reserve the creatives' ids for this campaign.

    Raises:
        InputError: if an id belongs to another campaign, or appears twice.
    """
    ids = [checked_text("creative", creative.id) for creative in campaign.creatives]
    for creative_id in ids:
        if ids.count(creative_id) > 1:
            raise InputError("creative", creative_id, "two creatives have this id: give each its own")
    taken = connection.execute(select(creatives.c.id, creatives.c.campaign_id).where(creatives.c.id.in_(ids)))
    owners = {creative_id: owner for creative_id, owner in taken}
    for creative_id, owner in owners.items():
        if owner != campaign.id:
            raise InputError("creative", creative_id, "another campaign has this id: choose another")
    new = [{"id": creative_id, "campaign_id": campaign.id} for creative_id in ids if creative_id not in owners]
    if new:
        connection.execute(insert(creatives), new)


def _record(connection: Connection, old: Campaign | None, new: Campaign, by: Actor) -> None:
    fields = campaign_changes(old, new)
    record_change(connection, Subject.CAMPAIGN, new.id, new.advertiser_id, fields, by, new.updated_at)


def _read(connection: Connection, campaign_id: str) -> Campaign:
    body = connection.execute(select(campaigns.c.body).where(campaigns.c.id == campaign_id)).scalar_one_or_none()
    if body is None:
        raise NotFound("campaign", campaign_id, "no campaign has this id")
    return decoded(body)


def _owner(connection: Connection, creative_id: str) -> str:
    query = select(creatives.c.campaign_id).where(creatives.c.id == creative_id)
    owner = connection.execute(query).scalar_one_or_none()
    if owner is None:
        raise NotFound("creative", creative_id, "no creative has this id")
    return str(owner)


def _conditions(wanted: CampaignFilter) -> list[ColumnElement[bool]]:
    conditions = [
        column == value
        for column, value in (
            (campaigns.c.advertiser_id, wanted.advertiser_id),
            (campaigns.c.state, wanted.state.value if wanted.state else ""),
            (campaigns.c.category, wanted.category),
        )
        if value
    ]
    if wanted.text:
        conditions.append(campaigns.c.name_folded.contains(wanted.text.casefold(), autoescape=True))
    return [and_(*conditions)] if conditions else []


def _check_version(old: Campaign, version: int | None) -> None:
    if version is not None and version != old.version:
        raise VersionConflict("version", version, f"the campaign is at version {old.version} now: read it again")


def _check_fixed(field: str, old: str, new: str) -> None:
    if new != old:
        raise InputError(field, new, "it is fixed: create another campaign instead")


def _check_state(old: Campaign, state: CampaignState) -> None:
    if old.state is CampaignState.ENDED and state is not CampaignState.ENDED:
        raise InputError("state", state.value, "the campaign has ended for good: create another")


def _pending(creative: Creative) -> Creative:
    return msgspec.structs.replace(creative, review=ReviewState.PENDING, review_note="")


def _unscreened(creative: Creative) -> Creative:
    """Return the creative as its advertiser wrote it: screening may have learned since."""
    return msgspec.structs.replace(_pending(creative), findings=())


def _reviewed(creative: Creative, known: Creative | None) -> Creative:
    if known is not None and _unscreened(creative) == _unscreened(known):
        return known
    return _pending(creative)

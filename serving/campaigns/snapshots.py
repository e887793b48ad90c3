"""Snapshots for the routers' memory: all live campaigns with their spend, limited accounts, and the changes since.

Which campaigns may take part in an auction is decided in `serving.auction.eligibility`.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, or_, select, tuple_

from mechanism.types import Micros
from serving.campaigns.dayparts import day_of
from serving.campaigns.funds import Account, Funds, funds, limited
from serving.campaigns.stored import decoded
from serving.campaigns.types import Campaign, CampaignState, Spend
from serving.database.columns import checked_moment
from serving.database.cursors import change_cursor
from serving.database.engine import Database
from serving.database.schema import advertiser_accounts, campaign_days, campaign_spend, campaigns


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Campaigns, spends and funds at one moment; `changes_since` continues at `cursor`.

    Changes may hold a campaign or a spend that the reader has already, and campaigns that have ended, which the reader
    drops. Spend is that of the campaign's own day; at the next day the reader starts from 0 itself. An account that is
    missing in a snapshot is unlimited.
    """

    cursor: int
    campaigns: tuple[Campaign, ...]
    spends: tuple[Spend, ...]
    funds: tuple[Funds, ...]


def snapshot(database: Database, now: datetime) -> Snapshot:
    """Return all live campaigns, paused ones included: neither ended by their advertiser nor past their end."""
    open_ended = or_(campaigns.c.ends_at.is_(None), campaigns.c.ends_at > checked_moment("now", now))
    live = and_(campaigns.c.state != CampaignState.ENDED.value, open_ended)
    with database.read() as connection:
        cursor = change_cursor(connection)
        found = tuple(decoded(body) for body in connection.execute(select(campaigns.c.body).where(live)).scalars())
        spends, left = _spends(connection, now, live), tuple(funds(connection, limited()))
        return Snapshot(cursor=cursor, campaigns=found, spends=spends, funds=left)


def changes_since(database: Database, cursor: int, now: datetime) -> Snapshot:
    """Return the campaigns, spends and funds that changed since the snapshot or changes with this cursor.

    A changed campaign that has not ended comes with its spend: the reader may have dropped both at its former end.
    """
    changed, grown = campaigns.c.changed_in >= cursor, campaign_spend.c.changed_in >= cursor
    with database.read() as connection:
        following = change_cursor(connection)
        found = tuple(decoded(body) for body in connection.execute(select(campaigns.c.body).where(changed)).scalars())
        left = tuple(funds(connection, advertiser_accounts.c.changed_in >= cursor))
        # Two queries: no index serves a condition on either of two tables.
        spends = _spends(connection, now, grown)
        if found:
            spends += _spends(connection, now, and_(changed, campaigns.c.state != CampaignState.ENDED.value))
        return Snapshot(cursor=following, campaigns=found, spends=spends, funds=left)


def spends_of(database: Database, ids: Collection[str], now: datetime) -> dict[str, Spend]:
    """Return the spend of each of these campaigns, in all and on its own day, by campaign id."""
    with database.read() as connection:
        return {spend.campaign_id: spend for spend in _spends(connection, now, campaigns.c.id.in_(ids))}


def left_of(database: Database, accounts: Collection[Account]) -> dict[Account, Micros | None]:
    """Return what is left of each of these accounts that is on record, None without a limit."""
    columns = advertiser_accounts.c
    chosen = tuple_(columns.advertiser_id, columns.currency).in_([tuple(one) for one in accounts])
    with database.read() as connection:
        return {one.account: one.left for one in funds(connection, chosen)}


def _spends(connection: Connection, now: datetime, chosen: ColumnElement[bool]) -> tuple[Spend, ...]:
    # In every time zone, today is one of these three dates.
    days = [(now + timedelta(days=step)).date().isoformat() for step in (-1, 0, 1)]
    both = campaigns.join(campaign_spend, campaign_spend.c.campaign_id == campaigns.c.id)
    today = and_(campaign_days.c.campaign_id == campaigns.c.id, campaign_days.c.day.in_(days))
    query = (
        select(campaigns.c.id, campaigns.c.time_zone, campaign_spend.c.total_micros)
        .add_columns(campaign_days.c.day, campaign_days.c.micros)
        .select_from(both.outerjoin(campaign_days, today))
        .where(chosen)
    )
    found: dict[str, Spend] = {}
    local: dict[str, str] = {}
    for campaign_id, time_zone, total, day, micros in connection.execute(query):
        own_day = local.get(time_zone) or local.setdefault(time_zone, day_of(now, time_zone))
        if day == own_day or campaign_id not in found:
            spent = micros if day == own_day else 0
            found[campaign_id] = Spend(campaign_id=campaign_id, total_micros=total, day=own_day, day_micros=spent)
    return tuple(found.values())

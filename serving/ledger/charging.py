"""Charge clicks, impressions and participations: each once, never past a budget or past what an account holds.

`charge_events` decides what an event is charged. `Ledger.book` runs it in a transaction that holds the charge records,
the campaigns' totals and days, the advertisers' totals, the counters of reports, and how far the event log was read.
The price of an event was decided by its auction (`mechanism.payments`), the validity of a click where it arrived
(`serving.clicks`). The ledger worker (`serving.ledger.worker`) is the only caller in production.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, TypeAlias

import msgspec
from sqlalchemy import Connection, Insert, Update, bindparam, insert, select, update

from mechanism.errors import InputError
from mechanism.types import Micros
from serving.campaigns.dayparts import day_of
from serving.campaigns.funds import Account, lock_limited, mark_changed
from serving.campaigns.types import Pricing, Priority
from serving.database.cursors import change_mark
from serving.database.engine import Database
from serving.database.schema import (
    advertiser_totals,
    auctions,
    campaign_days,
    campaign_spend,
    campaigns,
    charges,
    consumer_offsets,
    placements,
    publishers,
)
from serving.ledger.counters import Tally, add_to_rows
from serving.ledger.entries import Auction, BadAuctions, BadEvents, ChargeEvent, ChargeResult, Offset, Terms, reason_of
from streaming.log import Fenced

MOST_EVENTS = 10_000
WHOLE_SHARE = 1_000
"""A publisher's share of the whole charge, in thousandths."""
EventKey: TypeAlias = tuple[str, str, str]
"""Id, kind and reason of invalidity: the primary key of a charge record."""


class Ledger:
    """The charges of one database. Safe to use from several threads, processes and machines."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def book(
        self, events: Sequence[ChargeEvent] = (), *, auctions: Sequence[Auction] = (), offsets: Sequence[Offset] = ()
    ) -> list[ChargeResult]:
        """Charge events and count auctions, each once, and store offsets: one transaction. Return the events' results.

        Booking the same again, after any failure, changes nothing and returns what is on record. After an error nothing
        is written.

        BadEvents and BadAuctions name what fits no campaign. Fenced means that an offset on record is neither the given
        one nor the one before it: another worker wrote it.
        """
        _check_batch_size(len(events))
        _check_batch_size(max(len(auctions), sum(len(auction.entries) for auction in auctions)))
        return self._database.transact(lambda c: _book(self._database, c, events, auctions, offsets), idempotent=True)

    def next_offset(self, consumer: str, partition: int) -> int | None:
        """Return where a consumer continues to read; None if it has stored no offset."""
        own = (consumer_offsets.c.consumer == consumer) & (consumer_offsets.c.partition == partition)
        with self._database.read() as connection:
            return connection.execute(select(consumer_offsets.c.next_offset).where(own)).scalar_one_or_none()

    def model_versions(self, auction_ids: Collection[str]) -> dict[str, str]:
        """Return the model version of each auction that is on record, by auction id."""
        query = select(auctions.c.id, auctions.c.model_version).where(auctions.c.id.in_(auction_ids))
        with self._database.read() as connection:
            return {auction_id: version for auction_id, version in connection.execute(query)}


def charge_events(
    database: Database, connection: Connection, events: Sequence[ChargeEvent], tally: Tally
) -> list[ChargeResult]:
    """Charge each event that is not on record; return the results in the order of the events.

    An event is charged min(price, rest of the total budget, rest of the daily budget of its own day in the campaign's
    time zone, rest of the advertiser's account). No limit is exceeded by a micro, and what an advertiser pays in all
    does not depend on the order of its events: the limits hold for nested sets of events, so charging as much as fits
    always ends at the same sum.
    """
    ids = sorted({event.campaign_id for event in events})
    locked = select(campaign_spend.c.campaign_id, campaign_spend.c.total_micros)
    locked = locked.where(campaign_spend.c.campaign_id.in_(ids)).order_by(campaign_spend.c.campaign_id)
    spent = {campaign: total for campaign, total in connection.execute(locked.with_for_update())}
    # Read under the lock, so that a budget that was changed a moment ago is the one that counts.
    terms = _terms(
        connection, ids, [(n, event.id, event.campaign_id, event.currency) for n, event in enumerate(events)]
    )
    accounts = lock_limited(connection, {own.advertiser_id for own in terms.values()})
    purses = {account: _Purse(left) for account, left in accounts.items()}
    days = [day_of(event.occurred_at, terms[event.campaign_id].time_zone) for event in events]
    recorded = _recorded(connection, events)
    budgets = _budgets(connection, spent, terms, set(days), purses)
    shares = _shares(connection, {event.placement for event in events})
    now = datetime.now(UTC)
    new: list[_NewCharge] = []
    results: list[ChargeResult] = []
    for event, day in zip(events, days, strict=True):
        key = (event.id, event.kind.value, event.invalid)
        if (known := recorded.get(key)) is not None:
            results.append(msgspec.structs.replace(known, new=False))
            continue
        own = terms[event.campaign_id]
        charged = budgets[event.campaign_id].spend(day, 0 if event.invalid else event.price_micros)
        reason = reason_of(event.invalid, event.price_micros, charged)
        results.append(ChargeResult(id=event.id, kind=event.kind, charged_micros=charged, reason=reason, new=True))
        recorded[key] = results[-1]
        publisher, share = shares.get(event.placement, ("", 0))
        new.append(_NewCharge(event, own.advertiser_id, day, charged, publisher, charged * share // WHOLE_SHARE))
        if event.invalid:
            tally.add_invalid(event, day, own)
        else:
            tally.add_charge(event, day, own, charged)
    if new:
        connection.execute(insert(charges), [charge.row(now) for charge in new])
        paid_from = [Account(charge.advertiser_id, charge.event.currency) for charge in new if charge.charged]
        if drawn := purses.keys() & set(paid_from):
            mark_changed(connection, drawn, change_mark(connection))
        _add_to_totals(database, connection, new)
    return results


class _NewCharge(NamedTuple):
    event: ChargeEvent
    advertiser_id: str
    day: str
    charged: Micros
    publisher_id: str
    publisher_micros: Micros

    def row(self, now: datetime) -> dict[str, object]:
        """Return the charge record."""
        own = msgspec.structs.asdict(self.event) | {"kind": self.event.kind.value, "advertiser_id": self.advertiser_id}
        shared = {"publisher_id": self.publisher_id, "publisher_micros": self.publisher_micros}
        return own | shared | {"charged_micros": self.charged, "day": self.day, "recorded_at": now}


class _Purse(msgspec.Struct):
    """What is left of an account while its row is locked; the campaigns that it pays for share it."""

    left: Micros


class _Budget(msgspec.Struct):
    """What is left of a campaign's budgets and of its account while their rows are locked; None is unlimited."""

    total: Micros | None
    daily: Micros | None
    purse: _Purse | None
    spent_on: dict[str, Micros]

    def spend(self, day: str, price: Micros) -> Micros:
        """Subtract as much of `price` as the budgets and the account allow, and return it."""
        spent = self.spent_on.get(day, 0)
        charged = price
        # max(0, ...): a budget that was lowered below what is spent leaves 0, not a negative amount.
        if self.daily is not None:
            charged = max(0, min(charged, self.daily - spent))
        if self.purse is not None:
            charged = max(0, min(charged, self.purse.left))
        if self.total is not None:
            charged = max(0, min(charged, self.total))
            self.total -= charged
        if self.purse is not None:
            self.purse.left -= charged
        self.spent_on[day] = spent + charged
        return charged


def _book(
    database: Database,
    connection: Connection,
    events: Sequence[ChargeEvent],
    auctions: Sequence[Auction],
    offsets: Sequence[Offset],
) -> list[ChargeResult]:
    # Every transaction takes its locks in this order (campaigns, accounts, totals of advertisers, auctions, counters;
    # each sorted), so that no two can deadlock.
    terms = _auction_terms(connection, auctions)
    tally = Tally()
    results = charge_events(database, connection, events, tally) if events else []
    if auctions:
        _count_auctions(connection, auctions, terms, tally)
    tally.write(database, connection)
    for offset in sorted(offsets, key=lambda o: (o.consumer, o.partition)):
        _write_offset(database, connection, offset)
    return results


def _shares(connection: Connection, names: Collection[str]) -> dict[str, tuple[str, int]]:
    """Return publisher and share, in thousandths, of the registered ones among some placements."""
    both = placements.join(publishers, placements.c.publisher_id == publishers.c.id)
    query = select(placements.c.id, publishers.c.id, publishers.c.share_thousandths).select_from(both)
    found = connection.execute(query.where(placements.c.id.in_(names)))
    return {placement: (publisher, share) for placement, publisher, share in found}


def _check_batch_size(events: int) -> None:
    if events > MOST_EVENTS:
        raise InputError("events", events, f"send {MOST_EVENTS} at most in one batch")


def _terms(connection: Connection, ids: Iterable[str], used: Sequence[tuple[int, str, str, str]]) -> dict[str, Terms]:
    """Return the terms of the campaigns, by id.

    `used` holds index, event id, campaign id and currency (empty for any) of what is charged or counted.

    Raises:
        BadEvents: if the campaign of one is unknown or pays in another currency.
    """
    columns = (campaigns.c.id, *(campaigns.c[name] for name in Terms.__struct_fields__))
    found = {row[0]: Terms(*row[1:]) for row in connection.execute(select(*columns).where(campaigns.c.id.in_(ids)))}
    rejected = []
    for index, event_id, campaign_id, currency in used:
        own = found.get(campaign_id)
        if own is None:
            remedy = "no campaign has this id"
            rejected.append((index, InputError(f"campaign of event {event_id}", campaign_id, remedy)))
        elif currency and currency != own.currency:
            remedy = f"the campaign pays in {own.currency}, and the ledger converts no currency"
            rejected.append((index, InputError(f"currency of event {event_id}", currency, remedy)))
    if rejected:
        raise BadEvents(rejected)
    return found


def _auction_terms(connection: Connection, batch: Sequence[Auction]) -> dict[str, Terms]:
    used = [
        (index, auction.id, campaign_id, "")
        for index, auction in enumerate(batch)
        for campaign_id in sorted({entry.campaign_id for entry in auction.entries})
    ]
    try:
        return _terms(connection, {campaign_id for _, _, campaign_id, _ in used}, used)
    except BadEvents as error:
        raise BadAuctions(error.rejected) from None


def _count_auctions(connection: Connection, batch: Sequence[Auction], terms: dict[str, Terms], tally: Tally) -> None:
    """Record the auctions that are not on record yet, and add them to the tally."""
    by_id = {auction.id: auction for auction in reversed(batch)}
    known = set(connection.execute(select(auctions.c.id).where(auctions.c.id.in_(by_id))).scalars())
    new = [by_id[auction_id] for auction_id in sorted(by_id.keys() - known)]
    for auction in new:
        tally.add_auction(auction, terms)
    if new:
        rows = [
            {"id": a.id, "occurred_at": a.occurred_at, "placement": a.placement, "model_version": a.model_version}
            for a in new
        ]
        connection.execute(insert(auctions), rows)


def _recorded(connection: Connection, events: Sequence[ChargeEvent]) -> dict[EventKey, ChargeResult]:
    """Return the results of events on record; no other transaction adds any while the campaigns are locked."""
    columns = (charges.c.id, charges.c.kind, charges.c.invalid, charges.c.price_micros, charges.c.charged_micros)
    query = select(*columns).where(charges.c.id.in_({event.id for event in events}))
    found = {}
    for event_id, kind, invalid, price, charged in connection.execute(query):
        reason = reason_of(invalid, price, charged)
        result = ChargeResult(id=event_id, kind=Pricing(kind), charged_micros=charged, reason=reason, new=False)
        found[event_id, kind, invalid] = result
    return found


def _budgets(
    connection: Connection,
    spent: dict[str, Micros],
    terms: dict[str, Terms],
    days: set[str],
    purses: dict[Account, _Purse],
) -> dict[str, _Budget]:
    query = select(campaign_days).where(campaign_days.c.campaign_id.in_(spent), campaign_days.c.day.in_(days))
    budgets = {}
    for campaign_id, total in spent.items():
        own = terms[campaign_id]
        left = None if own.total_budget_micros is None else own.total_budget_micros - total
        if own.priority == Priority.HOUSE:
            left = 0  # routers give house ads no price; whatever comes, they pay nothing
        purse = purses.get(Account(own.advertiser_id, own.currency))
        budgets[campaign_id] = _Budget(left, own.daily_budget_micros, purse, {})
    for campaign_id, day, micros in connection.execute(query):
        budgets[campaign_id].spent_on[day] = micros
    return budgets


def _add_to_totals(database: Database, connection: Connection, new: Sequence[_NewCharge]) -> None:
    """Add the charges to the campaigns' totals, their days and the advertisers' totals."""
    of_campaign: dict[str, Micros] = defaultdict(int)
    of_day: dict[tuple[str, str], Micros] = defaultdict(int)
    of_advertiser: dict[tuple[str, str], tuple[Micros, int]] = defaultdict(lambda: (0, 0))
    for event, advertiser_id, day, charged, *_ in new:
        if charged:
            of_campaign[event.campaign_id] += charged
            of_day[event.campaign_id, day] += charged
            micros, number = of_advertiser[advertiser_id, event.currency]
            of_advertiser[advertiser_id, event.currency] = (micros + charged, number + 1)
    if not of_campaign:
        return
    changed_in = change_mark(connection)
    own = campaign_spend.c.campaign_id == bindparam("campaign")
    grown = {"total_micros": campaign_spend.c.total_micros + bindparam("micros"), "changed_in": changed_in}
    added = [{"campaign": campaign_id, "micros": micros} for campaign_id, micros in sorted(of_campaign.items())]
    connection.execute(update(campaign_spend).where(own).values(grown), added)
    days = [{"campaign_id": c, "day": day, "micros": micros} for (c, day), micros in sorted(of_day.items())]
    add_to_rows(database, connection, campaign_days, days, ("micros",))
    totals = [
        {"advertiser_id": advertiser, "currency": currency, "charged_micros": micros, "charges": number}
        for (advertiser, currency), (micros, number) in sorted(of_advertiser.items())
    ]
    add_to_rows(database, connection, advertiser_totals, totals, ("charged_micros", "charges"))


def _write_offset(database: Database, connection: Connection, offset: Offset) -> None:
    table = consumer_offsets
    own = {"consumer": offset.consumer, "partition": offset.partition, "next_offset": offset.next_offset}
    # What this very transaction stores may be on record already, if its commit succeeded and its answer was lost.
    change: Insert | Update
    if offset.previous is None:
        new = database.insert(table).values(own)
        change = new.on_conflict_do_update(
            index_elements=["consumer", "partition"],
            set_={"next_offset": new.excluded.next_offset},
            where=table.c.next_offset == new.excluded.next_offset,
        )
    else:
        place = (table.c.consumer == offset.consumer) & (table.c.partition == offset.partition)
        known = table.c.next_offset.in_([offset.previous, offset.next_offset])
        change = update(table).where(place & known).values(next_offset=offset.next_offset)
    if connection.execute(change.returning(table.c.partition)).first() is None:
        raise Fenced(f"offset of {offset.consumer} {offset.partition}: another worker has stored a different one")

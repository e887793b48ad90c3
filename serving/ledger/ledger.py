"""The ledger: what was charged for which event, once, and never past a budget.

One transaction holds the charge records, the campaigns' totals (in all and per day), the advertisers' totals, the
report's counters, and how far the log was read. What an event costs was decided by its auction (`mechanism.payments`);
a click's validity is decided where it arrives. Reports are `serving.reports.reports`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from sqlalchemy import Connection, bindparam, insert, select, update

from mechanism.types import Micros
from serving.campaigns.dayparts import day_of
from serving.campaigns.types import Pricing
from serving.database.cursors import change_mark
from serving.database.engine import Database
from serving.database.schema import advertiser_totals, campaign_days, campaign_spend, charges, consumer_offsets
from serving.ledger.auctions import Auction, checked_terms, count_auctions
from serving.ledger.counting import Tally, counter_key
from serving.ledger.events import Charged, ChargeEvent, Offset, Terms, check_batch_size, reason_of, terms_of

Key = tuple[str, str, str]


class Ledger:
    """The charges of one database. Safe to use from several threads, processes and machines."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def book(
        self, auctions: Sequence[Auction], events: Sequence[ChargeEvent], offsets: Sequence[Offset] = ()
    ) -> list[Charged]:
        """Counts each auction once and charges each event once, with `offsets`, all in one transaction. Outcomes of the
        events, in order. Raises BadAuctions, and BadEvents as `charge_many`; nothing is written then. May be called
        again with the same after any failure.
        """
        check_batch_size(len(events))
        return self._database.transact(lambda c: _book(self._database, c, auctions, events, offsets), idempotent=True)

    def charge_many(self, events: Sequence[ChargeEvent], offset: Offset | None = None) -> list[Charged]:
        """Charges each event once, in one transaction, with `offset` in the same transaction. Outcomes in order.

        Each event is charged min(price, what is left of the total budget, what is left of the daily budget of its own
        day in the campaign's time zone). So no budget is passed by a micro, and what a campaign pays in all does not
        depend on the order of events: both budgets form nested sets of events, on which taking as much as fits always
        ends at the same sum. A repeated event changes nothing and gives what is on record.

        Raises BadEvents, and writes nothing, where an event names an unknown campaign or another currency than its
        campaign's. May be called again with the same events after any failure.
        """
        return self.book((), events, () if offset is None else (offset,))

    def charge(self, event: ChargeEvent) -> Charged:
        """The same for a single event."""
        return self.charge_many([event])[0]

    def next_offset(self, consumer: str, partition: int) -> int | None:
        """Where a consumer goes on reading, or None where it never wrote an offset."""
        own = (consumer_offsets.c.consumer == consumer) & (consumer_offsets.c.partition == partition)
        with self._database.read() as connection:
            return connection.execute(select(consumer_offsets.c.next_offset).where(own)).scalar_one_or_none()


class _Budget(msgspec.Struct):
    """What is left of one campaign's budgets while its lock is held; None is unlimited."""

    total: Micros | None
    daily: Micros | None
    spent_on: dict[str, Micros]

    def take(self, day: str, price: Micros) -> Micros:
        """What of `price` may be charged on `day`; it is taken off."""
        spent = self.spent_on.get(day, 0)
        charged = price
        # A budget that was lowered below what is spent leaves nothing, not less than nothing.
        if self.daily is not None:
            charged = max(0, min(charged, self.daily - spent))
        if self.total is not None:
            charged = max(0, min(charged, self.total))
            self.total -= charged
        self.spent_on[day] = spent + charged
        return charged


def _book(
    database: Database,
    connection: Connection,
    auctions: Sequence[Auction],
    events: Sequence[ChargeEvent],
    offsets: Sequence[Offset],
) -> list[Charged]:
    # All transactions take locks in the same order (campaigns, advertisers, auctions, counters, each sorted): no
    # deadlock.
    terms = checked_terms(connection, auctions)
    tally = Tally()
    outcomes = _charge(database, connection, events, tally) if events else []
    if auctions:
        count_auctions(connection, auctions, terms, tally)
    tally.add(database, connection)
    for offset in sorted(offsets, key=lambda o: (o.consumer, o.partition)):
        _write_offset(database, connection, offset)
    return outcomes


def _charge(database: Database, connection: Connection, events: Sequence[ChargeEvent], tally: Tally) -> list[Charged]:
    ids = sorted({event.campaign_id for event in events})
    locked = select(campaign_spend.c.campaign_id, campaign_spend.c.total_micros)
    locked = locked.where(campaign_spend.c.campaign_id.in_(ids)).order_by(campaign_spend.c.campaign_id)
    spent = {campaign: total for campaign, total in connection.execute(locked.with_for_update())}
    # Read after the lock is held, so that a budget changed a moment ago is the one that counts.
    used = [(index, event.id, event.campaign_id, event.currency) for index, event in enumerate(events)]
    terms = terms_of(connection, ids, used)
    days = [day_of(event.occurred_at, terms[event.campaign_id].time_zone) for event in events]
    recorded = _recorded(connection, events)
    budgets = _budgets(connection, spent, terms, set(days))
    now = datetime.now(UTC)
    rows, outcomes = [], []
    for event, day in zip(events, days, strict=True):
        key = (event.id, event.kind.value, event.invalid)
        if (known := recorded.get(key)) is not None:
            outcomes.append(msgspec.structs.replace(known, new=False))
            continue
        payable = 0 if event.invalid else event.price_micros
        charged = budgets[event.campaign_id].take(day, payable)
        reason = reason_of(event.invalid, event.price_micros, charged)
        outcomes.append(Charged(id=event.id, kind=event.kind, charged_micros=charged, reason=reason, new=True))
        recorded[key] = outcomes[-1]
        rows.append(_row(event, terms[event.campaign_id], charged, day, now))
        if not event.invalid:
            is_click = event.kind is Pricing.CLICK
            place = counter_key(event.campaign_id, event.creative_id, event.placement, day, event.model_version)
            counted = tally.counts[place]
            tally.terms[event.campaign_id] = terms[event.campaign_id]
            counted.clicks += is_click
            counted.charged_clicks += is_click and charged > 0
            counted.revenue_micros += charged
            tally.hours.charge(event.occurred_at, event.model_version, terms[event.campaign_id], is_click, charged)
    if rows:
        connection.execute(insert(charges), rows)
        _add_to_totals(database, connection, rows)
    return outcomes


def _recorded(connection: Connection, events: Sequence[ChargeEvent]) -> dict[Key, Charged]:
    """The events among these that are on record already. Their campaigns are locked, so nobody adds another now."""
    columns = (charges.c.id, charges.c.kind, charges.c.invalid, charges.c.price_micros, charges.c.charged_micros)
    query = select(*columns).where(charges.c.id.in_({event.id for event in events}))
    found = {}
    for event_id, kind, invalid, price, charged in connection.execute(query):
        reason = reason_of(invalid, price, charged)
        outcome = Charged(id=event_id, kind=Pricing(kind), charged_micros=charged, reason=reason, new=False)
        found[event_id, kind, invalid] = outcome
    return found


def _budgets(
    connection: Connection, spent: dict[str, Micros], terms: dict[str, Terms], days: set[str]
) -> dict[str, _Budget]:
    query = select(campaign_days).where(campaign_days.c.campaign_id.in_(spent), campaign_days.c.day.in_(days))
    budgets = {}
    for campaign_id, total in spent.items():
        own = terms[campaign_id]
        left = None if own.total_budget_micros is None else own.total_budget_micros - total
        budgets[campaign_id] = _Budget(left, own.daily_budget_micros, {})
    for campaign_id, day, micros in connection.execute(query):
        budgets[campaign_id].spent_on[day] = micros
    return budgets


def _row(event: ChargeEvent, terms: Terms, charged: Micros, day: str, now: datetime) -> dict[str, object]:
    own = msgspec.structs.asdict(event) | {"kind": event.kind.value, "advertiser_id": terms.advertiser_id}
    return own | {"charged_micros": charged, "day": day, "recorded_at": now}


def _add_to_totals(database: Database, connection: Connection, rows: list[dict[str, object]]) -> None:
    """Adds what was charged to the campaigns' totals, their days and the advertisers' totals."""
    of_campaign: dict[str, Micros] = defaultdict(int)
    of_day: dict[tuple[str, str], Micros] = defaultdict(int)
    of_advertiser: dict[tuple[str, str], tuple[Micros, int]] = defaultdict(lambda: (0, 0))
    for row in rows:
        charged = row["charged_micros"]
        assert isinstance(charged, int)
        if charged:
            of_campaign[str(row["campaign_id"])] += charged
            of_day[str(row["campaign_id"]), str(row["day"])] += charged
            owner = (str(row["advertiser_id"]), str(row["currency"]))
            micros, number = of_advertiser[owner]
            of_advertiser[owner] = (micros + charged, number + 1)
    if not of_campaign:
        return
    changed_in = change_mark(connection)
    own = campaign_spend.c.campaign_id == bindparam("campaign")
    grown = {"total_micros": campaign_spend.c.total_micros + bindparam("micros"), "changed_in": changed_in}
    added = [{"campaign": campaign_id, "micros": micros} for campaign_id, micros in sorted(of_campaign.items())]
    connection.execute(update(campaign_spend).where(own).values(grown), added)
    into = database.insert(campaign_days)
    into = into.on_conflict_do_update(
        index_elements=["campaign_id", "day"], set_={"micros": campaign_days.c.micros + into.excluded.micros}
    )
    values = [{"campaign_id": c, "day": day, "micros": micros} for (c, day), micros in sorted(of_day.items())]
    connection.execute(into, values)
    into = database.insert(advertiser_totals)
    into = into.on_conflict_do_update(
        index_elements=["advertiser_id", "currency"],
        set_={name: advertiser_totals.c[name] + into.excluded[name] for name in ("charged_micros", "charges")},
    )
    totals = [
        {"advertiser_id": advertiser, "currency": currency, "charged_micros": micros, "charges": number}
        for (advertiser, currency), (micros, number) in sorted(of_advertiser.items())
    ]
    connection.execute(into, totals)


def _write_offset(database: Database, connection: Connection, offset: Offset) -> None:
    into = database.insert(consumer_offsets)
    own = {"consumer": offset.consumer, "partition": offset.partition, "next_offset": offset.next_offset}
    changed = {"next_offset": into.excluded.next_offset}
    connection.execute(into.values(own).on_conflict_do_update(index_elements=["consumer", "partition"], set_=changed))

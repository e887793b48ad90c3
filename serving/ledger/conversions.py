"""Conversions: what readers did on an advertiser's page after a click, as the advertiser's server reports it.

A conversion belongs to a valid click on record, by its click id, within seven days. It is stored once by its id and
type and counted in the report line of its click, on the day of the click. Nothing is charged for it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

import msgspec
from sqlalchemy import Connection, RowMapping, select

from mechanism.errors import InputError
from mechanism.types import Micros
from serving.campaigns.types import Pricing
from serving.database.engine import Database
from serving.database.schema import charges, conversions
from serving.ledger.counters import add_to_lines, line_of
from streaming.events import Conversion

WINDOW = timedelta(days=7)
CLOCK_SKEW = timedelta(minutes=5)
"""How far the clock of an advertiser's server may be off."""
MOST_CONVERSIONS = 1_000


class ReportedConversion(msgspec.Struct, frozen=True, kw_only=True):
    """One conversion; `id` is the advertiser's own, such as a hash of the order, the click id where it is empty.

    `value_micros` is in `currency`, which has to be the campaign's; both are left out where there is no value.
    """

    click_id: str
    type: str
    occurred_at: datetime
    id: str = ""
    value_micros: Micros = 0
    currency: str = ""


@dataclass(frozen=True, slots=True)
class BookedConversions:
    """What became of a batch: the new conversions, how many were on record, and the fault of each bad one by index.

    `again` are those on record that were reported alike before. Their first report may have had no answer, and their
    events been lost with its router.
    """

    new: tuple[Conversion, ...]
    again: tuple[Conversion, ...]
    repeated: int
    faults: dict[int, InputError]


def book_conversions(
    database: Database, advertiser_id: str, reported: Sequence[ReportedConversion], now: datetime
) -> BookedConversions:
    """Store the conversions of an advertiser's clicks, each once; an empty `advertiser_id` is an administrator.

    A bad conversion keeps no other from being stored. The newest may find its click not booked yet: that fault passes.

    Raises:
        InputError: if they are more than 1,000.
    """
    if len(reported) > MOST_CONVERSIONS:
        raise InputError("conversions", len(reported), f"send {MOST_CONVERSIONS} at most in one batch")
    tried: set[str] = set()
    return database.transact(lambda c: _book(database, c, advertiser_id, reported, now, tried), idempotent=True)


def _book(
    database: Database,
    connection: Connection,
    advertiser_id: str,
    reported: Sequence[ReportedConversion],
    now: datetime,
    tried: set[str],
) -> BookedConversions:
    """Book the batch; `tried` collects what an attempt stored, for the next one if its commit is in doubt."""
    clicks = _clicks(connection, advertiser_id, {one.click_id for one in reported})
    faults: dict[int, InputError] = {}
    wanted: dict[str, tuple[ReportedConversion, RowMapping]] = {}
    good = 0
    for index, one in enumerate(reported):
        click = clicks.get(one.click_id)
        if (fault := _fault(one, click, now)) is not None:
            faults[index] = fault
        elif click is not None:
            good += 1
            wanted.setdefault(_digest(click["advertiser_id"], one), (one, click))
    new: list[Conversion] = []
    again: list[Conversion] = []
    lines = defaultdict[tuple[str, ...], Counter[str]](Counter)
    for digest, (one, click) in sorted(wanted.items()):
        row = {
            "id": digest,
            "click_id": one.click_id,
            "advertiser_id": click["advertiser_id"],
            "campaign_id": click["campaign_id"],
            "type": one.type,
            "value_micros": one.value_micros,
            "occurred_at": one.occurred_at,
            "recorded_at": now,
        }
        stored = database.insert(conversions).values(row).on_conflict_do_nothing().returning(conversions.c.id)
        if connection.execute(stored).first() is not None:
            tried.add(digest)
            line = lines[line_of(click)]
            line["conversions"] += 1
            line["conversion_value_micros"] += one.value_micros
        elif digest not in tried:
            known = connection.execute(select(conversions).where(conversions.c.id == digest)).mappings().one()
            if (known["click_id"], known["value_micros"]) == (one.click_id, one.value_micros):
                again.append(_event(digest, msgspec.structs.replace(one, occurred_at=known["occurred_at"]), click))
            continue
        new.append(_event(digest, one, click))
    add_to_lines(connection, lines)
    return BookedConversions(tuple(new), tuple(again), good - len(new), faults)


def _clicks(connection: Connection, advertiser_id: str, ids: set[str]) -> dict[str, RowMapping]:
    """Return the valid clicks on record, by id."""
    query = select(charges).where(charges.c.id.in_(ids), charges.c.kind == Pricing.CLICK.value, charges.c.invalid == "")
    if advertiser_id:
        query = query.where(charges.c.advertiser_id == advertiser_id)
    return {row["id"]: row for row in connection.execute(query).mappings()}


def _fault(one: ReportedConversion, click: RowMapping | None, now: datetime) -> InputError | None:
    if click is None:
        remedy = "no valid click of yours has this id; one that was just followed may be on record in a minute"
        return InputError("click_id", one.click_id, remedy)
    if one.occurred_at > now + CLOCK_SKEW:
        return InputError(
            "occurred_at", one.occurred_at.isoformat(), "it lies in the future: check the clock and the time zone"
        )
    if not -CLOCK_SKEW <= one.occurred_at - click["occurred_at"] <= WINDOW:
        remedy = f"give a time within {WINDOW.days} days after the click at {click['occurred_at'].isoformat()}"
        return InputError("occurred_at", one.occurred_at.isoformat(), remedy)
    if (one.currency or one.value_micros) and one.currency != click["currency"]:
        return InputError("currency", one.currency, f"report values in the campaign's currency, {click['currency']}")
    return None


def _digest(advertiser_id: str, one: ReportedConversion) -> str:
    """Return the key of a conversion, which shows no order number."""
    return sha256("\0".join((advertiser_id, one.type, one.id or one.click_id)).encode()).hexdigest()[:32]


def _event(digest: str, one: ReportedConversion, click: RowMapping) -> Conversion:
    return Conversion(
        occurred_at=one.occurred_at,
        conversion_id=digest,
        click_id=one.click_id,
        auction_id=click["auction_id"],
        ad_id=click["creative_id"],
        campaign_id=click["campaign_id"],
        type=one.type,
        placement=click["placement"],
        model_version=click["model_version"],
        clicked_at=click["occurred_at"],
        value_micros=one.value_micros,
        currency=click["currency"],
    )

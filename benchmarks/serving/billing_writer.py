"""One writer of the billing drill: charges the events of its file, from the first, as the router or its worker would.

It may be killed at any moment and knows nothing of its former life; the ledger alone keeps events from counting twice.
"""

from __future__ import annotations

import random
from pathlib import Path

import msgspec

from serving.database.engine import Database
from serving.ledger.charging import Ledger
from serving.ledger.entries import ChargeEvent, Offset

CONSUMER = "drill"
LARGEST_BATCH = 200
# Longer than any outage of the drill: a writer waits for the database to come back.
RETRY_S = 120.0


def write(url: str, path: Path, partition: int) -> None:
    """Charges all events of the file in batches of random size, each with the offset after it."""
    chance = random.Random()
    database = Database(url, pool_size=1, retry_s=RETRY_S)
    ledger, decoder = Ledger(database), msgspec.json.Decoder(ChargeEvent)
    events = [decoder.decode(line) for line in path.read_bytes().splitlines()]
    done = 0
    while done < len(events):
        batch = events[done : done + chance.randint(1, LARGEST_BATCH)]
        done += len(batch)
        ledger.book(batch, offsets=[Offset(consumer=CONSUMER, partition=partition, next_offset=done)])
    database.close()

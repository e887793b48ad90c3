"""`python -m benchmarks.streaming.traffic`: the producer of the streaming drill and benchmark.

Writes synthetic interactions and their clicks in real time through the router's `EventProducer`, and the expected
results to a reference file. Kafka's address is in the environment.
"""

from __future__ import annotations

import argparse
import heapq
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import msgspec

from benchmarks.streaming.event_samples import click, interaction
from streaming.addresses import open_log
from streaming.events import AnyEvent, Click, Interaction
from streaming.producer import EventProducer

CLICK_RATE = 0.3
AGAIN_RATE = 0.1
"""Share of clicked links that are followed again, which costs nothing and changes no judgement."""
INVALID_RATE = 0.05
"""Share of answers with an invalid click."""
TWICE_RATE = 0.02
"""Share of events that are sent twice, as after a lost acknowledgement."""
WITHIN_S = 5.0
MOST_WAITING = 20_000


class Expected(msgspec.Struct, frozen=True):
    """The expected results of one interaction.

    clicked  for each clicked ad, the seconds until its first click
    events   number of the interaction's events, without repetitions
    """

    id: str
    clicked: dict[str, float]
    events: int


def produce(address: str, spool: Path, reference: Path, count: int, rate: float, seed: int) -> None:
    """Write `count` interactions, `rate` a second (0: unlimited), and return when all are in the log."""
    producer = EventProducer(spool, open_log(address))
    chance, due = Random(seed), list[tuple[float, int, Click]]()
    began, number, ticket = time.time(), 0, 0
    with reference.open("wb", buffering=1 << 20) as file:
        while number < count or due:
            now = time.time()
            while due and due[0][0] <= now:
                _put(producer, heapq.heappop(due)[2], chance)
            ready = now - began >= number / rate if rate else producer.waiting + producer.buffered < MOST_WAITING
            if number >= count or not ready:
                time.sleep(0.002)
                continue
            event = interaction(number, datetime.fromtimestamp(now, UTC), user=f"{number % 5000:032x}")
            _put(producer, event, chance)
            clicked: dict[str, float] = {}
            events = 1
            for following in _clicks(event, chance):
                ticket, events = ticket + 1, events + 1
                heapq.heappush(due, (following.occurred_at.timestamp(), ticket, following))
                if following.verdict == "valid":
                    after_s = (following.occurred_at - event.occurred_at).total_seconds()
                    clicked[following.ad_id] = min(after_s, clicked.get(following.ad_id, after_s))
            file.write(msgspec.json.encode(Expected(event.auction_id, clicked, events)) + b"\n")
            number += 1
    while producer.waiting + producer.buffered:
        time.sleep(0.05)
    producer.close()


def _clicks(event: Interaction, chance: Random) -> Iterator[Click]:
    for shown in event.shown:
        if chance.random() < CLICK_RATE:
            after_s = round(chance.uniform(0.5, WITHIN_S), 3)
            yield click(event, shown.ad_id, after_s)
            if chance.random() < AGAIN_RATE:
                yield click(event, shown.ad_id, after_s + 1.0)
    if chance.random() < INVALID_RATE:
        yield click(event, event.shown[0].ad_id, 0.1, reason="bot")


def _put(producer: EventProducer, event: AnyEvent, chance: Random) -> None:
    producer.put(event)
    if chance.random() < TWICE_RATE:
        producer.put(event)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming.traffic")
    parser.add_argument("--log", required=True)
    parser.add_argument("--spool", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--interactions", type=int, required=True)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    produce(given.log, given.spool, given.reference, given.interactions, given.rate, given.seed)


if __name__ == "__main__":
    main()

"""A process of the tests: puts events durably while Kafka is away, saying which are on disk, until it is killed."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from streaming.events import Click, click_id_of
from streaming.kafka.log import KafkaLog
from streaming.kafka.settings import KafkaSettings
from streaming.producer import EventProducer

AUCTION = "019ab3c4-5d6e-7f80-9123-456789abcdef"


def click(number: int, auction_id: str = AUCTION) -> Click:
    """A click on ad `number`."""
    return Click(
        occurred_at=datetime.now(UTC),
        click_id=click_id_of(auction_id, f"A{number}"),
        auction_id=auction_id,
        ad_id=f"A{number}",
        campaign_id="c",
        verdict="valid",
        price_micros=number,
        currency="EUR",
    )


if __name__ == "__main__":
    producer = EventProducer(Path(sys.argv[1]), KafkaLog(KafkaSettings("127.0.0.1:1", delivery_s=1)))
    for number in range(100_000):
        producer.put_durably(click(number)).result(20)
        print(number, flush=True)

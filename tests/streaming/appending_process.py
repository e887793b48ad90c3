"""A process of the tests: appends numbers to an embedded log until it is killed, and prints those acknowledged."""

from __future__ import annotations

import sys
from pathlib import Path

from streaming.embedded import EmbeddedLog

if __name__ == "__main__":
    folder, topic, name = sys.argv[1:]
    producer = EmbeddedLog(Path(folder)).producer()
    for number in range(100_000):
        value = f"{name}-{number}"
        producer.append(topic, name.encode(), value.encode() + b"." * 50)
        if number % 3 == 0:
            producer.flush(10)
            print(number, flush=True)

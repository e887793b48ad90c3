"""A process of the tests: a member of a group that says which records it has and commits them, until it is killed."""

from __future__ import annotations

import sys
from pathlib import Path

from streaming.embedded import EmbeddedLog

if __name__ == "__main__":
    folder, topic, group = sys.argv[1:]
    with EmbeddedLog(Path(folder)).consumer(group, [topic]) as consumer:
        while True:
            for record in consumer.poll(1, 7):
                print(record.partition, record.offset, (record.value or b"").decode(), flush=True)
            consumer.commit()

"""The tables of an embedded log: topics, ends, committed offsets, and one table for each partition's records."""

from __future__ import annotations

import sqlite3
from datetime import timedelta

import msgspec

from mechanism.errors import InputError
from streaming.log import Headers, Partition
from streaming.topics import Topic

SCHEMA = """
CREATE TABLE IF NOT EXISTS log (identity TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS topics (
    name TEXT PRIMARY KEY, partitions INTEGER NOT NULL, retention_ms INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ends (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, next_offset INTEGER NOT NULL, PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS offsets (
    consumer_group TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL, next_offset INTEGER NOT NULL,
    PRIMARY KEY (consumer_group, topic, partition)
) WITHOUT ROWID;
"""
_MILLISECOND = timedelta(milliseconds=1)
_decode_headers = msgspec.msgpack.Decoder(Headers).decode


def table(partition: Partition) -> str:
    """Return the quoted name of a partition's table. No topic's name contains a quote."""
    return f'"{partition.topic}/{partition.number}"'


def upgrade(connection: sqlite3.Connection) -> None:
    """Create what is missing, and drop the former column of compacted topics, which demanded a value."""
    connection.executescript(SCHEMA)
    if any(name == "compacted" for _, name, *_ in connection.execute("PRAGMA table_info(topics)")):
        connection.execute("ALTER TABLE topics DROP COLUMN compacted")


def create(connection: sqlite3.Connection, topic: Topic) -> None:
    """Create a topic, or the missing partitions of an existing one."""
    retention_ms = None if topic.retention is None else topic.retention // _MILLISECOND
    new = "INSERT INTO topics (name, partitions, retention_ms) VALUES (?, 0, ?) ON CONFLICT (name) DO NOTHING"
    connection.execute(new, (topic.name, retention_ms))
    for number in range(partition_count(connection, topic.name), topic.partitions):
        columns = "offset INTEGER PRIMARY KEY, timestamp INTEGER NOT NULL, key BLOB NOT NULL, value BLOB, headers BLOB"
        connection.execute(f"CREATE TABLE {table(Partition(topic.name, number))} ({columns})")
        connection.execute("INSERT INTO ends VALUES (?, ?, 0)", (topic.name, number))
    grown = "UPDATE topics SET partitions = max(partitions, ?) WHERE name = ?"
    connection.execute(grown, (topic.partitions, topic.name))


def partition_count(connection: sqlite3.Connection, topic: str) -> int:
    """Return the number of a topic's partitions.

    Raises:
        InputError: if the topic was not created.
    """
    row = connection.execute("SELECT partitions FROM topics WHERE name = ?", (topic,)).fetchone()
    if row is None:
        raise InputError("topic", topic, "create it first")
    return int(row[0])


def next_offset(connection: sqlite3.Connection, partition: Partition) -> int:
    """Return the offset that the next record of a partition gets."""
    found = "SELECT next_offset FROM ends WHERE (topic, partition) = (?, ?)"
    return int(connection.execute(found, partition).fetchone()[0])


def encode_headers(headers: Headers) -> bytes | None:
    """Encode headers for their column; None for no headers."""
    return msgspec.msgpack.encode(headers) if headers else None


def decode_headers(column: bytes | None) -> Headers:
    """Decode the column of headers."""
    return () if column is None else _decode_headers(column)

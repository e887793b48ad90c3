"""Sampled answers on disk: one Parquet row an answer, with its context, log-probability and, if shown, its clicks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from mechanism.errors import InputError
from mechanism.types import AdId, Context, Generation

SCHEMA = pa.schema(
    [
        pa.field("context_id", pa.string(), nullable=False),
        pa.field("context", pa.string(), nullable=False),
        pa.field("generation", pa.string(), nullable=False),
        pa.field("clicks", pa.string()),
    ],
    metadata={"format": "llm-auction answers, version 1"},
)


@dataclass(frozen=True, slots=True)
class Sampled:
    """One context with its answers; `clicks` holds one mapping per answer where the answers were shown to users."""

    context: Context
    generations: tuple[Generation, ...]
    clicks: tuple[Mapping[AdId, bool], ...] | None = None


def write_sampled(path: Path, sampled: Iterable[Sampled]) -> int:
    """Write a Parquet file and return the number of answers."""
    encode = msgspec.json.Encoder().encode
    rows: list[dict[str, str | None]] = []
    for item in sampled:
        context = encode(item.context).decode()
        for number, generation in enumerate(item.generations):
            rows.append(
                {
                    "context_id": item.context.id,
                    "context": context,
                    "generation": encode(generation).decode(),
                    "clicks": None if item.clicks is None else encode(item.clicks[number]).decode(),
                }
            )
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, compression="zstd")
    return len(rows)


def read_sampled(path: Path) -> list[Sampled]:
    """Read what `write_sampled` wrote; consecutive rows of one context belong together.

    Raises:
        InputError: if the file has another schema.
    """
    table = pq.read_table(path)
    if not table.schema.equals(SCHEMA):
        raise InputError(str(path), table.schema.names, "this is not a file of sampled answers of this version")
    context_of = msgspec.json.Decoder(Context).decode
    generation_of = msgspec.json.Decoder(Generation).decode
    clicks_of = msgspec.json.Decoder(dict[str, bool]).decode
    groups: list[tuple[str, list[Generation], list[Mapping[AdId, bool]]]] = []
    for row in table.to_pylist():
        if not groups or groups[-1][0] != row["context"]:
            groups.append((row["context"], [], []))
        groups[-1][1].append(generation_of(row["generation"]))
        if row["clicks"] is not None:
            groups[-1][2].append(clicks_of(row["clicks"]))
    return [
        Sampled(context_of(context), tuple(answers), tuple(clicks) if clicks else None)
        for context, answers, clicks in groups
    ]

"""Sampled answers read back from Parquet as they were written."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanism.errors import InputError
from mechanism.markers import parse
from mechanism.types import Ad, Candidate, Context, Generation, MarkerChoice, Profile
from trainers.artifacts.sampled import Sampled, read_sampled, write_sampled

ADS = (Ad("a1", "Lumo Tea", "Green tea.", "lumo", "tea", "https://lumo.example/"), Ad("a2", "Bré Café", "", "bré"))
TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
PROFILES = st.builds(Profile, id=TEXT, age=TEXT, interests=st.lists(TEXT, max_size=3).map(tuple))
CHOICES = st.builds(
    MarkerChoice,
    chosen=st.sampled_from(["a1", "a2"]),
    exact=st.booleans(),
    probabilities=st.floats(0, 1).map(lambda p: {"a1": p, "a2": 1 - p}),
)
GENERATIONS = st.builds(
    Generation,
    answer=st.sampled_from(["Try @Lumo Tea@[a1].", "Bad @Lumo@[a9], @", "", "@Bré Café@[a2] ☕ @Lumo Tea@[a1]"]).map(
        lambda raw: parse(raw, ADS)
    ),
    token_ids=st.lists(st.integers(0, 150_000), max_size=5).map(tuple),
    logprob=st.floats(-1e4, 0),
    choices=st.lists(CHOICES, max_size=2).map(tuple),
    finished=st.booleans(),
)


@st.composite
def sampled_lists(draw: st.DrawFn) -> list[Sampled]:
    items = []
    for number in range(draw(st.integers(0, 3))):
        bids = draw(st.lists(st.integers(0, 10**12), min_size=2, max_size=2))
        context = Context(
            f"c{number}",
            draw(TEXT),
            tuple(Candidate(ad, b) for ad, b in zip(ADS, bids, strict=True)),
            draw(st.none() | PROFILES),
            (("user", draw(TEXT)),),
            "tea",
        )
        own = tuple(draw(st.lists(GENERATIONS, min_size=1, max_size=3)))
        clicks = tuple({i: draw(st.booleans()) for i in g.answer.shown()} for g in own)
        items.append(Sampled(context, own, draw(st.sampled_from([None, clicks]))))
    return items


@given(sampled=sampled_lists())
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, sampled: list[Sampled]) -> None:
    path = tmp_path_factory.mktemp("records") / "answers.parquet"
    assert write_sampled(path, sampled) == sum(len(item.generations) for item in sampled)
    assert read_sampled(path) == sampled


def test_another_files_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"context_id": ["c"]}), path)
    with pytest.raises(InputError, match=r"other\.parquet: \['context_id'\]: this is not a file of sampled answers"):
        read_sampled(path)

"""The frozen text encoder: unit vectors, in order, always the same for a text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inference.encoder import WIDTH, TextEncoder, shared_encoder
from inference.vector_store import STORE, VectorStore
from mechanism.errors import ConfigError

TEXTS = [
    "Which running shoes are good for muddy trails?",
    "grippy trail running shoes for wet and muddy ground",
    "fixed rate mortgages for first time buyers",
    "",
    "Tokyo 東京 🏃",
]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder()


def test_rows_are_unit_vectors_in_the_order_of_the_texts(encoder: TextEncoder) -> None:
    rows = encoder.encode(TEXTS)
    assert rows.shape == (len(TEXTS), WIDTH)
    assert rows.dtype == np.float32
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-4)
    backwards = encoder.encode(TEXTS[::-1])
    assert np.array_equal(rows, backwards[::-1])


def test_texts_of_similar_meaning_have_similar_vectors(encoder: TextEncoder) -> None:
    query, shoes, mortgage = encoder.encode(TEXTS[:3])
    assert query @ shoes > 0.5
    assert query @ mortgage < 0.3


def test_a_vector_does_not_depend_on_the_other_texts_of_its_batch(encoder: TextEncoder) -> None:
    alone = TextEncoder()
    for text, row in zip(TEXTS, encoder.encode(TEXTS), strict=True):
        assert np.array_equal(alone.encode([text])[0], row)


def test_no_texts_give_no_vectors(encoder: TextEncoder) -> None:
    assert encoder.encode([]).shape == (0, WIDTH)


def test_a_text_given_twice_gets_the_same_vector_twice(encoder: TextEncoder) -> None:
    first, second = encoder.encode([TEXTS[0], TEXTS[0]])
    assert np.array_equal(first, second)


def test_callers_cannot_change_the_cache(encoder: TextEncoder) -> None:
    rows = encoder.encode(TEXTS[:2])
    kept = rows.copy()
    rows[:] = 0
    assert np.array_equal(encoder.encode(TEXTS[:2]), kept)


def test_a_full_cache_is_cleared(encoder: TextEncoder) -> None:
    small = TextEncoder(cache_size=3)
    for text in TEXTS:
        assert small.encode([text])[0] @ encoder.encode([text])[0] > 0.999
    assert len(small._cache) <= 3


def test_very_long_texts_are_cut_off(encoder: TextEncoder) -> None:
    long, longer = encoder.encode(["muddy trails " * 200, "muddy trails " * 300])
    assert long @ longer > 0.999


def test_stored_vectors_are_those_that_were_computed(encoder: TextEncoder, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "vectors.sqlite"
    rows = TextEncoder(store=VectorStore(path)).encode(TEXTS)
    assert np.array_equal(rows, encoder.encode(TEXTS))
    store = VectorStore(path)
    known = store.known([*TEXTS, "unknown"])
    assert set(known) == set(TEXTS)
    assert all(np.array_equal(known[text], row) for text, row in zip(TEXTS, rows, strict=True))
    # What is stored is not computed again.
    store.add({"unknown": np.ones(WIDTH, np.float32), TEXTS[0]: np.zeros(WIDTH, np.float32)})
    again = TextEncoder(store=VectorStore(path)).encode(["unknown", TEXTS[0]])
    assert np.array_equal(again, np.stack([np.ones(WIDTH, np.float32), rows[0]]))
    assert TEXTS[0].encode() not in path.read_bytes()


def test_the_shared_encoder_uses_the_store_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORE, str(tmp_path / "vectors.sqlite"))
    shared_encoder.cache_clear()
    try:
        shared_encoder().encode([TEXTS[0]])
    finally:
        shared_encoder.cache_clear()
    assert set(VectorStore(tmp_path / "vectors.sqlite").known(TEXTS)) == {TEXTS[0]}


def test_more_texts_than_one_query_takes(tmp_path: Path) -> None:
    store = VectorStore(tmp_path / "vectors.sqlite")
    vectors = {f"text {k}": np.full(WIDTH, k, np.float32) for k in range(1203)}
    store.add(vectors)
    assert {text: float(v[0]) for text, v in store.known(list(vectors)).items()} == {
        text: float(v[0]) for text, v in vectors.items()
    }


def test_a_file_of_another_kind_is_refused_by_the_name_of_its_variable(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database " * 100)
    with pytest.raises(ConfigError, match=rf"{STORE}: '.*notes\.txt': file is not a database: name a file that can"):
        VectorStore(path)
    with pytest.raises(ConfigError, match=STORE):
        VectorStore(path / "below-a-file" / "vectors.sqlite")

"""Frames of a chat completion stream, however their bytes are split."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanism.errors import PolicyError
from serving.policies.openai.frames import MAX_LINE_BYTES, FrameReader


def wire(texts: list[str], newline: str) -> bytes:
    frames = [{"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}]
    frames += [{"choices": [{"index": 0, "delta": {"content": t}, "finish_reason": None}]} for t in texts]
    frames += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
    frames += [{"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": len(texts)}}]  # type: ignore[dict-item]
    lines = [f"data: {json.dumps(f, ensure_ascii=i % 2 == 0)}{newline}{newline}" for i, f in enumerate(frames)]
    return (": ping" + newline * 2 + "event: message" + newline + "".join(lines) + f"data: [DONE]{newline}").encode()


@given(
    st.lists(st.text(st.characters(codec="utf-8"), min_size=1), max_size=6),
    st.sampled_from(["\n", "\r\n"]),
    st.lists(st.integers(1, 40), max_size=60),
)
def test_any_split_of_the_bytes_gives_the_same_deltas(texts: list[str], newline: str, cuts: list[int]) -> None:
    data, found, reader = wire(texts, newline), [], FrameReader()
    for cut in [*cuts, len(data)]:
        found += reader.feed(data[:cut])
        data = data[cut:]
    assert found == texts
    assert (reader.deltas, reader.tokens, reader.prompt_tokens) == (len(texts), len(texts), 9)
    assert (reader.finish_reason, reader.done) == ("stop", True)


def test_bytes_after_done_are_ignored() -> None:
    reader = FrameReader()
    assert reader.feed(b"data: [DONE]\n\ndata: rubbish\n\n") == []
    assert reader.done


def test_an_endless_line_is_refused() -> None:
    reader = FrameReader()
    with pytest.raises(PolicyError, match="bytes"):
        reader.feed(b"x" * (MAX_LINE_BYTES + 1))

"""The paths of the candidate trie are exactly the candidates' bodies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanism.markers import marker_body
from mechanism.trie import CandidateTrie, Node
from mechanism.types import Ad


def complete(node: Node, path: tuple[int, ...] = ()) -> dict[str, tuple[int, ...]]:
    """Return all bodies that a decoder can write from `node` on."""
    found = {} if node.ad is None else {node.ad: path}
    for token, child in node.children.items():
        found |= complete(child, (*path, token))
    return found


titles = st.lists(st.text(alphabet="ab ", min_size=1, max_size=6).map(lambda t: f"T{t}T"), max_size=12)


@given(titles)
def test_a_decoder_on_the_trie_writes_every_body_and_no_other(names: list[str]) -> None:
    bodies = {f"i{n}": tuple(map(ord, marker_body(Ad(f"i{n}", t, "", "")))) for n, t in enumerate(names)}
    trie = CandidateTrie(bodies)
    assert complete(trie.root) == bodies
    assert trie.longest == max(map(len, bodies.values()), default=0)


@given(titles)
def test_each_node_lists_the_candidates_below_it(names: list[str]) -> None:
    bodies = {f"i{n}": tuple(map(ord, marker_body(Ad(f"i{n}", t, "", "")))) for n, t in enumerate(names)}
    trie = CandidateTrie(bodies)
    assert set(trie.root.ads) == set(bodies)
    for ad_id, body in bodies.items():
        node = trie.root
        for depth, token in enumerate(body, 1):
            node = node.children[token]
            assert node.ads == tuple(i for i, b in bodies.items() if b[:depth] == body[:depth])
        assert node.ad == ad_id
        assert not node.children


@pytest.mark.parametrize(
    ("bodies", "message"),
    [
        ({"a": [1, 2], "b": [1, 2]}, "'b' begins or equals that of 'a'"),
        ({"a": [1, 2], "b": [1, 2, 3]}, "'a' begins the marker of ad 'b'"),
        ({"a": [1, 2, 3], "b": [1, 2]}, "'b' begins or equals that of 'a'"),
        ({"a": []}, "'a' has an empty marker body"),
    ],
)
def test_ambiguous_bodies_are_refused(bodies: dict[str, list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CandidateTrie(bodies)


def test_an_auction_without_candidates_has_an_empty_trie() -> None:
    trie = CandidateTrie({})
    assert trie.root == Node()
    assert trie.longest == 0

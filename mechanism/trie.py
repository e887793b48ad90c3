"""The candidate trie: which tokens may follow once the policy has opened a marker.

A path from the root spells the token ids of one candidate's marker body (`Ad Title@[Ad-ID]`), so a decoder that stays
on the trie can only write an ad of this request. Tokenisation is the caller's; this module sees integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mechanism.types import AdId


@dataclass(slots=True)
class Node:
    """One prefix. `children` maps the next token to its node, `ads` are the candidates below, `ad` is the candidate
    whose body ends here (None inside a body)."""

    children: dict[int, Node] = field(default_factory=dict)
    ads: tuple[AdId, ...] = ()
    ad: AdId | None = None


class CandidateTrie:
    """Trie over the marker bodies of one request's candidates.

    Raises ValueError when two candidates share a body or one body is the beginning of another: the decoder could
    then not tell when a marker is complete. Bodies end in the bracketed id, so distinct ids never collide.
    """

    def __init__(self, bodies: Mapping[AdId, Sequence[int]]) -> None:
        self.root = Node(ads=tuple(bodies))
        self.longest = max((len(b) for b in bodies.values()), default=0)
        for ad_id, body in bodies.items():
            self._insert(ad_id, body)

    def _insert(self, ad_id: AdId, body: Sequence[int]) -> None:
        if not body:
            raise ValueError(f"ad {ad_id!r} has an empty marker body")
        node = self.root
        for token in body:
            if node.ad is not None:
                raise ValueError(f"the marker of ad {node.ad!r} begins the marker of ad {ad_id!r}")
            node = node.children.setdefault(token, Node())
            node.ads = (*node.ads, ad_id)
        if node.children or node.ad is not None:
            raise ValueError(f"the marker of ad {ad_id!r} begins or equals that of {node.ads[0]!r}")
        node.ad = ad_id

    def walk(self, body: Sequence[int]) -> Iterator[Node]:
        """Nodes along `body`, the root first and the last token's node last; stops where the trie is left."""
        node = self.root
        yield node
        for token in body:
            if token not in node.children:
                return
            node = node.children[token]
            yield node

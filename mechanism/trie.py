"""The candidate trie: the tokens that may follow once the policy has opened a marker.

A path from the root to a leaf is the token ids of one candidate's marker body (`Ad Title@[Ad-ID]`), so a decoder that
stays on the trie can only write an ad of this request. Tokenisation is left to the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mechanism.types import AdId


@dataclass(slots=True)
class Node:
    """One prefix of the candidates' bodies.

    `children` maps the next token to its node, `ads` are the candidates whose bodies begin with this prefix, and `ad`
    is the candidate whose body ends here (None inside a body).
    """

    children: dict[int, Node] = field(default_factory=dict)
    ads: tuple[AdId, ...] = ()
    ad: AdId | None = None


class CandidateTrie:
    """Trie over the marker bodies of one request's candidates; `lengths` are the tokens of each body.

    Two candidates with the same body, or a body that begins another one, are a ValueError: the decoder could not detect
    the end of a marker. Bodies end in the bracketed id, so distinct ids never collide.
    """

    def __init__(self, bodies: Mapping[AdId, Sequence[int]]) -> None:
        self.root = Node(ads=tuple(bodies))
        self.lengths = {ad_id: len(body) for ad_id, body in bodies.items()}
        self.longest = max(self.lengths.values(), default=0)
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

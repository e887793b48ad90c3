"""Constrained decoding: one answer's state machine over tokens, so that no marker but a candidate's can be written.

Outside a marker every token is free except those that would open one wrongly; a token that ends in a single "@" opens
a marker, and from there only the candidate trie's tokens are allowed until the marker is complete. The machine also
keeps the probability of every candidate at every marker (the propensities of off-policy evaluation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mechanism.markers import marker_body
from mechanism.trie import CandidateTrie, Node
from mechanism.types import Ad, AdId, MarkerChoice

MARK = "@"


class MarkerVocabulary:
    """What a tokenizer's tokens mean for markers: which open one, which are forbidden outside."""

    def __init__(self, tokenizer: Any, size: int, end_tokens: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.size = size
        self.end_tokens = frozenset(end_tokens)
        special = set(tokenizer.all_special_ids) | {size_id for size_id in range(len(tokenizer), size)}
        texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
        self.openers = frozenset(i for i, text in enumerate(texts) if text.endswith(MARK) and text.count(MARK) == 1)
        foreign = {i for i, text in enumerate(texts) if MARK in text and i not in self.openers}
        self.forbidden = np.array(sorted((foreign | special) - self.end_tokens), dtype=np.int64)
        self._bodies: dict[tuple[str, str], tuple[int, ...]] = {}

    @cached_property
    def closed(self) -> NDArray[np.int64]:
        """Tokens forbidden where no marker may be opened (any more)."""
        return np.concatenate([self.forbidden, np.array(sorted(self.openers), dtype=np.int64)])

    def body(self, ad: Ad) -> tuple[int, ...]:
        """Token ids of `Ad Title@[Ad-ID]`, as they follow the opening mark."""
        key = (ad.title, ad.id)
        if key not in self._bodies:
            self._bodies[key] = tuple(self.tokenizer.encode(marker_body(ad), add_special_tokens=False))
        return self._bodies[key]

    def trie(self, ads: Sequence[Ad]) -> CandidateTrie:
        """The candidate trie of one request."""
        return CandidateTrie({ad.id: self.body(ad) for ad in ads})


@dataclass(slots=True)
class _Open:
    """An opened marker: where on the trie it stands and the probability mass that each candidate got so far."""

    node: Node
    mass: float
    given: dict[AdId, float]
    exact: bool


class MarkerConstraint:
    """The state of one answer while it is written. No ad is offered twice; at most `max_ads` are offered at all."""

    def __init__(self, vocabulary: MarkerVocabulary, trie: CandidateTrie, max_ads: int | None) -> None:
        self.vocabulary = vocabulary
        self.trie = trie
        self.max_ads = len(trie.root.ads) if max_ads is None else min(max_ads, len(trie.root.ads))
        self.shown: set[AdId] = set()
        self.choices: list[MarkerChoice] = []
        self._open: _Open | None = None

    @property
    def inside(self) -> bool:
        """Whether a marker is open."""
        return self._open is not None

    def may_open(self, tokens_left: int) -> bool:
        """Whether a marker may begin with the next token: an ad is left, and the budget suffices to complete it."""
        return len(self.shown) < self.max_ads and tokens_left > self.trie.longest + 1

    def allowed(self) -> list[int]:
        """Inside a marker: the tokens that may follow, ads already shown left out."""
        assert self._open is not None
        children = self._open.node.children
        return [token for token, child in children.items() if not self.shown.issuperset(child.ads)]

    def advance(self, token: int, probabilities: Mapping[int, float] | None = None) -> None:
        """Takes the chosen token; inside a marker with the probabilities of all allowed tokens."""
        if self._open is None:
            if token in self.vocabulary.openers:
                self._open = _Open(self.trie.root, 1.0, {}, True)
            return
        state, probabilities = self._open, probabilities or {token: 1.0}
        for other, p in probabilities.items():
            if other != token:
                group = [ad for ad in state.node.children[other].ads if ad not in self.shown]
                state.exact &= len(group) == 1 or p == 0.0
                state.given |= {ad: state.mass * p / len(group) for ad in group}
        state.mass *= probabilities[token]
        state.node = state.node.children[token]
        if state.node.ad is not None:
            chosen = state.node.ad
            self.choices.append(MarkerChoice(chosen, state.given | {chosen: state.mass}, state.exact))
            self.shown.add(chosen)
            self._open = None

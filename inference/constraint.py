"""Constrained decoding: one answer's state machine over tokens, so that no marker but a candidate's can be written.

Outside a marker every token is free except those that would open one wrongly or write a candidate's bracketed id; a
token that ends in a single "@" opens a marker, and from there only the candidate trie's tokens are allowed until the
marker is complete. The machine also keeps the probability of every candidate at every marker (the propensities of
off-policy evaluation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from mechanism.errors import InputError
from mechanism.markers import marker_body
from mechanism.trie import CandidateTrie, Node
from mechanism.types import Ad, AdId, MarkerChoice

MARK = "@"
BRACKET = "["
BROKEN = "\ufffd"


class MarkerVocabulary:
    """What a tokenizer's tokens mean for markers: which open one, which are forbidden outside."""

    def __init__(self, tokenizer: Any, size: int, end_tokens: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.size = size
        self.end_tokens = frozenset(end_tokens)
        # the named special tokens leave out those that only the chat template uses, such as the roles'
        special = set(tokenizer.all_special_ids)
        special |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        known = min(size, 1 + max(tokenizer.get_vocab().values()))
        self._special = frozenset(i for i in special if i < size) | frozenset(range(known, size))
        # after another token, since some tokenizers take blanks away at the beginning of a text
        self._anchor: int = tokenizer.encode("a", add_special_tokens=False)[-1]
        self._begun = len(self.decode([self._anchor]))
        pairs = [[self._anchor, i] for i in range(known)]
        self._texts = [t[self._begun :] for t in tokenizer.batch_decode(pairs, clean_up_tokenization_spaces=False)]
        marked = {i for i, text in enumerate(self._texts) if MARK in text} - self._special
        self.openers = frozenset(
            i
            for i in marked
            if self._texts[i].endswith(MARK) and self._texts[i].count(MARK) == 1 and BRACKET not in self._texts[i]
        )
        self.forbidden = tuple(sorted(((marked - self.openers) | self._special) - self.end_tokens))
        self.bracket_ends = frozenset(i for i, text in enumerate(self._texts) if text.endswith(BRACKET))
        self._inner = [(i, part) for i, text in enumerate(self._texts) for part in text.split(BRACKET)[1:] if part]
        self._bodies: dict[tuple[str, str], tuple[int, ...]] = {}
        self._fused: dict[AdId, tuple[int, ...]] = {}
        self._columns: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    def columns(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids on a device: those forbidden everywhere outside markers, and those that open one."""
        if device not in self._columns:
            openers = torch.tensor(sorted(self.openers), dtype=torch.int64, device=device)
            self._columns[device] = (torch.tensor(self.forbidden, dtype=torch.int64, device=device), openers)
        return self._columns[device]

    def decode(self, tokens: Sequence[int]) -> str:
        """The raw text of an answer's tokens, nothing tidied: a title must come out as it is."""
        text: str = self.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)
        return text

    def body(self, ad: Ad) -> tuple[int, ...]:
        """Token ids of `Ad Title@[Ad-ID]`, as they follow the opening mark.

        Raises InputError for a title or id that the tokenizer cannot write verbatim.
        """
        key = (ad.title, ad.id)
        if key not in self._bodies:
            self._bodies[key] = self._encode_body(ad)
        return self._bodies[key]

    def _encode_body(self, ad: Ad) -> tuple[int, ...]:
        text = marker_body(ad)
        plain = tuple(self.tokenizer.encode(text, add_special_tokens=False))
        if not self.openers:
            return plain
        mark = min(self.openers, key=lambda i: (len(self._texts[i]), i))
        # some tokenizers begin every text with a blank, in a token of its own or together with the mark: there the body
        # is what follows in the whole marker
        whole = tuple(self.tokenizer.encode(MARK + text, add_special_tokens=False))
        for ids in (plain, whole[1:], whole[2:]):
            written = self.decode([self._anchor, mark, *ids])[self._begun :]
            if written == self._texts[mark] + text and self._special.isdisjoint(ids):
                return ids
        raise InputError("marker of an ad", text, "this model's tokenizer cannot write it verbatim: change the title")

    def trie(self, ads: Sequence[Ad]) -> CandidateTrie:
        """The candidate trie of one request."""
        return CandidateTrie({ad.id: self.body(ad) for ad in ads})

    def fused(self, ads: Sequence[AdId]) -> frozenset[int]:
        """Tokens that hold "[" and the beginning of a candidate's id at once."""
        for ad_id in ads:
            if ad_id not in self._fused:
                self._fused[ad_id] = tuple(i for i, part in self._inner if _touches(part, ad_id))
        return frozenset(i for ad_id in ads for i in self._fused[ad_id])

    def after_bracket(self, ads: Sequence[AdId]) -> frozenset[int]:
        """Tokens that would, right after a "[", begin a candidate's id; and those that would hide there."""
        by_text, closing = self._by_text
        barred = set(by_text.get("", ())) | self.openers
        for ad_id in ads:
            whole = ad_id + "]"
            barred.update(i for n in range(1, len(whole) + 1) for i in by_text.get(whole[:n], ()))
            barred.update(i for i in closing if self._texts[i].startswith(whole))
        return frozenset(barred) - self.end_tokens

    @cached_property
    def _by_text(self) -> tuple[dict[str, list[int]], list[int]]:
        """Tokens by their complete characters, and the tokens that hold a "]"."""
        by_text: dict[str, list[int]] = {}
        for i, text in enumerate(self._texts):
            by_text.setdefault(text.rstrip(BROKEN), []).append(i)
        return by_text, [i for i, text in enumerate(self._texts) if "]" in text]


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
        self._fused = vocabulary.fused(trie.root.ads)
        self._after_bracket = False

    @property
    def inside(self) -> bool:
        """Whether a marker is open."""
        return self._open is not None

    def may_open(self, tokens_left: int) -> bool:
        """Whether a marker may begin with the next token: an ad is left, and the budget suffices to complete it."""
        return len(self.shown) < self.max_ads and tokens_left > self.trie.longest + 1

    def barred(self) -> frozenset[int]:
        """Outside a marker: tokens that would put a candidate's id into brackets, where it reads as a broken marker.

        Right after a "[" no token may agree with the beginning of an id, so no later token need be looked at.
        """
        if not self._after_bracket:
            return self._fused
        return self._fused | self.vocabulary.after_bracket(self.trie.root.ads)

    def allowed(self) -> list[int]:
        """Inside a marker: the tokens that may follow, ads already shown left out."""
        assert self._open is not None
        children = self._open.node.children
        return [token for token, child in children.items() if not self.shown.issuperset(child.ads)]

    def replay(self, token: int) -> bool:
        """Takes the next token of a finished answer; whether others were allowed beside it. A text that left the trie,
        as only an unconstrained policy writes it, had the choice everywhere."""
        allowed = self.allowed() if self.inside else []
        if self.inside and token not in allowed:
            self._open = None
            return True
        self.advance(token)
        return len(allowed) != 1

    def advance(self, token: int, probabilities: Mapping[int, float] | None = None) -> None:
        """Takes the chosen token; inside a marker with the probabilities of all allowed tokens."""
        if self._open is None:
            self._after_bracket = token in self.vocabulary.bracket_ends
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


def _touches(text: str, ad_id: AdId) -> bool:
    """Whether text after a "[" agrees with `ad_id]` as far as both go; bytes of an unfinished character agree."""
    whole, complete = ad_id + "]", text.rstrip(BROKEN)
    return whole.startswith(complete) or complete.startswith(whole)

"""Constrained decoding: a state machine over one answer's tokens that admits only markers of candidates.

Outside of markers every token is allowed, except those that would open a marker wrongly or write a candidate's
bracketed id. A token that ends in a single opener ("@", or a character of the model's own) opens a marker; from there
on only tokens of the candidate trie are allowed until the marker is complete. The state machine also records the
probability of every candidate at every marker, the propensities of off-policy evaluation. Where every candidate must be
shown, as after an auction that was held before generation, the answer may not end before, and a part of the token
budget is kept for the ads that are missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch

from mechanism.errors import InputError, PolicyError
from mechanism.markers import marker_body
from mechanism.structural_tags import TokenRules
from mechanism.trie import CandidateTrie, Node
from mechanism.types import Ad, AdId, MarkerChoice

MARK = "@"
"""What opens a marker in the text of an answer. A model may write another character for it, its opener."""
MARKER = re.compile(r"@([^@\[\]\n\r]{1,200}@\[[^@\[\]\s]{1,64}\])")
BRACKET = "["
BROKEN = "\ufffd"
"""The replacement character: what the bytes of an incomplete character decode to."""
SENTENCE_MARKS = (".", "!", "?")
SENTENCE_TOKENS = 24
"""Tokens of a sentence around a marker. With fewer to spare, the next sentence opens with a missing ad."""


class Tokenizer(Protocol):
    """What the constraint needs of a transformers tokenizer."""

    @property
    def all_special_ids(self) -> Sequence[int]: ...

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]: ...

    def get_vocab(self) -> Mapping[str, int]: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> Sequence[int]: ...

    def decode(self, token_ids: list[int], *, clean_up_tokenization_spaces: bool) -> str: ...

    def batch_decode(self, sequences: list[list[int]], *, clean_up_tokenization_spaces: bool) -> Sequence[str]: ...


class MarkerVocabulary:
    """The meaning of a tokenizer's tokens for markers.

    `size` is the number of the model's logits, V. `opener` is the character that the model writes where a marker opens:
    "@", or one that ordinary text does not hold, so that an "@" of an e-mail address opens nothing. `openers` are the
    tokens that open a marker, `forbidden` those that are never allowed outside of markers, `bracket_ends` those that
    end in "[", `sentence_ends` those that end a sentence.
    """

    def __init__(self, tokenizer: Tokenizer, size: int, end_tokens: Sequence[int], opener: str = MARK) -> None:
        self.tokenizer = tokenizer
        self.size = size
        self.opener = opener
        self.end_tokens = frozenset(end_tokens)
        # The named special tokens do not include those that only the chat template uses, such as the roles'.
        special = set(tokenizer.all_special_ids)
        special |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        known = min(size, 1 + max(tokenizer.get_vocab().values()))
        self._special = frozenset(i for i in special if i < size) | frozenset(range(known, size))
        # Every token is decoded after another one, because some tokenizers strip blanks at the beginning of a text.
        self._anchor: int = tokenizer.encode("a", add_special_tokens=False)[-1]
        self._anchor_length = len(self._decode([self._anchor]))
        pairs = [[self._anchor, i] for i in range(known)]
        self._texts = [
            t[self._anchor_length :] for t in tokenizer.batch_decode(pairs, clean_up_tokenization_spaces=False)
        ]
        marked = {i for i, text in enumerate(self._texts) if opener in text} - self._special
        self.openers = frozenset(
            i
            for i in marked
            if self._texts[i].endswith(opener) and self._texts[i].count(opener) == 1 and BRACKET not in self._texts[i]
        )
        if opener != MARK and not self.openers:
            raise PolicyError(f"this tokenizer has no token for the opener {opener!r}: name another in policy.json")
        self.forbidden = tuple(sorted(((marked - self.openers) | self._special) - self.end_tokens))
        self.bracket_ends = frozenset(i for i, text in enumerate(self._texts) if text.endswith(BRACKET))
        self.sentence_ends = frozenset(i for i, text in enumerate(self._texts) if text.endswith(SENTENCE_MARKS))
        self._inner = [(i, part) for i, text in enumerate(self._texts) for part in text.split(BRACKET)[1:] if part]
        self._bodies: dict[tuple[str, str], tuple[int, ...]] = {}
        self._fused: dict[AdId, tuple[int, ...]] = {}
        self._columns: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    @cached_property
    def mark(self) -> int:
        """The token that opens a marker and writes least besides."""
        return min(self.openers, key=lambda i: (len(self._texts[i]), i))

    @cached_property
    def all_but_plain_openers(self) -> frozenset[int]:
        """All tokens but those that open a marker and write nothing else, blanks aside."""
        plain = {i for i in self.openers if self._texts[i].strip() == self.opener}
        return frozenset(range(self.size)) - (plain or self.openers)

    def columns(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `forbidden` and `openers` as tensors on a device."""
        if device not in self._columns:
            openers = torch.tensor(sorted(self.openers), dtype=torch.int64, device=device)
            self._columns[device] = (torch.tensor(self.forbidden, dtype=torch.int64, device=device), openers)
        return self._columns[device]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the raw text of an answer's tokens, with an "@" where a marker opens."""
        # Outside of markers no token may hold the opener, and no title holds it (`body`): each one opens a marker.
        return self._decode(tokens).replace(self.opener, MARK)

    def _decode(self, tokens: Sequence[int]) -> str:
        """Return the text as the model wrote it. Blanks are not cleaned up, because titles must stay verbatim."""
        return self.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)

    def encode(self, raw: str) -> list[int]:
        """Return the token ids of a piece of an answer as a policy writes it, markers included."""
        if self.opener == MARK:
            return [int(i) for i in self.tokenizer.encode(raw, add_special_tokens=False)]
        ids: list[int] = []
        for k, piece in enumerate(MARKER.split(raw)):  # text, marker's body, text, ..., text
            ids += [min(self.openers)] * (k % 2)
            ids += [int(i) for i in self.tokenizer.encode(piece, add_special_tokens=False)] if piece else []
        return ids

    def body(self, ad: Ad) -> tuple[int, ...]:
        """Return the token ids of `Ad Title@[Ad-ID]`, as they follow the opening mark.

        A title or id that the tokenizer cannot write verbatim is an InputError.
        """
        key = (ad.title, ad.id)
        if key not in self._bodies:
            self._bodies[key] = self._encode_body(ad)
        return self._bodies[key]

    def _encode_body(self, ad: Ad) -> tuple[int, ...]:
        text = marker_body(ad)
        if self.opener != MARK and self.opener in text:
            raise InputError("marker of an ad", text, f"leave out {self.opener!r}, which opens markers in this model")
        plain = tuple(self.tokenizer.encode(text, add_special_tokens=False))
        if not self.openers:
            return plain
        mark = self.mark
        # Some tokenizers prepend a blank to every text, as a separate token or merged with the mark. Their body is what
        # follows the mark in the encoding of the whole marker.
        whole = tuple(self.tokenizer.encode(self.opener + text, add_special_tokens=False))
        for ids in (plain, whole[1:], whole[2:]):
            written = self._decode([self._anchor, mark, *ids])[self._anchor_length :]
            if written == self._texts[mark] + text and self._special.isdisjoint(ids):
                return ids
        raise InputError("marker of an ad", text, "this model's tokenizer cannot write it verbatim: change the title")

    def trie(self, ads: Sequence[Ad]) -> CandidateTrie:
        """Return the candidate trie of one request."""
        return CandidateTrie({ad.id: self.body(ad) for ad in ads})

    def fused(self, ads: Sequence[AdId]) -> frozenset[int]:
        """Return the tokens that contain both "[" and the beginning of a candidate's id."""
        for ad_id in ads:
            if ad_id not in self._fused:
                self._fused[ad_id] = tuple(i for i, part in self._inner if _touches(part, ad_id))
        return frozenset(i for ad_id in ads for i in self._fused[ad_id])

    def after_bracket(self, ads: Sequence[AdId]) -> frozenset[int]:
        """Return the tokens that would begin a candidate's id right after a "[", with openers and empty tokens."""
        by_text, closing = self._by_text
        barred = set(by_text.get("", ())) | self.openers
        for ad_id in ads:
            whole = ad_id + "]"
            barred.update(i for n in range(1, len(whole) + 1) for i in by_text.get(whole[:n], ()))
            barred.update(i for i in closing if self._texts[i].startswith(whole))
        return frozenset(barred) - self.end_tokens

    def rules(self, ads: Sequence[AdId]) -> TokenRules:
        """Return what the tokens mean for the markers of one request, for a server that decodes by structural tags."""
        forbidden = self.fused(ads).union(self.forbidden)
        return TokenRules(forbidden, self.openers, self.bracket_ends, self.after_bracket(ads))

    @cached_property
    def _by_text(self) -> tuple[dict[str, list[int]], list[int]]:
        """The tokens by their complete characters, and the tokens that contain a "]"."""
        by_text: dict[str, list[int]] = {}
        for i, text in enumerate(self._texts):
            by_text.setdefault(text.rstrip(BROKEN), []).append(i)
        return by_text, [i for i, text in enumerate(self._texts) if "]" in text]


@dataclass(slots=True)
class _Open:
    """An open marker: its node on the trie, that node's probability, and those of the candidates that it ruled out."""

    node: Node
    mass: float
    ruled_out: dict[AdId, float]
    exact: bool


class MarkerConstraint:
    """The state of one answer while it is written. No ad is allowed twice, and at most `max_ads` in all.

    With `must_show` every candidate is shown: the answer cannot end before, and opens markers while its budget of
    tokens can still hold those that are missing.
    """

    def __init__(
        self, vocabulary: MarkerVocabulary, trie: CandidateTrie, max_ads: int | None, must_show: bool = False
    ) -> None:
        self.vocabulary = vocabulary
        self.must_show = must_show
        self.trie = trie
        self.max_ads = len(trie.root.ads) if max_ads is None else min(max_ads, len(trie.root.ads))
        self.shown: set[AdId] = set()
        self.choices: list[MarkerChoice] = []
        self._open: _Open | None = None
        self._fused = vocabulary.fused(trie.root.ads)
        self._after_bracket = False
        self._after_sentence = False

    @property
    def inside(self) -> bool:
        """Whether a marker is open."""
        return self._open is not None

    @property
    def missing(self) -> frozenset[AdId]:
        """The ads that must still be shown before the answer may end."""
        return frozenset(self.trie.root.ads) - self.shown if self.must_show else frozenset()

    @property
    def needed(self) -> int:
        """The tokens of the markers that are missing, with the token that opens each."""
        return sum(1 + self.trie.lengths[ad] for ad in self.missing)

    @property
    def _reserve(self) -> int:
        """`needed`, with a token between two markers, and one each to end the sentence and the answer."""
        return self.needed + len(self.missing) + 1

    def may_open(self, tokens_left: int) -> bool:
        """Return whether the next token may open a marker: another ad is allowed, and the budget can complete it."""
        if self.must_show:
            return bool(self.missing)  # `must_open` keeps the budget for them
        return len(self.shown) < self.max_ads and tokens_left > self.trie.longest + 1

    def must_open(self, tokens_left: float) -> bool:
        """Return whether the next token must open a marker, because an ad is missing and the budget runs short.

        While a whole sentence can be spared, the policy chooses the place; then the next sentence opens with the ad, at
        the latest the token after which the missing markers would no longer fit.
        """
        if not self.missing or self._after_bracket:
            return False
        return tokens_left <= self._reserve + SENTENCE_TOKENS * self._after_sentence

    def barred(self, tokens_left: float = math.inf) -> frozenset[int]:
        """Return the tokens barred outside of markers, where `tokens_left` may still be written.

        They are those that would write a candidate's id in brackets: without a title it is a broken marker. Right after
        a "[" no token may match the beginning of an id, so no later token needs a check. While an ad is missing, the
        end tokens are barred too, and all but openers where a marker must open.
        """
        if self.must_open(tokens_left):
            return self.vocabulary.all_but_plain_openers
        barred = self._fused
        if self._after_bracket:
            barred |= self.vocabulary.after_bracket(self.trie.root.ads)
        if self.missing:
            barred |= self.vocabulary.end_tokens
            # No marker opens right after a "[": the next token could not be the one that must open it.
            if tokens_left <= self._reserve + 1:
                barred |= self.vocabulary.bracket_ends
        return barred

    def allowed(self) -> list[int]:
        """Return, inside a marker, the tokens that may follow; they lead to ads that are not shown yet."""
        assert self._open is not None
        children = self._open.node.children
        return [token for token, child in children.items() if not self.shown.issuperset(child.ads)]

    def replay(self, token: int) -> bool:
        """Advance by the next token of a finished answer; return whether other tokens were allowed too.

        A token that leaves the trie, which only an unconstrained policy writes, ends the marker: all tokens after it
        count as chosen.
        """
        allowed = self.allowed() if self.inside else []
        if self.inside and token not in allowed:
            self._open = None
            return True
        self.advance(token)
        return len(allowed) != 1

    def advance(self, token: int, probabilities: Mapping[int, float] | None = None) -> None:
        """Advance by the chosen token; inside a marker with the `probabilities` of all allowed tokens."""
        if self._open is None:
            self._after_bracket = token in self.vocabulary.bracket_ends
            self._after_sentence = token in self.vocabulary.sentence_ends
            if token in self.vocabulary.openers:
                self._open = _Open(self.trie.root, 1.0, {}, True)
            return
        state, probabilities = self._open, probabilities or {token: 1.0}
        for other, p in probabilities.items():
            if other != token:
                group = [ad for ad in state.node.children[other].ads if ad not in self.shown]
                state.exact &= len(group) == 1 or p == 0.0
                state.ruled_out |= {ad: state.mass * p / len(group) for ad in group}
        state.mass *= probabilities[token]
        state.node = state.node.children[token]
        if state.node.ad is not None:
            chosen = state.node.ad
            self.choices.append(MarkerChoice(chosen, state.ruled_out | {chosen: state.mass}, state.exact))
            self.shown.add(chosen)
            self._open, self._after_sentence = None, False


def _touches(text: str, ad_id: AdId) -> bool:
    """Return whether text after a "[" matches `ad_id]` over their common length, ignoring an incomplete character."""
    whole, complete = ad_id + "]", text.rstrip(BROKEN)
    return whole.startswith(complete) or complete.startswith(whole)

"""The markers of a request's candidates as a structural tag, which vLLM, SGLang and others decode by (xgrammar).

Such a server then writes markers of candidates and no others. There are two forms of one rule. `text_tag` needs no
tokenizer, so a router can send it for any model; an "@" before other words (e-mail, handle, decorator) can then stay
ordinary text. `token_tag` is written in the tokens of one model and admits, token by token, what `inference.constraint`
admits: the propensities of its answers are those of a policy in this process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

from mechanism.markers import marker_body
from mechanism.trie import CandidateTrie, Node
from mechanism.types import Ad, AdId

MARK = "@"
MOST_STATES = 64
"""Sets of ads shown so far that a token tag tells apart. A request that needs more admits an ad twice."""


def text_tag(ads: Sequence[Ad], opener: str | None = None) -> dict[str, Any] | None:
    """Return the `response_format` of a request with these candidates; None without candidates.

    `opener` is the character that opens a marker wherever the model writes it; None: "@" before a candidate's title.
    """
    if not ads:
        return None
    return {
        "type": "structural_tag",
        "format": {
            "type": "triggered_tags",
            "triggers": triggers(ads) if opener is None else [opener],
            "tags": [_tag((opener or MARK) + marker_body(ad)) for ad in ads],
            "at_least_one": False,
            "stop_after_first": False,
            "excludes": [f"{MARK}["],
        },
    }


def triggers(ads: Sequence[Ad]) -> list[str]:
    """Return what begins the marker of exactly one group of ads: a title that continues another is in its group."""
    openings = sorted({MARK + ad.title for ad in ads}, key=len)
    kept: list[str] = []
    for opening in openings:
        if not any(opening.startswith(shorter) for shorter in kept):
            kept.append(opening)
    return kept


def _tag(marker: str) -> dict[str, Any]:
    return {"type": "tag", "begin": marker, "content": {"type": "const_string", "value": ""}, "end": ""}


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What the tokens of one model mean for the markers of one request.

    Outside of markers `openers` open one, and `forbidden` tokens are never written. A token of `bracket_ends` ends in
    "["; after it `after_bracket` is forbidden too.
    """

    forbidden: frozenset[int]
    openers: frozenset[int]
    bracket_ends: frozenset[int]
    after_bracket: frozenset[int]


def token_tag(rules: TokenRules, trie: CandidateTrie, max_ads: int | None) -> dict[str, Any]:
    """Return the `response_format` under which a server writes what the candidate trie admits.

    No ad is admitted twice and at most `max_ads` in all (None: all), unless that takes more than `MOST_STATES` states:
    then any number is. The budget of tokens is not part of it: an answer may be cut off within a marker.
    """
    grammar = "\n".join(_Grammar(rules, trie, max_ads).lines())
    return {"type": "structural_tag", "format": {"type": "grammar", "grammar": grammar}}


class _Grammar:
    """Rules `f<k>` (outside of markers) and `b<k>` (right after a "[") for each state k: the ads shown so far.

    In the last state no marker can open.
    """

    def __init__(self, rules: TokenRules, trie: CandidateTrie, max_ads: int | None) -> None:
        self._rules = rules
        self._root = trie.root
        ads = trie.root.ads
        most = len(ads) if max_ads is None else min(max_ads, len(ads))
        self._distinct = sum(comb(len(ads), n) for n in range(most)) <= MOST_STATES
        open_states = [frozenset(s) for n in range(most) for s in combinations(ads, n)] if self._distinct else [_NONE]
        self._numbers = {shown: k for k, shown in enumerate(open_states)}

    def lines(self) -> list[str]:
        """Return the grammar's rules; the first state is the root."""
        rules, closed = self._rules, len(self._numbers)
        lines = [
            "root ::= f0",
            f"word ::= Exclude{_tokens(rules.forbidden | rules.openers | rules.bracket_ends)}",
            f"other ::= Exclude{_tokens(rules.forbidden | rules.bracket_ends | rules.after_bracket)}",
        ]
        for shown, k in self._numbers.items():
            opened = f"{_tokens(rules.openers)} {self._inside(self._root, shown)}"
            lines += self._outside(k, opened if rules.openers else "")
        return lines + self._outside(closed, "")

    def _outside(self, k: int, marker: str) -> list[str]:
        rules = self._rules
        free = ['""', f"word f{k}", _then(rules.bracket_ends - rules.forbidden, f"b{k}"), marker]
        after = ['""', f"other f{k}", _then(rules.bracket_ends - rules.forbidden - rules.after_bracket, f"b{k}")]
        return [f"{name}{k} ::= {' | '.join(filter(None, branches))}" for name, branches in (("f", free), ("b", after))]

    def _inside(self, node: Node, shown: frozenset[AdId]) -> str:
        """Return what may follow at a node of the trie, up to the end of its markers."""
        if node.ad is not None:
            return f"f{self._after(shown, node.ad)}"
        allowed = [(token, child) for token, child in node.children.items() if not shown.issuperset(child.ads)]
        branches = [f"{_tokens([token])} {self._inside(child, shown)}" for token, child in allowed]
        return branches[0] if len(branches) == 1 else f"({' | '.join(branches)})"

    def _after(self, shown: frozenset[AdId], ad: AdId) -> int:
        return self._numbers.get(shown | {ad}, len(self._numbers)) if self._distinct else 0


_NONE: frozenset[AdId] = frozenset()


def _tokens(ids: Iterable[int]) -> str:
    return f"Token({','.join(map(str, sorted(ids)))})"


def _then(ids: frozenset[int], rule: str) -> str:
    return f"{_tokens(ids)} {rule}" if ids else ""

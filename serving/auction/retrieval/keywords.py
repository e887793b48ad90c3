"""Okapi BM25 over the words of creatives, updated creative by creative.

Written for this project because rows must be those of the eligibility index and change one at a time; the libraries
build their index once. Scores follow Robertson and Zaragoza, "The Probabilistic Relevance Framework" (2009), Eq. 3.15.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from serving.auction.eligibility.columns import grown
from serving.auction.eligibility.request import words
from serving.auction.retrieval.vectors import Admits, Rows, best_with_ties

K1, B = 1.2, 0.75
MOST_TERMS = 32
"""Words of a question that are looked up, the rarest first."""
COMMON = 0.05
"""A word in a larger share of the creatives hardly distinguishes them and is not looked up..."""
FEW = 500
"""...unless fewer creatives than this have it."""
MOST_ROWS = 20_000
"""Rows that are scored; once the rarer words of a question have as many, its more common ones are not looked up."""
_Posting = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Rows, and how often a word occurs there or their scores."""


class KeywordIndex:
    """The words of creatives by row."""

    def __init__(self) -> None:
        self._terms: dict[int, Counter[str]] = {}
        self._postings: dict[str, dict[int, int]] = {}
        self._arrays: dict[str, _Posting] = {}
        self._lengths_R = np.zeros(1_024, np.float32)
        self._scores_R = np.zeros(1_024, np.float32)  # all 0 between searches
        self._few_R = np.zeros(1_024, np.bool_)  # all False between searches
        self._all_words = 0

    def __len__(self) -> int:
        return len(self._terms)

    def put(self, row: int, text: str) -> None:
        """File a text under a row in place of its former text."""
        self.remove(row)
        terms = Counter(words(text))
        self._terms[row] = terms
        if row >= len(self._lengths_R):
            self._lengths_R = grown(self._lengths_R, row + 1)
            self._scores_R = grown(self._scores_R, row + 1)
            self._few_R = grown(self._few_R, row + 1)
        self._lengths_R[row] = terms.total()
        self._all_words += terms.total()
        for term, times in terms.items():
            self._postings.setdefault(term, {})[row] = times
            self._arrays.pop(term, None)

    def remove(self, row: int) -> None:
        """Remove the text under a row; an empty row is ignored."""
        terms = self._terms.pop(row, None)
        if terms is None:
            return
        self._all_words -= terms.total()
        for term in terms:
            postings = self._postings[term]
            del postings[row]
            self._arrays.pop(term, None)
            if not postings:
                del self._postings[term]

    def search(self, query: str, admits: Admits, count: int, few_rows: Rows | None = None) -> _Posting:
        """Return the `count` best of the admitted rows that share a word with the query, and their scores.

        Ties with the last one are included. The time grows with the rows that share a word, not with all. `few_rows`,
        where given, has every row that is admitted.
        """
        terms = self._lookup(query)
        if not terms:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        scores_R, found = self._scores_R, []
        average = self._all_words / len(self._terms)
        if few_rows is not None:
            few_rows = few_rows[few_rows < len(self._few_R)]
            self._few_R[few_rows] = True
        for term in terms:
            rows, times = self._array(term)
            idf = math.log(1 + (len(self._terms) - len(rows) + 0.5) / (len(rows) + 0.5))
            if few_rows is not None:
                few = self._few_R[rows]
                rows, times = rows[few], times[few]
            norm = K1 * (1 - B + B * self._lengths_R[rows] / average)
            scores_R[rows] += idf * (K1 + 1) * times / (times + norm)
            found.append(rows)
        touched = np.concatenate(found)
        admitted = touched[admits(touched)]
        scores = scores_R[admitted]
        scores_R[touched] = 0
        if few_rows is not None:
            self._few_R[few_rows] = False
        # A row is listed once for each of its words.
        admitted, scores = best_with_ties(admitted, scores, count * len(terms))
        rows, first = np.unique(admitted, return_index=True)
        return best_with_ties(rows, scores[first], count)

    def _lookup(self, query: str) -> list[str]:
        """Return the words of the query that distinguish creatives, the rarest first, in a deterministic order."""
        most = max(FEW, COMMON * len(self._terms))
        known = [t for t in dict.fromkeys(words(query)) if 0 < len(self._postings.get(t, ())) <= most]
        rarest = sorted(known, key=lambda t: (len(self._postings[t]), t))[:MOST_TERMS]
        ends = accumulate(len(self._postings[t]) for t in rarest)
        return [t for i, (t, end) in enumerate(zip(rarest, ends, strict=True)) if i == 0 or end <= MOST_ROWS]

    def _array(self, term: str) -> _Posting:
        found = self._arrays.get(term)
        if found is None:
            postings = self._postings[term]
            rows = np.fromiter(postings, np.int64, len(postings))
            found = self._arrays[term] = (rows, np.fromiter(postings.values(), np.float32, len(postings)))
        return found

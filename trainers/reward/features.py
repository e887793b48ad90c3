"""Features of shown ads for the pCTR model: what a production system has before any click.

The paper's input is [text(x); text(y); e_user; e_ad] (arXiv 2512.10551, Eq. 3). Beside the answer as a whole there are
the sentence that carries the ad, because a mean over sentences does not show which of them carries it, the other ads
shown, because they compete with it, and the conversation and the user as far as the user consents. Texts become
vectors of the frozen encoder; how they compare is left to the network. The simulator's click model is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mechanism.prose import SENTENCE_BREAK
from mechanism.types import Ad, AdId, Answer, Context

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts -> unit vectors, shape (texts, TEXT_WIDTH)."""
TEXT_WIDTH = 384
TEXTS = ("query", "conversation", "interests", "history", "answer", "sentence", "ad", "others")
"""Names of a shown ad's vectors, in the order of `Features.texts_NKD`."""
SCALARS = ("ads", "repeats", "place", "sentence", "sentences", "words", "profile", "turns", "same_category")
"""Names of a shown ad's numbers, in the order of `Features.scalars_NS`; see `_scalars`."""
_HUNDRED_WORDS = 100.0


@dataclass(frozen=True, slots=True)
class Features:
    """Features of N shown ads.

    `texts_NKD`: float32 vectors of TEXTS, zero where there is no such text; `scalars_NS`: float32 values of SCALARS;
    `users_N`, `ads_N`: ids, "" for a user without consent; `owner_N`: index of each ad's answer.
    """

    texts_NKD: NDArray[np.float32]
    scalars_NS: NDArray[np.float32]
    users_N: list[str]
    ads_N: list[AdId]
    owner_N: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Row:
    """One shown ad, before its texts are encoded."""

    owner: int
    context: Context
    ad: Ad
    others: tuple[Ad, ...]
    sentence: str
    scalars: tuple[float, ...]


def sentences(answer: Answer) -> list[tuple[int, int]]:
    """Return the spans of an answer's sentences in its visible text; a title is never cut in two."""
    spans: list[tuple[int, int]] = []
    start = 0
    for gap in SENTENCE_BREAK.finditer(answer.text):
        if any(i.start < gap.end() and gap.start() < i.end for i in answer.insertions):
            continue
        spans.append((start, gap.start()))
        start = gap.end()
    spans.append((start, len(answer.text)))
    return [span for span in spans if span[0] < span[1]]


def extract(pairs: Sequence[tuple[Context, Answer]], encode: Encode) -> Features:
    """Extract features of every distinct ad shown in the given answers, in order of answer and appearance."""
    rows: list[_Row] = []
    proses: list[list[str]] = []
    for owner, (context, answer) in enumerate(pairs):
        spans = sentences(answer)
        proses.append([answer.struck(*span) for span in spans])
        by_id = {c.ad.id: c.ad for c in context.candidates}
        shown = [by_id[i] for i in answer.shown()]
        for place, ad in enumerate(shown):
            at = next(i.start for i in answer.insertions if i.ad_id == ad.id)
            order = next(n for n, (start, end) in enumerate(spans) if start <= at < end)
            others = tuple(other for other in shown if other.id != ad.id)
            scalars = _scalars(context, answer, ad, others, place, order, len(spans))
            rows.append(_Row(owner, context, ad, others, proses[-1][order], scalars))
    owner_N = np.array([row.owner for row in rows], np.int64)
    if not rows:
        empty = np.zeros((0, len(TEXTS), TEXT_WIDTH), np.float32), np.zeros((0, len(SCALARS)), np.float32)
        return Features(*empty, [], [], owner_N)
    profiles = [row.context.profile for row in rows]
    vectors = {
        "query": encode([row.context.query for row in rows]),
        "conversation": _means([[text for _, text in row.context.turns] for row in rows], encode),
        "interests": _means([p.interests if p else () for p in profiles], encode),
        "history": _means([p.history if p else () for p in profiles], encode),
        "answer": _means(proses, encode)[owner_N],
        "sentence": encode([row.sentence for row in rows]),
        "ad": encode([_advert(row.ad) for row in rows]),
        "others": _means([[_advert(ad) for ad in row.others] for row in rows], encode),
    }
    return Features(
        np.stack([vectors[name] for name in TEXTS], axis=1),
        np.array([row.scalars for row in rows], np.float32),
        [profile.id if profile else "" for profile in profiles],
        [row.ad.id for row in rows],
        owner_N,
    )


def _advert(ad: Ad) -> str:
    return f"{ad.title}: {ad.text}"


def _scalars(
    context: Context, answer: Answer, ad: Ad, others: Sequence[Ad], place: int, order: int, count: int
) -> tuple[float, ...]:
    """Return the values of SCALARS: of the ad at `place` among the ads, in sentence `order` of `count`."""
    return (
        len(others) + 1,
        len(answer.insertions) - len(others) - 1,
        place,
        order,
        count,
        len(answer.text.split()) / _HUNDRED_WORDS,
        context.profile is not None,
        len(context.turns),
        sum(other.category == ad.category for other in others) if ad.category else 0,
    )


def _means(groups: Sequence[Sequence[str]], encode: Encode) -> NDArray[np.float32]:
    """Return the mean vector of each group of texts, scaled to length 1, shape (groups, TEXT_WIDTH); 0 for none.

    Sentences and ads recur, so most of their vectors are in the encoder's cache; whole answers would not be.
    """
    vectors = encode([text for group in groups for text in group])
    totals = np.zeros((len(groups), TEXT_WIDTH), np.float32)
    np.add.at(totals, np.repeat(np.arange(len(groups)), [len(group) for group in groups]), vectors)
    return np.asarray(totals / np.maximum(np.linalg.norm(totals, axis=1, keepdims=True), 1e-9), np.float32)

"""Features of shown ads for the pCTR model: what a production system has before any click.

The paper's input is [text(x); text(y); e_user; e_ad] (arXiv 2512.10551, Eq. 3). Beside the answer as a whole there are
the sentence that carries the ad and what stands before it, because a mean over sentences does not show which of them
carries it, the shown ad that competes with it most, and the conversation and the user as far as the user consents. Of
several interests the one closest to the ad counts. Texts become vectors of the frozen encoder, whose comparison is left
to the network; beside them stand the words that they share. The simulator's click model is not used.
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
Overlap = Callable[[str, str], float]
"""Two texts -> how many of their words they share, 0..1."""
TEXTS = ("query", "conversation", "interests", "history", "answer", "before", "sentence", "title", "offer", "others")
"""Names of a shown ad's vectors, in the order of `Features.texts_NKD`."""
LAYOUT = ("ads", "repeats", "place", "sentence", "sentences", "words", "profile", "turns", "same_category")
OVERLAPS = tuple(f"{name}_overlap" for name in ("query", "conversation", "interests", "history", "before", "others"))
SENTENCE_OVERLAPS = ("sentence_overlap", "topic_overlap")
SCALARS = (*LAYOUT, *OVERLAPS, *SENTENCE_OVERLAPS)
"""Names of a shown ad's numbers, in the order of `Features.scalars_NS`: layout, words that the offer shares with
other texts and with its sentence, and those that the sentence shares with the question."""
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
    """One shown ad, before its texts are encoded: `before` are the sentences before its own, titles struck out."""

    owner: int
    context: Context
    ad: Ad
    others: tuple[Ad, ...]
    sentence: str
    before: tuple[str, ...]
    layout: tuple[float, ...]

    @property
    def offer(self) -> str:
        """What the ad says; a title is a name and says little."""
        return _offer(self.ad)

    @property
    def turns(self) -> tuple[str, ...]:
        """The earlier turns of the conversation."""
        return tuple(text for _, text in self.context.turns)

    @property
    def interests(self) -> tuple[str, ...]:
        """The user's interests, with consent."""
        return self.context.profile.interests if self.context.profile else ()

    @property
    def history(self) -> tuple[str, ...]:
        """What the user read lately, with consent."""
        return self.context.profile.history if self.context.profile else ()

    @property
    def rivals(self) -> tuple[str, ...]:
        """What the other shown ads offer."""
        return tuple(_offer(ad) for ad in self.others)

    def overlaps(self, overlap: Overlap) -> tuple[float, ...]:
        """Return the values of OVERLAPS and SENTENCE_OVERLAPS; of several texts the most similar counts."""
        groups = ((self.context.query,), self.turns, self.interests, self.history, self.before, self.rivals)
        shared = [max((overlap(text, self.offer) for text in group), default=0.0) for group in groups]
        return (*shared, overlap(self.sentence, self.offer), overlap(self.sentence, self.context.query))


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


def extract(pairs: Sequence[tuple[Context, Answer]], encode: Encode, overlap: Overlap) -> Features:
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
            layout = _layout(context, answer, ad, others, place, order, len(spans))
            rows.append(_Row(owner, context, ad, others, proses[-1][order], tuple(proses[-1][:order]), layout))
    owner_N = np.array([row.owner for row in rows], np.int64)
    if not rows:
        empty = np.zeros((0, len(TEXTS), TEXT_WIDTH), np.float32), np.zeros((0, len(SCALARS)), np.float32)
        return Features(*empty, [], [], owner_N)
    offers_ND = encode([row.offer for row in rows])
    vectors = {
        "query": encode([row.context.query for row in rows]),
        "conversation": _means([row.turns for row in rows], encode),
        "interests": _closest([row.interests for row in rows], offers_ND, encode),
        "history": _closest([row.history for row in rows], offers_ND, encode),
        "answer": _means(proses, encode)[owner_N],
        "before": _means([row.before for row in rows], encode),
        "sentence": encode([row.sentence for row in rows]),
        "title": encode([row.ad.title for row in rows]),
        "offer": offers_ND,
        "others": _closest([row.rivals for row in rows], offers_ND, encode),
    }
    return Features(
        np.stack([vectors[name] for name in TEXTS], axis=1),
        np.array([(*row.layout, *row.overlaps(overlap)) for row in rows], np.float32),
        [row.context.profile.id if row.context.profile else "" for row in rows],
        [row.ad.id for row in rows],
        owner_N,
    )


def spoken(pairs: Sequence[tuple[Context, Answer]]) -> list[str]:
    """Return the texts that words are counted in: questions, offers, and the answers' sentences."""
    texts: list[str] = []
    for context, answer in pairs:
        texts += [context.query, *(_offer(c.ad) for c in context.candidates)]
        texts += [answer.struck(*span) for span in sentences(answer)]
    return texts


def _offer(ad: Ad) -> str:
    return ad.text or ad.title


def _layout(
    context: Context, answer: Answer, ad: Ad, others: Sequence[Ad], place: int, order: int, count: int
) -> tuple[float, ...]:
    """Return the values of LAYOUT for the ad at `place` among the ads, in sentence `order` of `count`."""
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


def _closest(groups: Sequence[Sequence[str]], offers_ND: NDArray[np.float32], encode: Encode) -> NDArray[np.float32]:
    """Return of each group of texts the vector closest to the offer, shape (groups, TEXT_WIDTH); 0 for none."""
    vectors = encode([text for group in groups for text in group])
    ends = np.cumsum([len(group) for group in groups])
    closest_ND = np.zeros_like(offers_ND)
    for n, (group, end) in enumerate(zip(groups, ends, strict=True)):
        if group:
            own = vectors[end - len(group) : end]
            closest_ND[n] = own[int(np.argmax(own @ offers_ND[n]))]
    return closest_ND

"""Features of a shown ad for the pCTR model: texts through the frozen encoder, and the ids of user and ad.

The paper's input is [text(x); text(y); e_user; e_ad]. Two things are added: the sentence that carries the ad, because
one vector of a whole answer does not show which of its ads reads natively; and the cosines between the texts, because a
small network needs much data to learn an inner product. The simulator's click model is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mechanism.prose import SENTENCE_BREAK, echo
from mechanism.types import Ad, AdId, Answer, Context

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
SCALARS = 10
TEXTS, COSINES = 0.3, 6.0
"""Weights of a text's coordinates and of the cosines: with weight 1 the network overfits a thousand coordinates to a
few thousand clicks, and its predictions agree less with the truth."""


@dataclass(frozen=True, slots=True)
class Features:
    """Features of N shown ads.

    `dense_ND`: float32 text vectors and scalars; `users_N`, `ads_N`: ids; `owner_N`: index of each ad's answer.
    """

    dense_ND: NDArray[np.float32]
    users_N: list[str]
    ads_N: list[AdId]
    owner_N: NDArray[np.int64]


def carrying_sentence(answer: Answer, ad_id: AdId) -> tuple[str, int, float]:
    """Return the sentence that carries an ad, its index in the answer, and the share of it that repeats earlier text.

    Titles in the sentence are replaced by "it".
    """
    place = next(i for i in answer.insertions if i.ad_id == ad_id)
    start, number = 0, 0
    for match in SENTENCE_BREAK.finditer(answer.text):
        if match.end() > place.start:
            break
        start, number = match.end(), number + 1
    following = SENTENCE_BREAK.search(answer.text, place.end)
    end = following.start() if following else len(answer.text)
    sentence = answer.struck(start, end)
    return sentence, number, echo(sentence, [answer.struck(0, start)])


def extract(pairs: Sequence[tuple[Context, Answer]], encode: Encode) -> Features:
    """Extract features of every distinct ad shown in the given answers, in order of answer and appearance."""
    rows: list[tuple[Context, Answer, Ad, str, int, int, float]] = []
    owners: list[int] = []
    for number, (context, answer) in enumerate(pairs):
        by_id = {c.ad.id: c.ad for c in context.candidates}
        for place, ad_id in enumerate(answer.shown()):
            sentence, order, echoed = carrying_sentence(answer, ad_id)
            rows.append((context, answer, by_id[ad_id], sentence, order, place, echoed))
            owners.append(number)
    if not rows:
        return Features(np.zeros((0, 3 * 384 + SCALARS), np.float32), [], [], np.zeros(0, np.int64))
    query = encode([c.query for c, *_ in rows])
    taste = encode([", ".join(c.profile.interests) if c.profile else "" for c, *_ in rows])
    advert = encode([f"{ad.title}: {ad.text}" for _, _, ad, *_ in rows])
    carrier = encode([sentence for _, _, _, sentence, *_ in rows])
    whole = _answer_vectors([a for _, a, *_ in rows], encode)
    scalars = np.array(
        [
            (
                len(a.shown()),
                len(a.insertions) - len(a.shown()),
                order,
                place,
                "!" in sentence,
                c.profile is not None,
                2.0 * echoed,
            )
            for c, a, _, sentence, order, place, echoed in rows
        ],
        np.float32,
    )
    cosines = np.stack([(query * advert).sum(1), (taste * advert).sum(1), (query * carrier).sum(1)], 1)
    return Features(
        np.concatenate([TEXTS * np.hstack([query, whole, carrier]), COSINES * cosines, scalars], 1).astype(np.float32),
        [c.profile.id if c.profile else "" for c, *_ in rows],
        [ad.id for _, _, ad, *_ in rows],
        np.array(owners, np.int64),
    )


def _answer_vectors(answers: Sequence[Answer], encode: Encode) -> NDArray[np.float32]:
    """Return the mean of each answer's sentence vectors; sentences recur, so most are in the encoder's cache."""
    split = [[s for s in SENTENCE_BREAK.split(a.text) if s] or [""] for a in answers]
    vectors = encode([s for own in split for s in own])
    ends = np.cumsum([len(own) for own in split])
    sums = np.add.reduceat(vectors, np.concatenate([[0], ends[:-1]]), axis=0)
    return np.asarray(sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9), np.float32)

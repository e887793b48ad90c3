"""The meaning of a message: linear classifiers of sensitivity, of a need, and of the topic.

They read the frozen encoder's vector, the hashed pieces of the text (`grams`) and the topics of its phrases. The
encoder knows English best, so that vectors of English messages have weights of their own; the pieces read the other
languages. Fitted to the labelled examples of `data/examples/` by `benchmarks.serving.fit_sensitive`; the weights are in
`data/classifier.npz`. They fit one encoder only, which a probe sentence recognises.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import resources
from io import BytesIO
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from serving.auction.retrieval.vectors import Vectors
from serving.auction.sensitive.grams import grams_of
from serving.auction.sensitive.topics import Topic

log = structlog.get_logger(__name__)

PROBE = "the sentence by which this classifier recognises its encoder"
CLASSIFIER = "classifier.npz"
SAME = 0.999
"""Least cosine of the probe's vector to the stored one."""
SENSITIVE, NEED, TOPICS = 0, 1, slice(2, None)
"""Rows of the heads."""
Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Reading:
    """The text of a message alone: logits (heads,) of its pieces and phrases, and whether it is English."""

    logits_H: Array
    is_english: bool


@dataclass(frozen=True, slots=True, eq=False)
class Meaning:
    """Weights of all heads: sensitivity, need, then one for each topic.

    `pieces_R2` are those of the text's pieces for the first two heads, `topic_pieces_RT` for the topics;
    `phrases_HT` those of phrases by topic; `english_HD` and `other_HD` those of the encoder's vector. `biases_H` hold
    with a vector, `blind_H` is added without one. A message is sensitive from the logit `threshold` (`blind_threshold`
    without a vector) and has a need from `need_bar`.
    """

    topics: tuple[Topic, ...]
    pieces_R2: Array
    topic_pieces_RT: Array
    phrases_HT: Array
    english_HD: Array
    other_HD: Array
    biases_H: Array
    blind_H: Array
    threshold: float
    blind_threshold: float
    need_bar: float
    probe_D: Array
    sighted: bool = True
    """Whether vectors come from the encoder that the weights belong to; others are not read."""

    @classmethod
    def load(cls) -> Meaning:
        """Read the packaged classifier."""
        source = resources.files("serving.auction.sensitive") / "data" / CLASSIFIER
        with np.load(BytesIO(source.read_bytes())) as stored:
            weights = {name: stored[name].astype(np.float32) for name in stored.files if name != "topics"}
            return cls(
                topics=tuple(Topic(str(name)) for name in stored["topics"]),
                pieces_R2=weights["pieces_R2"],
                topic_pieces_RT=weights["topic_pieces_RT"],
                phrases_HT=weights["phrases_HT"],
                english_HD=weights["english_HD"],
                other_HD=weights["other_HD"],
                biases_H=weights["biases_H"],
                blind_H=weights["blind_H"],
                threshold=float(weights["threshold"]),
                blind_threshold=float(weights["blind_threshold"]),
                need_bar=float(weights["need_bar"]),
                probe_D=weights["probe_D"],
            )

    def reads(self, probe_D: Vectors) -> bool:
        """Whether `probe_D`, an encoder's vector of `PROBE`, comes from the encoder that the weights belong to."""
        return probe_D.shape == self.probe_D.shape and float(probe_D @ self.probe_D) >= SAME

    def read(self, message: str, phrases: Iterable[Topic], is_english: bool) -> Reading:
        """Read the text of a message, whose phrases name the topics `phrases`."""
        grams = grams_of(message)
        both_2 = grams.weights_P @ self.pieces_R2[grams.hashes_P & (len(self.pieces_R2) - 1)]
        each_T = grams.weights_P @ self.topic_pieces_RT[grams.hashes_P & (len(self.topic_pieces_RT) - 1)]
        logits_H = np.concatenate([both_2, each_T]) + self.biases_H
        for topic in phrases:
            logits_H += self.phrases_HT[:, self.topics.index(topic)]
        return Reading(logits_H.astype(np.float32), is_english)

    def sensitivity(self, reading: Reading, vector_D: Vectors | None) -> float:
        """Return how far a message is above the threshold of sensitive ones, in logits."""
        threshold = self.blind_threshold if vector_D is None or not self.sighted else self.threshold
        return float(self._logits(SENSITIVE, reading, vector_D)) - threshold

    def need(self, reading: Reading, vector_D: Vectors | None) -> float:
        """Return how far a message is above the bar for a need that an offer could meet, in logits."""
        return float(self._logits(NEED, reading, vector_D)) - self.need_bar

    def topic(self, reading: Reading, vector_D: Vectors | None) -> Topic:
        """Return the topic that a sensitive message is most likely about."""
        return self.topics[int(np.argmax(self._logits(TOPICS, reading, vector_D)))]

    def _logits(self, heads: int | slice, reading: Reading, vector_D: Vectors | None) -> Any:
        """Return the logits of some heads; without a vector, or with one of another encoder, the text's alone."""
        if vector_D is None or not self.sighted:
            return reading.logits_H[heads] + self.blind_H[heads]
        weights_HD = self.english_HD if reading.is_english else self.other_HD
        return reading.logits_H[heads] + weights_HD[heads] @ vector_D


def packaged_meaning(probe_D: Vectors | None) -> Meaning:
    """Return the packaged classifier; it reads vectors if `probe_D`, the encoder's vector of `PROBE`, fits it.

    Without an encoder, or with another one, texts decide alone, and a warning in the log says so.
    """
    meaning = Meaning.load()
    if probe_D is not None and meaning.reads(probe_D):
        return meaning
    reason = "no encoder" if probe_D is None else "another encoder"
    log.warning("sensitive.text_alone", reason=reason, remedy="install the extra `policy`, start with --encoder")
    return replace(meaning, sighted=False)

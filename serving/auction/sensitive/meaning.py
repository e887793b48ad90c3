"""The meaning of a message: linear classifiers of topics, and of a need, on the frozen encoder's vectors.

Fitted to the labelled examples of `data/examples.yaml` by `benchmarks.serving.fit_sensitive`; its weights are in
`data/classifier.npz`, so that a router starts without encoding the examples. They fit one encoder only, which a probe
sentence recognises. The encoder reads English; the other languages are left to the rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from io import BytesIO

import numpy as np
import structlog
from numpy.typing import NDArray

from serving.auction.retrieval.vectors import Vectors
from serving.auction.sensitive.topics import Topic

log = structlog.get_logger(__name__)

PROBE = "the sentence by which this classifier recognises its encoder"
CLASSIFIER = "classifier.npz"
SAME = 0.999
"""Least cosine of the probe's vector to the stored one."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """Weights (topics, width), biases (topics,) and a threshold in logits; for a need weights (width,) and a bar."""

    topics: tuple[Topic, ...]
    weights_TD: NDArray[np.float32]
    biases_T: NDArray[np.float32]
    threshold: float
    need_D: NDArray[np.float32]
    need_bar: float
    probe_D: NDArray[np.float32]

    @classmethod
    def load(cls) -> Meaning:
        """Read the packaged classifier."""
        source = resources.files("serving.auction.sensitive") / "data" / CLASSIFIER
        with np.load(BytesIO(source.read_bytes())) as stored:
            return cls(
                tuple(Topic(str(name)) for name in stored["topics"]),
                stored["weights"],
                stored["biases"],
                float(stored["threshold"]),
                stored["need"],
                float(stored["need_bar"]),
                stored["probe"],
            )

    def reads(self, probe_D: Vectors) -> bool:
        """Whether `probe_D`, an encoder's vector of `PROBE`, comes from the encoder that the weights belong to."""
        return probe_D.shape == self.probe_D.shape and float(probe_D @ self.probe_D) >= SAME

    def need(self, vector_D: Vectors) -> float:
        """Return how far a vector is above the bar for a need that an offer could meet, in logits."""
        return float(self.need_D @ vector_D) - self.need_bar

    def margins(self, vector_D: Vectors) -> dict[Topic, float]:
        """Return each topic's logit above the threshold; positive ones are found."""
        logits_T = self.weights_TD @ vector_D + self.biases_T - self.threshold
        return dict(zip(self.topics, logits_T.tolist(), strict=True))


def packaged_meaning(probe_D: Vectors | None) -> Meaning | None:
    """Return the packaged classifier if `probe_D`, the encoder's vector of `PROBE`, shows that it fits.

    None, and a warning in the log, without an encoder or with another one: then the rules decide alone.
    """
    meaning = Meaning.load()
    if probe_D is not None and meaning.reads(probe_D):
        return meaning
    reason = "no encoder" if probe_D is None else "another encoder"
    log.warning("sensitive.rules_alone", reason=reason, remedy="install the extra `policy`, start with --encoder")
    return None

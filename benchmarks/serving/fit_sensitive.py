"""`python -m benchmarks.serving.fit_sensitive`: fit the classifiers of sensitivity, need and topic.

Logistic regressions by stochastic gradient descent with AdaGrad (Duchi et al. 2011), several passes in random order,
averaged over seeds. Everyday questions of the built-in world are among the examples. A third of the vectors are hidden,
so that a message whose vector is late can be read too. The threshold is the lowest at which the gate, phrases included,
loses few commercial examples in a cross-validation; the bar of a need is where few of those without one are above it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from inference.encoder import shared_encoder
from serving.auction.sensitive.gate import NEEDLESS as NEEDLESS_MARGIN
from serving.auction.sensitive.gate import OVERRULED, STRICT_MARGIN
from serving.auction.sensitive.grams import Grams, grams_of
from serving.auction.sensitive.meaning import CLASSIFIER, PROBE
from serving.auction.sensitive.rules import is_english, shared_rules
from serving.auction.sensitive.topics import CERTAIN, Topic
from serving.lexicon import lines
from simulator.questions import everyday_questions

COMMERCIAL, NEUTRAL = "commercial", "neutral"
FOLDS, SEEDS, PASSES, RATE = 4, 3, 4, 0.3
ROWS, TOPIC_ROWS = 1 << 16, 1 << 12
LENGTHS = (2.0, 0.5)
"""Lengths that vectors and phrases have beside the pieces of the text."""
HIDDEN = 0.33
"""Share of vectors hidden in a pass."""
NEUTRAL_WEIGHT, WORLD_WEIGHT, SENSITIVE_AS_NEEDLESS = 0.15, 0.5, 0.2
"""A neutral message taken for a sensitive one costs nothing, because it gets no candidates either way."""
LOST, NEEDLESS = 0.04, 0.05
"""Shares of commercial examples that may be taken for sensitive ones, and of neutral ones for needs."""
Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled message with its features: `dense` are the vector (English, else other) and the phrases' topics."""

    label: str
    weight: float
    grams: Grams
    dense: Array
    follows: bool


@dataclass(frozen=True, slots=True)
class Weights:
    """Of one head: rows of pieces, dense features, bias, and what is added where the vector is hidden."""

    pieces_R: Array
    dense_F: Array
    bias: float
    blind: float


def main() -> None:
    """Fit, print how held-out examples are read, and write the weights."""
    data = Path(str(resources.files("serving.auction.sensitive") / "data"))
    examples = _examples(data / "examples")
    labels = np.array([one.label for one in examples])
    neutral, commercial = labels == NEUTRAL, labels == COMMERCIAL
    sensitive = ~(neutral | commercial)
    base_N = np.array([one.weight for one in examples], np.float32)
    sensitive_weights_N = base_N * np.where(neutral, NEUTRAL_WEIGHT, 1.0).astype(np.float32)
    alone_N = np.array([not one.follows for one in examples])
    need_weights_N = base_N * np.where(sensitive, SENSITIVE_AS_NEEDLESS, 1.0).astype(np.float32) * alone_N
    heads = [(sensitive, sensitive_weights_N), (commercial, need_weights_N)]
    held_NH, blind_N = _held_out(examples, heads)
    need_bar = float(np.quantile(held_NH[neutral & alone_N, 1], 1 - NEEDLESS))
    needless_N = held_NH[:, 1] - need_bar <= -NEEDLESS_MARGIN
    threshold = _threshold(examples, held_NH[:, 0], needless_N, commercial)
    never_N = np.zeros(len(examples), np.bool_)
    blind_threshold = _threshold(examples, blind_N, never_N, commercial)
    withheld_N = _withheld(examples, held_NH[:, 0], needless_N, threshold)
    blind_withheld_N = _withheld(examples, blind_N, never_N, blind_threshold)
    found = {
        "examples": len(examples),
        "sensitive_withheld": round(float(withheld_N[sensitive].mean()), 3),
        "sensitive_withheld_by_text_alone": round(float(blind_withheld_N[sensitive].mean()), 3),
        "commercial_withheld": round(float(withheld_N[commercial].mean()), 3),
        "neutral_withheld": round(float(withheld_N[neutral].mean()), 3),
        "neutral_with_need": NEEDLESS,
        "commercial_with_need": round(float((held_NH[commercial & alone_N, 1] > need_bar).mean()), 3),
        "sensitive_admitted": round(float((~withheld_N & (held_NH[:, 1] > need_bar))[sensitive].mean()), 3),
    }
    print(json.dumps(found))
    rows = np.arange(len(examples))
    fitted = [_fit(examples, rows, target, weights, ROWS) for target, weights in heads]
    about = np.flatnonzero(sensitive)
    fitted += [
        _fit(examples, about, labels == topic.value, np.where(labels == topic.value, 8.0, 1.0), TOPIC_ROWS, 1)
        for topic in Topic
    ]
    dense_HF = np.stack([one.dense_F for one in fitted])
    width = (dense_HF.shape[1] - len(Topic)) // 2
    arrays: dict[str, Any] = {
        "pieces_R2": np.stack([one.pieces_R for one in fitted[:2]], 1),
        "topic_pieces_RT": np.stack([one.pieces_R for one in fitted[2:]], 1),
        "english_HD": dense_HF[:, :width] * LENGTHS[0],
        "other_HD": dense_HF[:, width : 2 * width] * LENGTHS[0],
        "phrases_HT": dense_HF[:, 2 * width :] * LENGTHS[1],
        "biases_H": np.array([one.bias for one in fitted]),
        "blind_H": np.array([one.blind for one in fitted]),
    }
    np.savez_compressed(
        data / CLASSIFIER,
        topics=np.array([topic.value for topic in Topic]),
        threshold=np.float32(threshold),
        blind_threshold=np.float32(blind_threshold),
        need_bar=np.float32(need_bar),
        probe_D=shared_encoder().encode([PROBE])[0],
        **{name: array.astype(np.float16) for name, array in arrays.items()},
    )


def _examples(folder: Path) -> list[Example]:
    written: list[tuple[str, str, float, bool]] = []
    for file in sorted(folder.glob("*.yaml")):
        for label, block in yaml.safe_load(file.read_text(encoding="utf-8")).items():
            written += [(text, label, 1.0, False) for text in lines(block)]
    written += [
        (question.text, COMMERCIAL if question.need else NEUTRAL, WORLD_WEIGHT, bool(question.turns))
        for question in everyday_questions()
    ]
    vectors_ND = shared_encoder().encode([text for text, *_ in written])
    topics = list(Topic)
    examples = []
    for (text, label, weight, follows), vector_D in zip(written, vectors_ND, strict=True):
        none_D = np.zeros_like(vector_D)
        seen = LENGTHS[0] * vector_D
        phrases_T = np.zeros(len(topics), np.float32)
        phrases_T[[topics.index(topic) for topic in shared_rules().topics(text)]] = LENGTHS[1]
        dense = np.concatenate([seen, none_D, phrases_T] if is_english(text) else [none_D, seen, phrases_T])
        examples.append(Example(label, weight, grams_of(text), dense, follows))
    return examples


def _held_out(examples: Sequence[Example], heads: Sequence[tuple[Any, Array]]) -> tuple[Array, Array]:
    """Return logits (N, 2) of examples that the heads were not fitted to, and those (N,) without vectors."""
    folds_N = np.random.default_rng(0).integers(0, FOLDS, len(examples))
    logits_NH, blind_N = np.zeros((len(examples), 2), np.float32), np.zeros(len(examples), np.float32)
    for fold in range(FOLDS):
        kept, held = np.flatnonzero(folds_N != fold), np.flatnonzero(folds_N == fold)
        apart = [examples[number] for number in held.tolist()]
        for head, (target, weights) in enumerate(heads):
            fitted = _fit(examples, kept, target, weights, ROWS, 1)
            logits_NH[held, head] = [_logit(fitted, one) for one in apart]
            if head == 0:
                blind_N[held] = [_logit(fitted, one, hidden=True) for one in apart]
    return logits_NH, blind_N


def _withheld(examples: Sequence[Example], logits_N: Array, needless_N: Any, threshold: float) -> Any:
    """Return by example whether the gate withholds ads, as `serving.auction.sensitive.gate` decides on one message."""
    phrases_NT = np.stack([one.dense[-len(Topic) :] > 0 for one in examples])
    certain_N = phrases_NT[:, [topic in CERTAIN for topic in Topic]].any(1)
    margins_N = logits_N - threshold
    found_N = margins_N > np.where(needless_N, -STRICT_MARGIN, 0.0)
    return found_N | certain_N | (phrases_NT.any(1) & (margins_N > -OVERRULED))


def _threshold(examples: Sequence[Example], logits_N: Array, needless_N: Any, commercial: Any) -> float:
    """Return the lowest threshold, in steps of 0.05, at which few commercial examples are withheld."""
    steps = np.arange(-3.0, 8.0, 0.05)
    return next(
        (float(step) for step in steps if _withheld(examples, logits_N, needless_N, step)[commercial].mean() <= LOST),
        float(steps[-1]),
    )


def _logit(weights: Weights, example: Example, hidden: bool = False) -> float:
    rows = example.grams.hashes_P & (len(weights.pieces_R) - 1)
    dense_F = _hide(example.dense) if hidden else example.dense
    return float(example.grams.weights_P @ weights.pieces_R[rows] + weights.dense_F @ dense_F) + (
        weights.bias + weights.blind * hidden
    )


def _hide(dense_F: Array) -> Array:
    hidden_F = dense_F.copy()
    hidden_F[: -len(Topic)] = 0
    return hidden_F


def _fit(
    examples: Sequence[Example], numbers: NDArray[np.int64], target: Any, weight: Any, size: int, seeds: int = SEEDS
) -> Weights:
    """Fit one head; `target` and `weight` are by example, `size` is the number of rows of pieces."""
    runs = [_descend(examples, numbers, target, weight, size, seed) for seed in range(seeds)]
    return Weights(
        np.mean([run.pieces_R for run in runs], 0),
        np.mean([run.dense_F for run in runs], 0),
        float(np.mean([run.bias for run in runs])),
        float(np.mean([run.blind for run in runs])),
    )


def _descend(
    examples: Sequence[Example], numbers: NDArray[np.int64], target: Any, weight: Any, size: int, seed: int
) -> Weights:
    random = np.random.default_rng(seed)
    pieces_R, dense_F, bias = np.zeros(size, np.float32), np.zeros(len(examples[0].dense), np.float32), np.zeros(2)
    sums_R, sums_F, sums = np.full(size, 0.01, np.float32), np.full(len(dense_F), 0.01, np.float32), np.full(2, 0.01)
    for _ in range(PASSES):
        for number in random.permutation(numbers):
            if not weight[number]:
                continue
            one = examples[number]
            hidden = random.random() < HIDDEN
            seen_F = _hide(one.dense) if hidden else one.dense
            rows, values = one.grams.hashes_P & (size - 1), one.grams.weights_P
            logit = float(values @ pieces_R[rows] + dense_F @ seen_F + bias[0] + bias[1] * hidden)
            error = float(weight[number]) * (1 / (1 + np.exp(-logit)) - float(target[number]))
            slopes = np.float32(error) * values
            sums_R[rows] += slopes * slopes
            pieces_R[rows] -= np.float32(RATE) * slopes / np.sqrt(sums_R[rows])
            slopes = np.float32(error) * seen_F
            sums_F += slopes * slopes
            dense_F -= np.float32(RATE) * slopes / np.sqrt(sums_F)
            for part in range(1 + hidden):
                sums[part] += error * error
                bias[part] -= RATE * error / np.sqrt(sums[part])
    return Weights(pieces_R, dense_F, float(bias[0]), float(bias[1]))


if __name__ == "__main__":
    main()

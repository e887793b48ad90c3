"""`python -m benchmarks.serving.fit_sensitive`: fit the classifiers of topics and of needs, and store their weights.

One logistic regression for each topic against all other examples, with everyday questions of the built-in world among
those that ads may stand beside. The threshold is the lowest at which, in a cross-validation, few of those are lost. A
need is learned from the same questions; its bar is where, in a cross-validation, few of those without one are above it.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from inference.encoder import shared_encoder
from serving.auction.sensitive.meaning import CLASSIFIER, PROBE
from serving.auction.sensitive.topics import Topic
from serving.lexicon import lines

NONE = "none"
FOLDS = 10
PENALTY = 0.02
STEPS = 400
RATE = 4.0
NEEDLESS = 0.05
"""Largest share of questions without a need that may be above the bar, in the cross-validation."""
LOST = 0.02
"""Largest share of questions with a need that the classifier may take for sensitive ones, in the cross-validation."""
Array = NDArray[np.float32]


def main() -> None:
    """Fit, print how it reads held-out examples, and write the weights."""
    data = Path(str(resources.files("serving.auction.sensitive") / "data"))
    messages, labels = _examples(data / "examples.yaml")
    vectors_ND = shared_encoder().encode(messages)
    topics = list(Topic)
    targets_NT = np.array([[label == topic.value for topic in topics] for label in labels], np.float32)
    logits_NT = np.zeros_like(targets_NT)
    folds_N = np.arange(len(messages)) % FOLDS
    for fold in range(FOLDS):
        weights_TD, biases_T = _fit(vectors_ND[folds_N != fold], targets_NT[folds_N != fold])
        logits_NT[folds_N == fold] = vectors_ND[folds_N == fold] @ weights_TD.T + biases_T
    needs = {entry["ask"] for entry in _questions() if "need" in entry}
    need_N, best_N = np.array([message in needs for message in messages]), logits_NT.max(1)
    threshold = float(np.quantile(best_N[need_N], 1 - LOST))
    recall = float((best_N[targets_NT.any(1)] > threshold).mean())
    weights_TD, biases_T = _fit(vectors_ND, targets_NT)
    probe_D = shared_encoder().encode([PROBE])[0]
    need_D, need_bar = _need()
    np.savez_compressed(
        data / CLASSIFIER,
        topics=np.array([topic.value for topic in topics]),
        weights=weights_TD.astype(np.float32),
        biases=biases_T.astype(np.float32),
        threshold=np.float32(threshold),
        need=need_D,
        need_bar=np.float32(need_bar),
        probe=probe_D,
    )
    found = {"examples": len(messages), "threshold": round(threshold, 3), "held_out_recall": round(recall, 3)}
    print(json.dumps(found))


def _examples(path: Path) -> tuple[list[str], list[str]]:
    messages: list[str] = []
    labels: list[str] = []
    for label, block in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        found = lines(block)
        messages += found
        labels += [label] * len(found)
    asked = [entry["ask"] for entry in _questions()]
    return messages + asked, labels + [NONE] * len(asked)


def _questions() -> list[dict[str, Any]]:
    """Return the built-in world's everyday questions; `need` is the category that would help, where one would."""
    folder = resources.files("simulator") / "data" / "questions"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return [entry for file in files for entry in yaml.safe_load(file.read_text(encoding="utf-8"))]


def _need() -> tuple[Array, float]:
    """Return the weights (D,) of a need and its bar; questions that follow earlier ones are left out."""
    alone = [entry for entry in _questions() if not entry.get("after")]
    vectors_ND = shared_encoder().encode([entry["ask"] for entry in alone])
    targets_N1 = np.array([["need" in entry] for entry in alone], np.float32)
    folds_N, logits_N = np.random.default_rng(0).integers(0, FOLDS, len(alone)), np.zeros(len(alone), np.float32)
    for fold in range(FOLDS):
        weights_1D, biases_1 = _fit(vectors_ND[folds_N != fold], targets_N1[folds_N != fold])
        logits_N[folds_N == fold] = vectors_ND[folds_N == fold] @ weights_1D[0] + biases_1[0]
    bar = float(np.quantile(logits_N[targets_N1[:, 0] == 0], 1 - NEEDLESS))
    weights_1D, biases_1 = _fit(vectors_ND, targets_N1)
    return weights_1D[0].astype(np.float32), bar - float(biases_1[0])


def _fit(vectors_ND: Array, targets_NT: Array) -> tuple[Array, Array]:
    """Return weights (T, D) and biases (T,) by gradient descent; both classes of a topic weigh the same."""
    positives_T = targets_NT.sum(0)
    weight_NT = np.where(targets_NT > 0, 0.5 / positives_T, 0.5 / (len(targets_NT) - positives_T))
    weights_TD = np.zeros((targets_NT.shape[1], vectors_ND.shape[1]), np.float32)
    biases_T = np.zeros(targets_NT.shape[1], np.float32)
    for _ in range(STEPS):
        errors_NT = weight_NT * (1 / (1 + np.exp(-(vectors_ND @ weights_TD.T + biases_T))) - targets_NT)
        weights_TD -= RATE * (errors_NT.T @ vectors_ND + PENALTY * weights_TD / 2).astype(np.float32)
        biases_T -= RATE * errors_NT.sum(0).astype(np.float32)
    return weights_TD, biases_T


if __name__ == "__main__":
    main()

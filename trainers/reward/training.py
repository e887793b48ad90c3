"""Fitting the pCTR model by binary cross-entropy (Eq. 4), and the quality of its predictions."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mechanism.errors import GuardError, InputError
from mechanism.types import Answer, Context
from trainers.config import RewardConfig
from trainers.reward.features import Encode, extract
from trainers.reward.model import PCTRModel, PCTRNetwork

Shown = tuple[Context, Answer, dict[str, bool]]
"""One shown answer and its clicks by ad id."""
MIN_SHOWN = 50
"""Fewest shown ads that a model is fitted to."""


@dataclass(frozen=True, slots=True)
class RewardQuality:
    """Quality on feedback that the model was not fitted to.

    Area under the ROC curve, log loss (nats), expected calibration error, click rate, and the calibration curve by
    tenths of the predictions.
    """

    examples: int
    auc: float
    log_loss: float
    calibration_error: float
    click_rate: float
    curve: dict[str, list[float]]


def fit(
    shown: Sequence[Shown],
    config: RewardConfig,
    encode: Encode,
    seed: int,
    seen: NDArray[np.float64] | None = None,
) -> tuple[PCTRModel, RewardQuality]:
    """Fit a new model to all shown answers; contexts, not ads, are split, so that no answer is on both sides.

    `seen`, shape (answers,), is the share F of each answer's clicks that the log can hold by now (None: all): a click
    is observed with probability pctr * F, so that a click still to come is not learned as no click
    (`trainers.logs.answers`). The pass with the lowest validation loss is kept.

    Raises:
        InputError: if there is too little feedback.
    """
    features = extract([(c, a) for c, a, _ in shown], encode)
    clicks = np.array([shown[o][2][ad] for o, ad in zip(features.owner_N, features.ads_N, strict=True)], np.float32)
    if len(clicks) < MIN_SHOWN or not 0 < clicks.sum() < len(clicks):
        found = f"{len(clicks)} shown ads, {int(clicks.sum())} clicks"
        remedy = (
            f"at least {MIN_SHOWN} shown ads, some clicked and some not, are needed: start a run with more "
            "feedback.contexts, or wait for more of them"
        )
        raise InputError("feedback", found, remedy)
    seen_N = np.ones(len(clicks)) if seen is None else np.asarray(seen, np.float64)[features.owner_N]
    rng = np.random.default_rng(seed)
    contexts = sorted({c.id for c, _, _ in shown})
    held = set(rng.permutation(contexts)[: max(1, round(config.validation * len(contexts)))].tolist())
    is_held = np.array([shown[o][0].id in held for o in features.owner_N])
    torch.manual_seed(seed)
    users = {u: i + 1 for i, u in enumerate(sorted(set(features.users_N) - {""}))}
    ads = {a: i + 1 for i, a in enumerate(sorted(set(features.ads_N)))}
    network = PCTRNetwork(features.dense_ND.shape[1], len(users), len(ads), config)
    model = PCTRModel(network, users, ads, encode)
    _descend(model, model.tensors(features), torch.from_numpy(clicks), torch.from_numpy(seen_N), is_held, config, rng)
    predicted = model.predict(features)
    side = is_held if is_held.any() else np.ones(len(clicks), bool)
    return model, measure(predicted[side], clicks[side], seen_N[side])


def click_loss(logits_N: torch.Tensor, clicks_N: torch.Tensor, seen_N: torch.Tensor) -> torch.Tensor:
    """Return the mean of -log P(clicks) up to a constant, with P(click observed) = sigmoid(logit) * seen.

    Where every click is seen this is binary cross-entropy (Eq. 4). 1 - F p = (1 + (1 - F) e^z) / (1 + e^z).
    """
    softplus = torch.nn.functional.softplus
    missed_N = logits_N + torch.log1p(-seen_N).to(logits_N)
    return (softplus(logits_N) - clicks_N * logits_N - (1 - clicks_N) * softplus(missed_N)).mean()


def _descend(
    model: PCTRModel,
    inputs: tuple[torch.Tensor, ...],
    clicks: torch.Tensor,
    seen: torch.Tensor,
    is_held: NDArray[np.bool_],
    config: RewardConfig,
    rng: np.random.Generator,
) -> None:
    optimiser = torch.optim.Adam(model.network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    everything_seen = bool((seen >= 1).all())

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        logits = model.network(*(t[rows] for t in inputs))
        if everything_seen:
            return torch.nn.functional.binary_cross_entropy_with_logits(logits, clicks[rows])
        return click_loss(logits, clicks[rows], seen[rows])

    fitted, held = np.flatnonzero(~is_held), np.flatnonzero(is_held)
    best: tuple[float, dict[str, Any]] | None = None
    for _ in range(config.passes):
        model.network.train()
        order = rng.permutation(fitted)
        for start in range(0, len(order), config.batch):
            rows = torch.from_numpy(order[start : start + config.batch])
            loss = loss_of(rows)
            if not torch.isfinite(loss):
                raise GuardError("nan", "the pCTR loss is not finite; lower reward.learning_rate", {})
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        model.network.eval()
        with torch.no_grad():
            rows = torch.from_numpy(held if len(held) else fitted)
            score = float(loss_of(rows))
        if best is None or score < best[0]:
            best = (score, copy.deepcopy(model.network.state_dict()))
    assert best is not None
    model.network.load_state_dict(best[1])


def measure(
    predicted: NDArray[np.float64], clicks: NDArray[np.float32], seen: NDArray[np.float64] | None = None
) -> RewardQuality:
    """Measure predictions against clicks, all of shape (N,).

    With `seen` (see `fit`) log loss and calibration are those of observable clicks; the AUC is that of the predictions
    themselves, which is slightly too low.
    """
    p = np.clip(predicted, 1e-6, 1 - 1e-6)
    due = p if seen is None else np.clip(p * seen, 1e-6, 1 - 1e-6)
    order = np.argsort(due, kind="stable")
    bins = [b for b in np.array_split(order, 10) if len(b)]
    curve = {
        "predicted": [float(due[b].mean()) for b in bins],
        "observed": [float(clicks[b].mean()) for b in bins],
        "count": [float(len(b)) for b in bins],
    }
    error = sum(len(b) * abs(due[b].mean() - clicks[b].mean()) for b in bins) / len(p)
    loss = -(clicks * np.log(due) + (1 - clicks) * np.log(1 - due)).mean()
    return RewardQuality(len(p), auc(p, clicks), float(loss), float(error), float(clicks.mean()), curve)


def auc(p: NDArray[np.float64], clicks: NDArray[np.float32]) -> float:
    """Return the probability that a clicked ad has a higher prediction than an unclicked one; ties count half."""
    positive = clicks > 0.5
    if positive.all() or not positive.any():
        return 0.5
    _, inverse, counts = np.unique(p, return_inverse=True, return_counts=True)
    upper = np.cumsum(counts)
    rank = (upper - (counts - 1) / 2)[inverse]
    n = int(positive.sum())
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * (len(p) - n)))

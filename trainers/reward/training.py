"""Fitting the pCTR model by binary cross-entropy (Eq. 4), and the quality of its predictions."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mechanism.errors import GuardError, InputError
from mechanism.types import Answer, Context
from trainers.config import RewardConfig
from trainers.reward.features import Encode, extract, spoken
from trainers.reward.model import PCTRModel
from trainers.reward.network import Inputs, Member, PCTRNetwork
from trainers.reward.words import WordWeights

Shown = tuple[Context, Answer, dict[str, bool]]
"""One shown answer and its clicks by ad id."""
MIN_SHOWN = 50
"""Fewest shown ads that a model is fitted to."""
PATIENCE = 6
"""Passes without a lower validation loss after which fitting stops."""
OFFSET_LIMIT, BISECTIONS = 2.0, 30
"""Largest correction of a logit in `calibrate`, and the halvings that find it."""
COMPARISON_RATE = 0.3
"""Learning rate of the comparisons' weights over that of the rest."""


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
    pairs = [(c, a) for c, a, _ in shown]
    words = WordWeights.of(spoken(pairs))
    features = extract(pairs, encode, words.cosine)
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
    held_MN = _held_out([shown[o][0].id for o in features.owner_N], config, rng)
    torch.manual_seed(seed)
    known = "ids" in config.features
    users = {u: i + 1 for i, u in enumerate(sorted(set(features.users_N) - {""}))} if known else {}
    ads = {a: i + 1 for i, a in enumerate(sorted(set(features.ads_N)))} if known else {}
    network = PCTRNetwork(len(users), len(ads), config)
    network.choose_axes(torch.from_numpy(features.texts_NKD))
    model = PCTRModel(network, users, ads, encode, words)
    inputs = model.inputs(features)
    for member in network.members:
        member.standardise(inputs)
    _descend(network, inputs, torch.from_numpy(clicks), torch.from_numpy(seen_N), held_MN, config, rng)
    for member, held_N in zip(network.members, held_MN, strict=True):
        fitted = torch.from_numpy(np.flatnonzero(~held_N))
        calibrate(member, inputs[fitted], torch.from_numpy(clicks)[fitted], torch.from_numpy(seen_N)[fitted])
    with torch.inference_mode():
        predicted_MN = network(inputs).double().numpy()
    is_held = held_MN.any(0)
    # Each ad by the members that were not fitted to it.
    predicted = (predicted_MN * held_MN)[:, is_held].sum(0) / held_MN[:, is_held].sum(0)
    return model, measure(predicted, clicks[is_held], seen_N[is_held])


def _held_out(contexts: Sequence[str], config: RewardConfig, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which ads, given by their contexts' ids, each member is not fitted to, shape (members, N).

    Members hold out different contexts as long as there are enough.
    """
    order = rng.permutation(sorted(set(contexts)))
    size = max(1, round(config.validation * len(order)))
    held = [set(np.roll(order, -k * size)[:size].tolist()) for k in range(config.members)]
    return np.array([[context in own for context in contexts] for own in held])


def click_loss(logits_N: torch.Tensor, clicks_N: torch.Tensor, seen_N: torch.Tensor) -> torch.Tensor:
    """Return the mean of -log P(clicks) up to a constant, with P(click observed) = sigmoid(logit) * seen.

    Where every click is seen this is binary cross-entropy (Eq. 4). 1 - F p = (1 + (1 - F) e^z) / (1 + e^z).
    """
    softplus = torch.nn.functional.softplus
    missed_N = logits_N + torch.log1p(-seen_N).to(logits_N)
    return (softplus(logits_N) - clicks_N * logits_N - (1 - clicks_N) * softplus(missed_N)).mean()


def _descend(
    network: PCTRNetwork,
    inputs: Inputs,
    clicks: torch.Tensor,
    seen: torch.Tensor,
    held_MN: NDArray[np.bool_],
    config: RewardConfig,
    rng: np.random.Generator,
) -> None:
    """Fit all members pass by pass; keep the pass after which their mean loss on what they hold out is lowest.

    Raises:
        GuardError: if a loss is not finite.
    """
    everything_seen = bool((seen >= 1).all())

    def loss_of(member: Member, rows_N: NDArray[np.int64]) -> torch.Tensor:
        rows = torch.from_numpy(rows_N)
        logits = member(inputs[rows])
        if everything_seen:
            return torch.nn.functional.binary_cross_entropy_with_logits(logits, clicks[rows])
        return click_loss(logits, clicks[rows], seen[rows])

    optimisers = [_optimiser(member, config) for member in network.members]
    fitted, held = ([np.flatnonzero(side) for side in sides] for sides in (~held_MN, held_MN))
    best: tuple[float, int, dict[str, Any]] | None = None
    for number in range(config.passes):
        network.train()
        for member, optimiser, rows in zip(network.members, optimisers, fitted, strict=True):
            order = rng.permutation(rows)
            for start in range(0, len(order), config.batch):
                loss = loss_of(member, order[start : start + config.batch])
                if not torch.isfinite(loss):
                    raise GuardError("nan", "the pCTR loss is not finite; lower reward.learning_rate", {})
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
        network.eval()
        with torch.no_grad():
            score = float(np.mean([float(loss_of(m, r)) for m, r in zip(network.members, held, strict=True)]))
        if best is None or score < best[0]:
            best = (score, number, copy.deepcopy(network.state_dict()))
        elif number - best[1] >= PATIENCE:
            break
    assert best is not None
    network.load_state_dict(best[2])


def _optimiser(member: Member, config: RewardConfig) -> torch.optim.Optimizer:
    """Return AdamW; comparisons start at a good place and are not pulled towards 0."""
    compared = member.comparisons()
    others = [p for p in member.parameters() if all(p is not c for c in compared)]
    groups: list[dict[str, Any]] = [
        {"params": others},
        {"params": compared, "lr": COMPARISON_RATE * config.learning_rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, config.learning_rate, weight_decay=config.weight_decay)


@torch.no_grad()
def calibrate(member: Member, inputs: Inputs, clicks: torch.Tensor, seen: torch.Tensor) -> None:
    """Set the member's offsets so that forecasts add up to the clicks, with users and ads known and taken as unknown.

    Stochastic steps leave the level of each of the four cases a few percent off: a new ad would lose or win by that
    beside a known one with the same texts.
    """
    member.eval()
    for user, ad in ((0, 0), (0, 1), (1, 0), (1, 1)):
        # A user without consent is unknown in every case.
        rows = torch.nonzero(((inputs.users_N > 0) | (user == 0)) & ((inputs.ads_N > 0) | (ad == 0)))[:, 0]
        if not len(rows):
            continue
        case = inputs[rows]
        logits = member(dataclasses.replace(case, users_N=case.users_N * user, ads_N=case.ads_N * ad)).double()
        low, high = -OFFSET_LIMIT, OFFSET_LIMIT
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            forecast = (seen[rows] * (logits + middle).sigmoid()).mean()
            low, high = (middle, high) if forecast < clicks[rows].double().mean() else (low, middle)
        member.offsets[user, ad] = (low + high) / 2


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

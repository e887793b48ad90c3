"""The pCTR network: pctr_i = sigmoid(MLP([texts; e_user; e_ad])) (arXiv 2512.10551, Eq. 3), as an ensemble.

Clicks are few: the first epoch has about a thousand shown ads. So the network begins with a guess that costs no clicks,
the cosine of each pair of texts, and learns from there which directions of the text space count; identities are dropped
at random, so that they add to the texts and cannot replace them; and several members, each fitted without another part
of the contexts, are averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch
from torch import nn

from trainers.config import RewardConfig
from trainers.reward.features import OVERLAPS, SCALARS, TEXT_WIDTH, TEXTS

PAIRS: Final = (
    ("query", "offer"),
    ("query", "title"),
    ("conversation", "offer"),
    ("interests", "offer"),
    ("history", "offer"),
    ("answer", "offer"),
    ("before", "offer"),
    ("sentence", "offer"),
    ("others", "offer"),
    ("query", "sentence"),
    ("query", "answer"),
)
"""Texts that are compared."""
TEXTS_OF: Final = {"user": ("interests", "history"), "answer": ("answer", "before"), "ad": ("title", "offer")}
"""Texts of a feature group that is not named as its only text is."""
SCALARS_OF: Final = {
    "layout": ("ads", "repeats", "place", "sentence", "sentences", "words"),
    "query": ("query_overlap",),
    "user": ("profile", "interests_overlap", "history_overlap"),
    "conversation": ("turns", "conversation_overlap"),
    "answer": ("before_overlap",),
    "sentence": ("sentence_overlap", "topic_overlap"),
    "others": ("same_category", "others_overlap"),
}
"""Numbers of each feature group."""
COMPARED_WITH: Final = {**dict.fromkeys((*OVERLAPS, "sentence_overlap"), "ad"), "topic_overlap": "query"}
"""The other feature group that an overlap of words reads: without either of the two there is no such number."""
READ: Final = ("query", "answer", "sentence", "offer")
"""Texts whose coordinates the network reads, beside their comparisons."""
AXES = 64
"""Principal axes of the text space that a comparison weighs one by one; it weighs the rest of the space as a whole."""
COORDINATES = 4
"""Leading coordinates of each of READ: more would be fitted to a few thousand clicks by heart."""
COORDINATE_GAIN = 0.1
"""Standard deviation of a coordinate beside comparisons and numbers of standard deviation 1."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Inputs of the network for N shown ads.

    `axes_NKA`: coordinates of TEXTS on the principal axes; `rests_NR`: what the axes leave of each pair's cosine;
    `scalars_NS`; `users_N`, `ads_N`: rows of the embedding tables.
    """

    axes_NKA: torch.Tensor
    rests_NR: torch.Tensor
    scalars_NS: torch.Tensor
    users_N: torch.Tensor
    ads_N: torch.Tensor

    def __getitem__(self, rows: torch.Tensor) -> Inputs:
        return Inputs(
            self.axes_NKA[rows], self.rests_NR[rows], self.scalars_NS[rows], self.users_N[rows], self.ads_N[rows]
        )


class Member(nn.Module):
    """One network of the ensemble. Row 0 of each embedding table is for users and ads that training has not seen."""

    mean: torch.Tensor
    deviation: torch.Tensor
    offsets: torch.Tensor
    """Added to logits, by whether user and ad are known, shape (2, 2); see `training.calibrate`."""

    def __init__(self, users: int, ads: int, config: RewardConfig) -> None:
        super().__init__()
        self.id_dropout = config.id_dropout
        names = [name for group in config.features for name in TEXTS_OF.get(group, (group,))]
        pairs = [r for r, pair in enumerate(PAIRS) if set(pair) <= set(names)]
        self.pairs = torch.tensor(pairs, dtype=torch.int64)
        self.left, self.right = (
            torch.tensor([TEXTS.index(PAIRS[r][side]) for r in pairs], dtype=torch.int64) for side in (0, 1)
        )
        self.read = torch.tensor([TEXTS.index(name) for name in READ if name in names], dtype=torch.int64)
        scalars = [
            name
            for group in config.features
            for name in SCALARS_OF.get(group, ())
            if COMPARED_WITH.get(name, group) in config.features
        ]
        self.scalars = torch.tensor([SCALARS.index(name) for name in scalars], dtype=torch.int64)
        self.weights_RA = nn.Parameter(torch.ones(len(pairs), AXES))
        self.rest_R = nn.Parameter(torch.ones(len(pairs)))
        coordinates, others = len(self.read) * COORDINATES, len(pairs) + len(scalars)
        self.gain = torch.cat([torch.full((coordinates,), COORDINATE_GAIN), torch.ones(others)])
        self.register_buffer("mean", torch.zeros(coordinates + others))
        self.register_buffer("deviation", torch.ones(coordinates + others))
        self.register_buffer("offsets", torch.zeros(2, 2))
        self.user = _identities(users, config.user_width)
        self.ad = _identities(ads, config.ad_width)
        widths = [coordinates + others + config.user_width + config.ad_width, *config.hidden]
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def comparisons(self) -> list[nn.Parameter]:
        """Return the weights of the comparisons, which start as cosines."""
        return [self.weights_RA, self.rest_R]

    def dense(self, inputs: Inputs) -> torch.Tensor:
        """Return coordinates, comparisons and numbers as they come, shape (N, features)."""
        read = inputs.axes_NKA[:, self.read, :COORDINATES].flatten(1)
        products_NRA = inputs.axes_NKA[:, self.left] * inputs.axes_NKA[:, self.right]
        compared_NR = (products_NRA * self.weights_RA).sum(-1) + self.rest_R * inputs.rests_NR[:, self.pairs]
        return torch.cat([read, compared_NR, inputs.scalars_NS[:, self.scalars]], dim=1)

    @torch.no_grad()
    def standardise(self, inputs: Inputs) -> None:
        """Measure mean and deviation of the dense features, as they are before training."""
        dense = self.dense(inputs)
        deviation = (dense - dense.mean(0)).square().mean(0).sqrt()
        self.mean.copy_(dense.mean(0))
        # A feature that never changes here must not explode where it does.
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """Return logits, shape (N,); while training, ids are replaced by the unknown row at the rate `id_dropout`."""
        dense = (self.dense(inputs) - self.mean) / self.deviation * self.gain
        users_N, ads_N = self._dropped(inputs.users_N), self._dropped(inputs.ads_N)
        logits: torch.Tensor = self.mlp(torch.cat([dense, self.user(users_N), self.ad(ads_N)], dim=1))[:, 0]
        return logits + self.offsets[(users_N > 0).long(), (ads_N > 0).long()]

    def _dropped(self, ids_N: torch.Tensor) -> torch.Tensor:
        return ids_N * (torch.rand(ids_N.shape) >= self.id_dropout) if self.training else ids_N


def _identities(count: int, width: int) -> nn.Embedding:
    """Return embeddings of `count` ids after row 0, the unknown one, which stays 0: nothing is known of it.

    The others begin close to it: with a handful of clicks per user, an identity must earn its influence.
    """
    embedding = nn.Embedding(count + 1, width, padding_idx=0)
    nn.init.normal_(embedding.weight, std=0.01)
    with torch.no_grad():
        embedding.weight[0] = 0.0
    return embedding


class PCTRNetwork(nn.Module):
    """The members, and the principal axes of the text space that they share."""

    axes_DA: torch.Tensor

    def __init__(self, users: int, ads: int, config: RewardConfig) -> None:
        super().__init__()
        self.register_buffer("axes_DA", torch.zeros(TEXT_WIDTH, AXES))
        self.members = tuple(Member(users, ads, config) for _ in range(config.members))
        self.ensemble = nn.ModuleList(self.members)

    @torch.no_grad()
    def choose_axes(self, texts_NKD: torch.Tensor) -> None:
        """Take the leading principal axes, about the origin, of all texts."""
        texts = texts_NKD.flatten(0, 1).double()
        self.axes_DA.copy_(torch.linalg.eigh(texts.T @ texts).eigenvectors[:, -AXES:].flip(1))

    @torch.no_grad()
    def inputs(
        self, texts_NKD: torch.Tensor, scalars_NS: torch.Tensor, users_N: torch.Tensor, ads_N: torch.Tensor
    ) -> Inputs:
        """Return the inputs of the members, with texts on the principal axes."""
        axes_NKA = texts_NKD @ self.axes_DA
        left, right = ([TEXTS.index(pair[side]) for pair in PAIRS] for side in (0, 1))
        cosines_NR = (texts_NKD[:, left] * texts_NKD[:, right]).sum(-1)
        rests_NR = cosines_NR - (axes_NKA[:, left] * axes_NKA[:, right]).sum(-1)
        return Inputs(axes_NKA, rests_NR, scalars_NS, users_N, ads_N)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """Return the click probability by each member, shape (members, N)."""
        return torch.stack([member(inputs) for member in self.members]).sigmoid()

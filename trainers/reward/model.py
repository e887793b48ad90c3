"""The pCTR network: pctr_i = sigmoid(MLP([texts and scalars; e_user; e_ad])) (Eq. 3)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

from mechanism.errors import PolicyError
from mechanism.types import AdId, Answer, Context
from simulator.clicks import ClickModel
from trainers.config import RewardConfig
from trainers.reward.features import Encode, Features, extract


class ClickPredictor(Protocol):
    """Predicts how likely each shown ad of each answer is to be clicked."""

    def probabilities(self, pairs: Sequence[tuple[Context, Answer]]) -> list[dict[AdId, float]]:
        """Return one dict per (context, answer): click probability by shown ad."""
        ...


class PCTRNetwork(nn.Module):
    """Logits of shown ads. Row 0 of each embedding table is for users and ads that training has not seen."""

    def __init__(self, dense: int, users: int, ads: int, config: RewardConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dense)
        self.user = nn.Embedding(users + 1, config.user_width)
        self.ad = nn.Embedding(ads + 1, config.ad_width)
        # Small at first: with a handful of clicks per user, an identity must earn its influence.
        nn.init.normal_(self.user.weight, std=0.01)
        nn.init.normal_(self.ad.weight, std=0.01)
        widths = [dense + config.user_width + config.ad_width, *config.hidden]
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, dense_ND: torch.Tensor, users_N: torch.Tensor, ads_N: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (N,)."""
        inputs = torch.cat([dense_ND, self.user(users_N), self.ad(ads_N)], dim=-1)
        logits: torch.Tensor = self.mlp(inputs)[:, 0]
        return logits


class PCTRModel:
    """A network with the ids it knows; implements ClickPredictor."""

    def __init__(self, network: PCTRNetwork, users: Mapping[str, int], ads: Mapping[str, int], encode: Encode) -> None:
        self.network = network
        self.users = dict(users)
        self.ads = dict(ads)
        self._encode = encode

    def tensors(self, features: Features) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the network's inputs for extracted features."""
        users = torch.tensor([self.users.get(u, 0) for u in features.users_N], dtype=torch.int64)
        ads = torch.tensor([self.ads.get(a, 0) for a in features.ads_N], dtype=torch.int64)
        return torch.from_numpy(features.dense_ND), users, ads

    def predict(self, features: Features) -> NDArray[np.float64]:
        """Return click probabilities, shape (N,)."""
        self.network.eval()
        with torch.inference_mode():
            logits_N: torch.Tensor = self.network(*self.tensors(features))
        return np.asarray(logits_N.sigmoid().double().numpy())

    def probabilities(self, pairs: Sequence[tuple[Context, Answer]]) -> list[dict[AdId, float]]:
        """Return the click probability by shown ad for every answer."""
        features = extract(pairs, self._encode)
        result: list[dict[AdId, float]] = [{} for _ in pairs]
        for owner, ad, p in zip(features.owner_N, features.ads_N, self.predict(features), strict=True):
            result[owner][ad] = float(p)
        return result

    def save(self, folder: Path, config: RewardConfig) -> None:
        """Write `pctr.safetensors` and `pctr.json`."""
        save_file(self.network.state_dict(), folder / "pctr.safetensors")
        about: dict[str, Any] = {
            "dense": self.network.norm.normalized_shape[0],
            "users": self.users,
            "ads": self.ads,
            "config": config.model_dump(mode="json"),
        }
        (folder / "pctr.json").write_text(json.dumps(about), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, encode: Encode) -> PCTRModel:
        """Read a model that `save` wrote.

        Raises:
            PolicyError: if the folder holds no readable model.
        """
        try:
            about = json.loads((folder / "pctr.json").read_text(encoding="utf-8"))
            config = RewardConfig.model_validate(about["config"])
            network = PCTRNetwork(about["dense"], len(about["users"]), len(about["ads"]), config)
            network.load_state_dict(load_file(folder / "pctr.safetensors"))
        except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise PolicyError(f"{folder} holds no readable pCTR model: {error}") from error
        return cls(network, about["users"], about["ads"], encode)


class OraclePredictor:
    """The simulator's true click probabilities in place of a learned model; implements ClickPredictor."""

    def __init__(self, clicks: ClickModel) -> None:
        self._clicks = clicks

    def probabilities(self, pairs: Sequence[tuple[Context, Answer]]) -> list[dict[AdId, float]]:
        """Return the true click probability by shown ad for every answer."""
        return [self._clicks.probabilities(context, answer) for context, answer in pairs]

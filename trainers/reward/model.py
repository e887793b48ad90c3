"""Click predictors: the fitted pCTR model with the ids that it knows, and the simulator's truth in its place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from mechanism.errors import PolicyError
from mechanism.types import AdId, Answer, Context
from simulator.clicks import ClickModel
from trainers.config import RewardConfig
from trainers.reward.features import Encode, Features, extract
from trainers.reward.network import Inputs, PCTRNetwork
from trainers.reward.words import WordWeights


class ClickPredictor(Protocol):
    """Predicts how likely each shown ad of each answer is to be clicked."""

    def probabilities(self, pairs: Sequence[tuple[Context, Answer]]) -> list[dict[AdId, float]]:
        """Return one dict per (context, answer): click probability by shown ad."""
        ...


class PCTRModel:
    """A network with the ids it knows; implements ClickPredictor."""

    def __init__(
        self,
        network: PCTRNetwork,
        users: Mapping[str, int],
        ads: Mapping[str, int],
        encode: Encode,
        words: WordWeights,
    ) -> None:
        self.network = network
        self.users = dict(users)
        self.ads = dict(ads)
        self.words = words
        self._encode = encode

    def inputs(self, features: Features) -> Inputs:
        """Return the network's inputs for extracted features; unknown ids are row 0."""
        return self.network.inputs(
            torch.from_numpy(features.texts_NKD),
            torch.from_numpy(features.scalars_NS),
            torch.tensor([self.users.get(u, 0) for u in features.users_N], dtype=torch.int64),
            torch.tensor([self.ads.get(a, 0) for a in features.ads_N], dtype=torch.int64),
        )

    def predict(self, features: Features) -> NDArray[np.float64]:
        """Return click probabilities, shape (N,): the mean of the members'."""
        self.network.eval()
        with torch.inference_mode():
            predicted_MN: torch.Tensor = self.network(self.inputs(features))
        return np.asarray(predicted_MN.double().mean(0).numpy())

    def probabilities(self, pairs: Sequence[tuple[Context, Answer]]) -> list[dict[AdId, float]]:
        """Return the click probability by shown ad for every answer."""
        features = extract(pairs, self._encode, self.words.cosine)
        result: list[dict[AdId, float]] = [{} for _ in pairs]
        for owner, ad, p in zip(features.owner_N, features.ads_N, self.predict(features), strict=True):
            result[owner][ad] = float(p)
        return result

    def save(self, folder: Path, config: RewardConfig) -> None:
        """Write `pctr.safetensors` and `pctr.json`."""
        save_file(self.network.state_dict(), folder / "pctr.safetensors")
        about: dict[str, Any] = {
            "users": self.users,
            "ads": self.ads,
            "words": self.words.weights,
            "unseen_word": self.words.unseen,
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
            network = PCTRNetwork(len(about["users"]), len(about["ads"]), config)
            network.load_state_dict(load_file(folder / "pctr.safetensors"))
            words = WordWeights(about["words"], about["unseen_word"])
        except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise PolicyError(f"{folder} holds no readable pCTR model: {error}") from error
        return cls(network, about["users"], about["ads"], encode, words)


class OraclePredictor:
    """The simulator's true click probabilities in place of a learned model; implements ClickPredictor."""

    def __init__(self, clicks: ClickModel) -> None:
        self._clicks = clicks

    def probabilities(self, pairs: Sequence[tuple[Context, Answer]]) -> list[dict[AdId, float]]:
        """Return the true click probability by shown ad for every answer."""
        return [self._clicks.probabilities(context, answer) for context, answer in pairs]

"""The world of a run, built from its configuration, and the contexts drawn from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from mechanism.errors import ConfigError
from mechanism.types import Ad, Context
from simulator.everyday_world import EverydayWorld
from simulator.imported_world import ImportedWorld
from simulator.importers import LOADERS, load_tables
from simulator.world import Query, World
from trainers.config import WorldConfig
from trainers.irpo.preference_pairs import redraw_bids


class TrainingWorld(Protocol):
    """The built-in world, or imported queries and ads."""

    @property
    def ads(self) -> tuple[Ad, ...]: ...
    @property
    def train_queries(self) -> tuple[Query, ...]: ...
    @property
    def test_queries(self) -> tuple[Query, ...]: ...

    def sample_context(self, query: Query, rng: np.random.Generator, candidates: int = 20) -> Context:
        """Draw a context with fresh bids."""
        ...


def build_world(config: WorldConfig) -> TrainingWorld:
    """Build the world that `config` names; `llm-auction data` reports the rows that are refused at import.

    Raises:
        ConfigError: if `config.path` lacks the world's files.
    """
    if config.kind == "builtin":
        return World(config.seed)
    if config.kind == "everyday":
        return EverydayWorld(config.seed)
    assert config.path is not None
    folder = Path(config.path)
    if not folder.is_dir():
        raise ConfigError("world.path", config.path, "the folder does not exist")
    if config.kind in LOADERS:
        # The prompts of GEM-Bench have no labels; elsewhere an unlabelled query is one whose ads were refused.
        labelled_only = config.kind != "gem-bench"
        return ImportedWorld(LOADERS[config.kind](folder), labelled_only=labelled_only, plain=config.plain)
    files = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix in (".csv", ".jsonl")}
    if "catalogue" not in files or "queries" not in files:
        raise ConfigError("world.path", config.path, "needs catalogue.csv (or .jsonl) and queries.csv (or .jsonl)")
    return ImportedWorld(load_tables(files["catalogue"], files["queries"]), plain=config.plain)


class ContextSource:
    """Draws the contexts of a run, deterministic by seed, epoch and purpose; validation queries are kept apart."""

    def __init__(self, world: TrainingWorld, config: WorldConfig, seed: int, validation: int) -> None:
        self.world = world
        self.candidates = config.candidates
        self.seed = seed
        order = np.random.default_rng([seed, 7]).permutation(len(world.train_queries))
        held = min(validation, len(order) // 5)
        self._validation = [world.train_queries[i] for i in order[:held]]
        self._training = [world.train_queries[i] for i in order[held:]]

    def training(self, count: int, epoch: int, purpose: int) -> list[Context]:
        """Draw `count` contexts, every training query once before any comes twice."""
        rng = np.random.default_rng([self.seed, epoch, purpose])
        chosen: list[Query] = []
        while len(chosen) < count:
            chosen += [self._training[i] for i in rng.permutation(len(self._training))]
        return self._contexts(chosen[:count], rng)

    def validation(self) -> list[Context]:
        """Return the same contexts every time."""
        return self._contexts(self._validation, np.random.default_rng([self.seed, 8]))

    def test(self, count: int) -> list[Context]:
        """Draw held-out queries with fresh bids."""
        rng = np.random.default_rng([self.seed, 9])
        order = rng.permutation(len(self.world.test_queries))[:count]
        return self._contexts([self.world.test_queries[i] for i in order], rng)

    def redraw(self, context: Context, rng: np.random.Generator) -> Context:
        """Return the context with fresh bids."""
        return redraw_bids(context, rng)

    def _contexts(self, queries: Sequence[Query], rng: np.random.Generator) -> list[Context]:
        return [self.world.sample_context(q, rng, self.candidates) for q in queries]

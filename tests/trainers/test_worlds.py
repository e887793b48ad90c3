"""Worlds of imported data sets, by their kind in a configuration."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mechanism.errors import ConfigError, InputError
from trainers.config import WorldConfig
from trainers.irpo.worlds import build_world


def naiad(folder: Path) -> None:
    scores = dict.fromkeys(("q1", "q2", "q3", "q4"), 3)
    ad = {"ad_name": "Mountain Leaf", "ad_info": "Green tea.", "ad_label": "tea", "logic_bridge": "", "strategy": ""}
    rows = [
        {"id": str(n), "query": f"question {n}?", "category": ["tea"], **ad, "ppied_scores": scores} for n in range(8)
    ]
    written = "\n".join(json.dumps({**row, "response": "Mountain Leaf is one."}) for row in rows)
    (folder / "NaiAD_main.jsonl").write_text(written)
    human = {"id": "h", "query": "which kettle?", "response": "Any.", "ppied_scores": scores}
    (folder / "NaiAD_human.jsonl").write_text(json.dumps(human))


def gem_bench(folder: Path) -> None:
    (folder / "product").mkdir()
    (folder / "LM_Market").mkdir()
    products = {"tea": {"names": ["Leaf", "Bag"], "urls": ["", ""], "descs": ["Loose.", "In bags."]}}
    (folder / "product/products.json").write_text(json.dumps(products))
    prompts = [{"prompt": f"question {n}?", "category": None} for n in range(8)]
    (folder / "LM_Market/asked.json").write_text(json.dumps(prompts))


def test_a_naiad_world_asks_the_labelled_queries_and_shows_their_ads(tmp_path: Path) -> None:
    naiad(tmp_path)
    world = build_world(WorldConfig(kind="naiad", path=str(tmp_path)))
    asked = [*world.train_queries, *world.test_queries]
    assert sorted(q.text for q in asked) == [f"question {n}?" for n in range(8)]
    context = world.sample_context(asked[0], np.random.default_rng(0))
    assert [c.ad.title for c in context.candidates] == ["Mountain Leaf"]


def test_a_gem_bench_world_asks_prompts_that_have_no_label(tmp_path: Path) -> None:
    gem_bench(tmp_path)
    world = build_world(WorldConfig(kind="gem-bench", path=str(tmp_path)))
    assert len(world.train_queries) + len(world.test_queries) == 8
    assert {ad.title for ad in world.ads} == {"Leaf", "Bag"}


def test_a_folder_without_the_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no data"):
        build_world(WorldConfig(kind="native-ads", path=str(tmp_path)))
    with pytest.raises(ConfigError, match="does not exist"):
        build_world(WorldConfig(kind="gem-bench", path=str(tmp_path / "none")))

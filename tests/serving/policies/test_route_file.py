"""The route file's form, and the split of questions by weight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanism.errors import ConfigError
from serving.policies.route_file import choose, parse_routes, read_routes

A, B = "a" * 64, "b" * 64


def routes_file(*versions: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"versions": list(versions), **fields}).encode()


def version(name: str = "v1", weight: int = 100, policy: str = "models/v1", digest: str = A) -> dict[str, Any]:
    return {"name": name, "weight": weight, "policy": policy, "digest": digest}


def test_a_file_is_read_with_its_generation(tmp_path: Path) -> None:
    path = tmp_path / "routes.json"
    path.write_bytes(routes_file(version(weight=90), version("v2", 10, "triton [::1]:8001", B), generation=7))
    routes = read_routes(path)
    assert routes.generation == 7
    assert [(v.name, v.weight, v.server) for v in routes.versions] == [("v1", 90, ""), ("v2", 10, "[::1]:8001")]


@pytest.mark.parametrize(
    ("data", "place", "remedy"),
    [
        (b"{", "routes", "truncated"),
        (routes_file(version(weight=101)), "versions[0].weight", "from 0 to 100"),
        (routes_file(version(weight=-1)), "versions[0].weight", "from 0 to 100"),
        (routes_file(version(weight=60)), "versions", "sum to 100"),
        (routes_file(), "versions", "sum to 100"),
        (routes_file(version(weight=50), version(weight=50)), "versions[1].name", "once"),
        (routes_file(version(name="a b")), "versions[0].name", "letters"),
        (routes_file(version(digest="ABC")), "versions[0].digest", "hexadecimal"),
        (routes_file(version(policy=" ")), "versions[0].policy", "folder"),
        (routes_file(version(policy="triton nowhere")), "versions[0].policy", "HOST:PORT"),
        (routes_file(version(policy="triton host:99999")), "versions[0].policy", "HOST:PORT"),
        (routes_file(version() | {"revision": "x"}), "versions[0].revision", "hexadecimal"),
        (routes_file(version(policy="triton h:1") | {"base": "abc"}), "versions[0].base", "hexadecimal"),
        (routes_file(version() | {"base": B}), "versions[0].base", "leave it out"),
        (routes_file(version(), generation=-1), "generation", ">= 0"),
        (routes_file(version() | {"wieght": 3}), "routes", "wieght"),
        (routes_file(version() | {"weight": "100"}), "routes", "$.versions[0].weight"),
        (b" " * 1_000_001, "routes", "at most"),
    ],
)
def test_a_bad_file_is_refused_with_place_and_remedy(data: bytes, place: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_routes(data, "routes")
    assert place in refused.value.place
    assert remedy in str(refused.value)


def test_servers_and_a_base_can_be_told_apart() -> None:
    new = {**version("v1+0a1b2c3d4e5f", 10, "triton host:8001"), "revision": "0a1b2c3d4e5f", "base": B}
    routes = parse_routes(routes_file(version(weight=90), new), "routes")
    assert [(v.revision, v.base) for v in routes.versions] == [("", ""), ("0a1b2c3d4e5f", B)]
    # Routers of an earlier release refuse fields that they do not know, so these are written where they are needed.
    assert b"revision" not in msgspec.json.encode(routes.versions[0])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_routes(tmp_path / "none.json")


@pytest.mark.parametrize("weights", [{"a": 90, "b": 10}, {"a": 1, "b": 99}, {"a": 50, "b": 30, "c": 20}])
def test_questions_are_split_by_weight(weights: dict[str, float]) -> None:
    keys = 20_000
    found = [choose(weights, f"user-{i}") for i in range(keys)]
    for name, weight in weights.items():
        share, sigma = weight / 100, (weight / 100 * (1 - weight / 100) / keys) ** 0.5
        assert abs(found.count(name) / keys - share) < 4 * sigma


def test_the_split_is_the_same_in_every_router() -> None:
    """Pinned: routers of two releases must choose the same version for a user."""
    weights = {"stable": 75.0, "canary": 25.0}
    found = "".join(choose(weights, f"user-{i}")[0] for i in range(32))
    assert found == PINNED


PINNED = "cssssscssssccssssssssssssssssscs"


@given(st.text(), st.integers(1, 98), st.integers(1, 99))
def test_no_key_leaves_a_canary_whose_share_grows(key: str, before: int, more: int) -> None:
    after = min(99, before + more)
    if choose({"stable": 100 - before, "canary": before}, key) == "canary":
        assert choose({"stable": 100 - after, "canary": after}, key) == "canary"


@given(st.text(), st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 100), min_size=2))
def test_only_the_keys_of_a_removed_version_move(key: str, weights: dict[str, int]) -> None:
    if sum(weights.values()) == 0:
        with pytest.raises(ValueError):  # noqa: PT011
            choose(weights, key)
        return
    before = choose(weights, key)
    assert weights[before] > 0
    for gone in weights:
        rest = {name: weight for name, weight in weights.items() if name != gone}
        if gone != before and sum(rest.values()):
            assert choose(rest, key) == before

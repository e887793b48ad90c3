"""A model repository that follows a route file: adapters of its base come, what does not fit is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

import cli.triton
from serving.policies.route_file import Routes, parse_routes
from serving.policies.triton.follow import Follower
from serving.policies.triton.repository import build_adapter
from tests.support.adapters import named_adapter
from trainers.artifacts.registry import Registry

NOT_IN_THE_ROUTERS_IMAGE = ("torch", "transformers", "peft")
"""It builds the repository of an operator's policy servers."""


def digest(content: str) -> str:
    return sha256(content.encode()).hexdigest()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Return a registry with the adapters v1 and v2 of a base, and v3 of another one."""
    registry = Registry(tmp_path / "registry")
    for name, base in (("v1", "base"), ("v2", "base"), ("v3", "other")):
        folder = tmp_path / base
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(base.encode())
        registry.register(named_adapter(tmp_path / name, str(folder)), base=str(folder), version=name)
    return registry


@pytest.fixture
def follower(registry: Registry, tmp_path: Path) -> Follower:
    out = tmp_path / "models"
    return Follower(digest("base"), out, lambda name: build_adapter(str(registry.fetch(name)), out))


def text(*versions: dict[str, object]) -> str:
    return json.dumps({"versions": [{"weight": 100 if i == 0 else 0, **one} for i, one in enumerate(versions)]})


def version(name: str, base: str = "base", weights: str = "") -> dict[str, object]:
    weights = weights or name.partition("+")[0]
    return {"name": name, "policy": "triton ads:8001", "digest": digest(weights), "base": digest(base)}


def routes(*versions: dict[str, object]) -> Routes:
    return parse_routes(text(*versions).encode(), "routes")


def built(follower: Follower) -> set[str]:
    return {path.name for path in follower.out.glob(f"policy-{follower.base[:12]}/1/adapters/*")}


def test_adapters_come_with_the_route_file(follower: Follower) -> None:
    assert not follower.holds_any(routes(version("v1")))
    assert follower.update(routes(version("v1"))) is None
    assert built(follower) == {digest("v1")[:12]}
    both = routes(version("v1"), version("v2+0a1b2c3d4e5f"), version("v3", "other"))
    assert follower.update(both) is None
    assert built(follower) == {digest("v1")[:12], digest("v2")[:12]}
    assert follower.holds_any(both)


def test_an_unknown_version_and_other_weights_do_not_stop_the_others(follower: Follower) -> None:
    error = follower.update(routes(version("v9"), version("v1", weights="not these"), version("v2")))
    assert "weights of v1" in str(error)
    assert digest("v2")[:12] in built(follower)
    assert "v9" in str(follower.update(routes(version("v9"))))


def test_an_adapter_of_another_base_is_refused(follower: Follower) -> None:
    error = follower.update(routes(version("v3")))
    assert "weights of v3's base" in str(error)
    assert not follower.holds_any(routes(version("v3")))


def test_the_command_ends_when_a_server_can_start(registry: Registry, tmp_path: Path) -> None:
    file, out = tmp_path / "routes.json", tmp_path / "models"
    file.write_text(text(version("v1"), version("v9")))
    arguments = [
        "follow",
        str(tmp_path / "registry"),
        "--routes",
        str(file),
        "--base",
        digest("base"),
        "--out",
        str(out),
    ]
    absent = f"import sys; sys.modules.update(dict.fromkeys({NOT_IN_THE_ROUTERS_IMAGE}))\n"
    command = [sys.executable, "-c", f"{absent}from cli.triton import app; app()", *arguments, "--once"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    name = f"policy-{digest('base')[:12]}"
    assert (out / name / "1" / "adapters" / digest("v1")[:12] / "adapter_model.safetensors").read_bytes() == b"v1"
    assert (out / name / "1" / "weights" / "model.safetensors").read_bytes() == b"base"


def test_what_cannot_be_built_is_tried_again_ever_more_rarely(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, pauses = tmp_path / "routes.json", list[float]()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        good = len(pauses) == 7
        file.write_text(text(version("v1" if good else "v9")))
        if len(pauses) == 9:
            raise KeyboardInterrupt

    file.write_text(text(version("v9")))
    monkeypatch.setattr("cli.triton.time.sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        cli.triton.follow(registry.url, file, digest("base"), tmp_path / "models")
    assert pauses == [2, 4, 8, 16, 30, 30, 30, 1, 2]

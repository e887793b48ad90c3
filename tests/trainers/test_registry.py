"""What the model registry promises, on a disk and in an object store, and its report in the terminal."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

import cli.main
from mechanism.errors import AuctionError, InputError
from trainers.artifacts.registry import Registry
from trainers.artifacts.run_directory import RunDirectory

OpenRegistry = Callable[[], Registry]


@pytest.fixture(params=["local", "memory", "s3"])
def open_registry(request: pytest.FixtureRequest, tmp_path: Path) -> OpenRegistry:
    made: dict[str, Callable[[], str]] = {
        "local": lambda: str(tmp_path / "registry"),
        "memory": lambda: f"memory://{uuid.uuid4().hex}",
        "s3": lambda: str(request.getfixturevalue("new_bucket")()) + "/production",
    }
    url = made[request.param]()
    return lambda: Registry(url, tmp_path / "cache")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model", b"weights")


def model_folder(folder: Path, weights: bytes) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "tokenizer.json").write_text('{"vocab": 3}')
    return folder


def test_a_model_is_registered_with_its_lineage_and_digests(open_registry: OpenRegistry, model: Path) -> None:
    before = datetime.now(UTC)
    first = open_registry().register(model, base="tiny", run="runs/quick", metrics={"revenue": 42.5})
    second = open_registry().register(
        model,
        base="tiny",
        parent="v0001",
        run="runs/more",
        epoch=3,
        metrics={"revenue": {"mean": 50.0, "lo": 48.0}},
        gates={"revenue": True},
        notes="longer",
    )
    registry = open_registry()
    assert registry.list() == (first, second)
    assert registry.get("v0001") == first
    assert registry.get("latest") == second
    assert (first.version, second.version, second.parent, second.epoch) == ("v0001", "v0002", "v0001", 3)
    assert set(first.sha256) == {"model.safetensors"}
    assert before <= first.created <= second.created <= datetime.now(UTC)
    with pytest.raises(ValidationError):
        first.version = "v0009"


def test_a_registered_model_is_fetched_as_it_was(open_registry: OpenRegistry, model: Path) -> None:
    open_registry().register(model, base="tiny")
    folder = open_registry().fetch("latest")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (folder / name).read_bytes() == (model / name).read_bytes()
    assert json.loads((folder / "model.json").read_text())["version"] == "v0001"
    assert open_registry().verify("v0001") == ()


def test_whoever_serves_may_read_what_its_trainer_wrote_for_itself(open_registry: OpenRegistry, model: Path) -> None:
    (model / "model.safetensors").chmod(0o600)  # as some libraries write weights
    open_registry().register(model, base="tiny")
    modes = {path.stat().st_mode for path in open_registry().fetch("latest").iterdir()}
    assert len(modes) == 1
    assert modes.pop() & 0o044, "a umask of 022 or 002"


def test_a_version_is_never_overwritten(open_registry: OpenRegistry, model: Path, tmp_path: Path) -> None:
    open_registry().register(model, base="tiny", version="2026-11-23")
    other = model_folder(tmp_path / "other", b"other weights")
    with pytest.raises(InputError, match="never overwritten"):
        open_registry().register(other, base="tiny", version="2026-11-23")
    assert (open_registry().fetch("2026-11-23") / "model.safetensors").read_bytes() == b"weights"
    assert open_registry().register(other, base="tiny").version == "v0001"


def test_models_registered_at_the_same_time_get_versions_of_their_own(open_registry: OpenRegistry, model: Path) -> None:
    threads = [threading.Thread(target=lambda: open_registry().register(model, base="tiny")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {entry.version for entry in open_registry().list()} == {"v0001", "v0002", "v0003", "v0004"}


def test_a_finished_phase_can_be_registered(open_registry: OpenRegistry, tmp_path: Path) -> None:
    phase = RunDirectory(tmp_path / "run").phase("policy", 1)
    with phase.open() as folder:
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")
    open_registry().register(phase.fetch(), base="tiny", run="run", epoch=1)
    registered = open_registry().fetch("v0001")
    open_registry().register(registered, base="tiny", parent="v0001")
    assert open_registry().get("v0002").sha256 == open_registry().get("v0001").sha256


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["changed", "removed"])
def test_damage_is_found_before_a_model_is_used(
    open_registry: OpenRegistry, model: Path, tmp_path: Path, name: str, damage: str
) -> None:
    registry = open_registry()
    registry.register(model, base="tiny")
    path = registry.store.path(f"models/v0001/{name}")
    if damage == "changed":
        registry.store.fs.pipe_file(path, b"X" * registry.store.fs.size(path))
    else:
        registry.store.fs.rm_file(path)
    fresh = Registry(registry.url, tmp_path / "another machine")
    with pytest.raises(AuctionError, match=name):
        fresh.fetch("latest")
    assert [line.partition(":")[0] for line in fresh.verify("v0001")] == [name]


def test_a_damaged_local_copy_is_found(model: Path, tmp_path: Path) -> None:
    registry = Registry(f"memory://{uuid.uuid4().hex}", tmp_path / "cache")
    registry.register(model, base="tiny")
    (registry.fetch("v0001") / "model.safetensors").write_bytes(b"WEIGHTS")
    with pytest.raises(AuctionError, match=r"model\.safetensors"):
        registry.fetch("v0001")


def test_an_entry_that_names_other_weights_is_found(open_registry: OpenRegistry, model: Path) -> None:
    registry = open_registry()
    entry = registry.register(model, base="tiny")
    forged = entry.model_copy(update={"sha256": {"model.safetensors": "0" * 64}})
    registry.store.write("models/v0001/model.json", forged.model_dump_json().encode())
    assert any(line.startswith("model.safetensors: model.json") for line in registry.verify("v0001"))
    registry.store.write("models/v0001/model.json", b'{"version": "v0001"}')
    with pytest.raises(InputError, match=r"model\.json: created"):
        registry.get("v0001")


def test_what_is_no_model_is_refused_and_leaves_nothing(open_registry: OpenRegistry, model: Path) -> None:
    registry = open_registry()
    with pytest.raises(InputError, match=r"config\.json"):
        registry.register(model.parent, base="tiny")
    with pytest.raises(InputError, match="v0009"):
        registry.register(model, base="tiny", parent="v0009")
    with pytest.raises(InputError, match=r"metrics.*finite"):
        registry.register(model, base="tiny", metrics={"revenue": float("nan")})
    (model / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights"):
        registry.register(model, base="tiny")
    assert registry.list() == ()
    assert registry.store.children("models") == []


@pytest.mark.parametrize("version", ["latest", "../v1", "", ".hidden", "a/b", "x" * 65])
def test_impossible_versions_are_refused(open_registry: OpenRegistry, model: Path, version: str) -> None:
    with pytest.raises(InputError, match="version"):
        open_registry().register(model, base="tiny", version=version)


def test_an_unknown_version_is_refused_with_the_known_ones(open_registry: OpenRegistry, model: Path) -> None:
    with pytest.raises(InputError, match="no model is registered"):
        open_registry().get("latest")
    with pytest.raises(InputError, match=r"v0001.*no model is registered here"):
        open_registry().get("v0001")
    open_registry().register(model, base="tiny")
    with pytest.raises(InputError, match=r"v0002.*known are v0001"):
        open_registry().fetch("v0002")
    with pytest.raises(InputError):
        open_registry().get("../models")


def call(*arguments: str | os.PathLike[str]) -> tuple[int, str]:
    result = CliRunner().invoke(cli.main.app, ["models", *map(str, arguments)], env={"COLUMNS": "160"})
    return result.exit_code, result.output


def test_the_terminal_lists_shows_and_verifies(model: Path, tmp_path: Path) -> None:
    where = tmp_path / "registry"
    registry = Registry(where)
    registry.register(model, base="tiny", run="runs/quick", metrics={"revenue": 42.5, "ctr": {"mean": 0.1}})
    code, output = call("list", "--registry", where)
    assert code == 0
    assert "v0001" in output
    assert "revenue 42.5" in output
    code, output = call("list", "--registry", where, "--json")
    assert [entry["version"] for entry in json.loads(output)] == ["v0001"]
    code, output = call("show", "--registry", where)
    assert "sha256.model.safetensors" in output
    code, output = call("show", "v0001", "--registry", where, "--json")
    assert json.loads(output)["metrics"]["ctr"] == {"mean": 0.1}
    assert call("verify", "--registry", where) == (0, "v0001: intact\n")
    (where / "models" / "v0001" / "model.safetensors").unlink()
    assert call("verify", "--registry", where) == (1, "v0001: model.safetensors: missing\n")
    code, output = call("verify", "v0001", "--registry", where, "--json")
    assert (code, json.loads(output)) == (1, {"v0001": ["model.safetensors: missing"]})
    code, output = call("show", "v0007", "--registry", where)
    assert code == 2
    assert "known are v0001" in " ".join(output.split())


def test_the_terminal_registers_what_served_first(tmp_path: Path) -> None:
    where = ["--registry", str(tmp_path / "runs")]
    done = CliRunner().invoke(cli.main.app, ["models", "register", "tiny", *where])
    assert done.exit_code == 0, done.output
    (entry,) = Registry(tmp_path / "runs").list()
    assert (entry.version, entry.base) == ("v0001", "tiny")
    assert f"v0001 (weights sha256 {entry.digest})" in done.output
    done = CliRunner().invoke(cli.main.app, ["models", "register", "tiny", *where, "--version", "v0001"])
    assert done.exit_code == 2
    assert "registered already" in " ".join(done.output.split())

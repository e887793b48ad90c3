"""Model repositories: their contents, what they refuse, and that they are written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.triton import app
from mechanism.errors import AuctionError, ConfigError, InputError
from serving.policies.triton.repository import build_adapter, build_repository, config_pbtxt
from tests.support.adapters import named_adapter
from trainers.artifacts.registry import Registry


def model(folder: Path, weights: bytes = b"weights", **more: bytes) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    for name, content in more.items():
        (folder / f"{name}.safetensors").write_bytes(content)
    return folder


def register(registry: Path, version: str, created: str, weights: bytes) -> Path:
    folder = model(registry / "models" / version, weights)
    digest = hashlib.sha256(weights).hexdigest()
    entry = {"version": version, "created": created, "sha256": {"model.safetensors": digest}, "base": "tiny"}
    (folder / "model.json").write_text(json.dumps(entry))
    (folder / "_complete.json").write_text("{}")
    return folder


def test_a_model_is_named_by_the_digest_that_sha256sum_prints(tmp_path: Path) -> None:
    built = build_repository(str(model(tmp_path / "m", b"abc")), tmp_path / "repository")
    assert built.digest == hashlib.sha256(b"abc").hexdigest()
    assert built.name == f"policy-{built.digest[:12]}"
    assert (built.folder / "1" / "weights" / "model.safetensors").read_bytes() == b"abc"
    config = (built.folder / "config.pbtxt").read_text()
    assert f'name: "{built.name}"' in config
    assert re.search(rf'"weights_sha256" value {{ string_value: "{built.digest}" }}', config)
    assert sorted(p.name for p in (tmp_path / "repository").iterdir()) == [built.name]


def test_built_weights_can_be_read_by_other_users(tmp_path: Path) -> None:
    source = model(tmp_path / "m")
    (source / "model.safetensors").chmod(0o600)
    built = build_repository(str(source), tmp_path / "repository")
    assert (built.folder / "1" / "weights" / "model.safetensors").stat().st_mode & 0o044


def test_the_digest_covers_every_file_of_weights(tmp_path: Path) -> None:
    digests = {
        build_repository(str(model(tmp_path / str(i), b"a", second=second)), tmp_path / "repository").digest
        for i, second in enumerate((b"b", b"c", b"b"))
    }
    assert len(digests) == 2


def test_the_copied_code_needs_nothing_of_the_checkout(tmp_path: Path) -> None:
    built = build_repository(str(model(tmp_path / "m")), tmp_path / "repository")
    script = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "import serving.policies.triton.backend, inference.policy, mechanism.prompt\n"
        "rooms = ('serving', 'inference', 'mechanism')\n"
        "ours = [module.__file__ for name, module in sys.modules.items() if name.split('.')[0] in rooms]\n"
        "assert len(ours) > 10 and all(file.startswith(sys.argv[1]) for file in ours), ours\n"
        "assert 'litestar' not in sys.modules and 'sqlalchemy' not in sys.modules\n"
    )
    packages = next(p for p in sys.path if p.endswith("site-packages"))
    # -S: without the line that puts this checkout on the path
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, str(built.folder / "1" / "code"), packages],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_a_registered_version_is_built_and_latest_is_the_youngest(tmp_path: Path) -> None:
    register(tmp_path, "v0002", "2026-01-02T00:00:00Z", b"second")
    register(tmp_path, "v0001", "2026-01-01T00:00:00Z", b"first")
    (tmp_path / "models" / "v0003").mkdir()  # unfinished
    for version, weights in (("v0001", b"first"), ("latest", b"second")):
        built = build_repository(str(tmp_path), tmp_path / "repository", version=version)
        assert built.digest == hashlib.sha256(weights).hexdigest()
        assert (built.folder / "1" / "weights" / "model.json").is_file()


def test_weights_other_than_the_registered_ones_are_refused(tmp_path: Path) -> None:
    folder = register(tmp_path, "v0001", "2026-01-01T00:00:00Z", b"first")
    (folder / "model.safetensors").write_bytes(b"other")
    with pytest.raises(InputError, match=r"not those of model\.json"):
        build_repository(str(tmp_path), tmp_path / "repository", version="v0001")
    assert list((tmp_path / "repository").iterdir()) == []


def test_rebuilding_replaces_the_whole_model(tmp_path: Path) -> None:
    source, out = str(model(tmp_path / "m")), tmp_path / "repository"
    first = build_repository(source, out, slots=2)
    (first.folder / "1" / "stray").write_text("")
    second = build_repository(source, out, slots=3)
    assert second == first
    assert not (second.folder / "1" / "stray").exists()
    assert '"slots" value { string_value: "3" }' in (second.folder / "config.pbtxt").read_text()
    assert [p.name for p in out.iterdir()] == [first.name]


def test_links_share_the_weights(tmp_path: Path) -> None:
    source = model(tmp_path / "m")
    built = build_repository(str(source), tmp_path / "repository", link=True)
    assert (built.folder / "1" / "weights" / "model.safetensors").samefile(source / "model.safetensors")


@pytest.mark.parametrize(
    ("options", "kind", "reason"),
    [
        ({"version": "v9"}, InputError, "known are v0001"),
        ({"kind": "vllm"}, ConfigError, "--device gpu"),
        ({"instances": 0}, ConfigError, "instances"),
        ({"slots": 0}, ConfigError, "slots"),
        ({"waiting": -1}, ConfigError, "waiting"),
        ({}, InputError, "Hugging Face layout"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused_with_a_reason(
    options: dict[str, Any], kind: type[AuctionError], reason: str, tmp_path: Path
) -> None:
    register(tmp_path / "registry", "v0001", "2026-01-01T00:00:00Z", b"w")
    with pytest.raises(kind, match=reason):
        build_repository(str(tmp_path / "registry"), tmp_path / "repository", **options)


def test_a_damaged_entry_is_named(tmp_path: Path) -> None:
    folder = register(tmp_path, "v0001", "2026-01-01T00:00:00Z", b"w")
    (folder / "model.json").write_text("{")
    with pytest.raises(InputError, match=r"v0001/model\.json"):
        build_repository(str(tmp_path), tmp_path / "repository", version="v0001")


def test_the_vllm_kind_has_the_same_interface(tmp_path: Path) -> None:
    source, out = str(model(tmp_path / "m")), tmp_path / "repository"
    python = (build_repository(source, out, device="gpu").folder / "config.pbtxt").read_text()
    built = build_repository(source, out, kind="vllm", device="gpu")
    vllm = (built.folder / "config.pbtxt").read_text()
    assert vllm == python.replace('string_value: "python"', 'string_value: "vllm"')
    assert "serving.policies.triton.vllm_engine" in (built.folder / "1" / "model.py").read_text()
    assert (built.folder / "1" / "code" / "serving" / "policies" / "triton" / "vllm_processor.py").is_file()
    assert "KIND_GPU count: 2" in config_pbtxt("n", 2, "gpu", {})


def test_the_command_builds_and_prints_the_name(tmp_path: Path) -> None:
    source, out = model(tmp_path / "m", b"abc"), tmp_path / "repository"
    done = CliRunner().invoke(app, ["build", str(source), "--out", str(out), "--slots", "5"])
    assert done.exit_code == 0, done.output
    name = f"policy-{hashlib.sha256(b'abc').hexdigest()[:12]}"
    assert done.output.startswith(name)
    assert '"slots" value { string_value: "5" }' in (out / name / "config.pbtxt").read_text()


def test_the_command_fetches_a_version_from_an_object_store(
    new_bucket: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_AUCTION_CACHE", str(tmp_path / "cache"))
    url, out = f"{new_bucket()}/production", tmp_path / "repository"
    entry = Registry(url).register(model(tmp_path / "m", b"abc"), base="tiny")
    done = CliRunner().invoke(app, ["build", url, "--version", "latest", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert f"weights sha256 {entry.digest}" in done.output
    refused = CliRunner().invoke(app, ["build", url, "--out", str(out)])
    assert isinstance(refused.exception, ConfigError)
    assert "give a version of the registry" in str(refused.exception)


def test_adapters_of_one_base_are_built_beside_each_other(tmp_path: Path) -> None:
    out, base = tmp_path / "repository", str(model(tmp_path / "base", b"base"))
    built = [build_adapter(str(named_adapter(tmp_path / name, base)), out) for name in ("a", "b", "a2")]
    folder = out / f"policy-{hashlib.sha256(b'base').hexdigest()[:12]}"
    assert {one.folder for one in built} == {folder}
    assert {one.base for one in built} == {hashlib.sha256(b"base").hexdigest()}
    assert [one.digest for one in built] == [hashlib.sha256(name.encode()).hexdigest() for name in ("a", "b", "a2")]
    assert {path.name for path in (folder / "1" / "adapters").iterdir()} == {one.digest[:12] for one in built}
    assert (folder / "1" / "weights" / "model.safetensors").read_bytes() == b"base"
    assert sorted(path.name for path in out.iterdir()) == [folder.name], "nothing else is left"


def test_a_base_that_is_built_again_keeps_its_adapters(tmp_path: Path) -> None:
    out, base = tmp_path / "repository", str(model(tmp_path / "base", b"base"))
    adapter = build_adapter(str(named_adapter(tmp_path / "a", base)), out)
    assert build_repository(base, out, slots=3).folder == adapter.folder
    kept = adapter.folder / "1" / "adapters" / adapter.digest[:12] / "adapter_model.safetensors"
    assert kept.read_bytes() == b"a"
    assert [path.name for path in out.iterdir()] == [adapter.name]


def test_the_command_builds_an_adapter_and_prints_both_digests(tmp_path: Path) -> None:
    out, base = tmp_path / "repository", str(model(tmp_path / "base", b"base"))
    done = CliRunner().invoke(app, ["build", str(named_adapter(tmp_path / "a", base)), "--out", str(out), "--shared"])
    assert done.exit_code == 0, done.output
    own, under = (hashlib.sha256(weights).hexdigest() for weights in (b"a", b"base"))
    assert f"(weights sha256 {own} on the base sha256 {under})" in done.output
    refused = CliRunner().invoke(app, ["build", base, "--out", str(out), "--shared"])
    assert isinstance(refused.exception, InputError)
    assert "leave --shared out" in str(refused.exception)


def test_an_empty_repository_is_refused_with_the_remedy(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["serve", str(tmp_path)])
    assert isinstance(done.exception, ConfigError)
    assert "triton build" in str(done.exception)

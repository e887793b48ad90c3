"""Models by name or folder: loading, settings, digests and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from inference import packaged
from inference.models import PolicySettings, load_model, read_policy_settings, resolve, weights_digest
from inference.policy import Policy
from mechanism.errors import AuctionError, ConfigError, PolicyError
from mechanism.prompt import PromptSettings

from .conftest import byte_tokenizer, random_policy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    policy = random_policy(byte_tokenizer(words=True))
    policy.model.lm_head = torch.nn.Linear(32, policy.model.config.vocab_size, bias=False)
    policy.save(tmp_path / "model")
    return tmp_path / "model"


def test_names_resolve_to_folders() -> None:
    assert resolve("tiny").endswith("models_data/tiny")
    assert resolve("Qwen/Qwen3-4B-Instruct-2507") == "Qwen/Qwen3-4B-Instruct-2507"


def test_a_packaged_model_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    monkeypatch.setenv(packaged.CACHE, str(tmp_path))
    converted: list[Path] = []

    def convert(gguf: Path, folder: Path) -> None:
        folder.mkdir(parents=True)
        converted.append(gguf)

    monkeypatch.setattr(packaged, "_convert", convert)
    assert resolve("smollm2-135m") == resolve("smollm2-135m")
    assert Path(resolve("smollm2-135m")).is_relative_to(tmp_path)
    assert len(converted) == 1
    assert converted[0].suffix == ".gguf"


def test_a_cache_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(packaged.CACHE, str(tmp_path / "file"))
    with pytest.raises(PolicyError, match="LLM_AUCTION_CACHE"):
        resolve("smollm2-135m")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"nowhere.*Give assistant, tiny, smollm2-135m, a folder"):
        load_model(str(tmp_path / "nowhere"))


def test_truncated_weights_are_an_error(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(PolicyError, match="could not be loaded"):
        load_model(str(folder))


def test_missing_weights_are_named_and_never_random(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(PolicyError, match=r"lacks weights: model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(str(folder))


def test_a_model_without_a_chat_template_is_refused(folder: Path) -> None:
    for file in folder.glob("chat_template*"):
        file.unlink()
    with pytest.raises(PolicyError, match="no chat template"):
        load_model(str(folder))


def test_settings_beside_the_weights_are_read(folder: Path) -> None:
    assert Policy.load(str(folder)).prompt_settings == PromptSettings(instructions="brief")
    (folder / "policy.json").unlink()
    assert read_policy_settings(folder) == PolicySettings()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"sampling": {"heat": 1}}', "heat"),
        ('{"sampling": {"top_p": 0}}', r"sampling\.top_p"),
        ('{"prompt": {"ad_load": -1}}', r"prompt\.ad_load"),
        ('{"prompt": ', r"policy\.json"),
        ('{"opener": "@@"}', "opener"),
        ("[1]", r"policy\.json"),
    ],
)
def test_bad_settings_name_the_file_or_the_field(folder: Path, text: str, named: str) -> None:
    (folder / "policy.json").write_text(text)
    with pytest.raises(AuctionError, match=named) as raised:
        read_policy_settings(folder)
    assert isinstance(raised.value, PolicyError | ConfigError)


def test_settings_are_plain_json(folder: Path) -> None:
    settings = json.loads((folder / "policy.json").read_text())
    assert settings["sampling"]["max_new_tokens"] == 40


def test_the_digest_depends_on_the_values_and_not_the_file(folder: Path) -> None:
    first, again = load_model(str(folder)).model, load_model(str(folder)).model
    assert weights_digest(first) == weights_digest(again)
    with torch.no_grad():
        again.lm_head.weight[0, 0] += 1e-3
    assert weights_digest(first) != weights_digest(again)


@pytest.mark.slow
def test_a_packaged_model_saves_and_loads_as_the_same_policy(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    policy = Policy.load("smollm2-135m")
    policy.save(tmp_path / "saved")
    assert Policy.load(str(tmp_path / "saved")).digest == policy.digest

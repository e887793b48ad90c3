"""Files and object stores that cannot be reached: one line with the remedy and no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs
from typer.testing import CliRunner

from cli.exits import EXIT_BAD_INPUT, EXIT_FAILED
from cli.main import app
from tests.support.ports import free_ports


def call(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(words))
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No credentials, and no metadata service that could issue some."""
    s3fs.S3FileSystem.clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    yield
    s3fs.S3FileSystem.clear_instance_cache()


def test_missing_credentials(no_credentials: None) -> None:
    code, words = call("models", "list", "--registry", "s3://somewhere/without")
    assert code == EXIT_FAILED
    assert words.startswith("error: the object store: Unable to locate credentials")
    assert "AWS_ENDPOINT_URL" in words


def test_a_store_that_does_not_answer(no_credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    [port] = free_ports(1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    code, words = call("models", "list", "--registry", "s3://somewhere/silent")
    assert code == EXIT_FAILED
    assert f"http://127.0.0.1:{port}" in words


def test_a_file_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal is simulated, because tests may run as root, which may read everything."""

    def refuses(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", "/models/v0001/model.safetensors")

    monkeypatch.setattr("trainers.artifacts.registry.Registry.list", refuses)
    code, words = call("models", "list", "--registry", str(tmp_path))
    assert code == EXIT_BAD_INPUT
    assert words.startswith("error: /models/v0001/model.safetensors: permission denied: grant this user")

"""What a person reads when files or an object store cannot be reached: one line with the remedy, no traceback."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs
from typer.testing import CliRunner

from cli.main import EXIT_BAD_INPUT, EXIT_FAILED, app


def told(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(words))
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No credentials, and nobody to ask for some."""
    s3fs.S3FileSystem.clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    yield
    s3fs.S3FileSystem.clear_instance_cache()


def test_missing_credentials(nobody: None) -> None:
    code, words = told("models", "list", "--registry", "s3://somewhere/without")
    assert code == EXIT_FAILED
    assert words.startswith("error: the object store: Unable to locate credentials")
    assert "AWS_ENDPOINT_URL" in words


def test_a_store_that_does_not_answer(nobody: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    code, words = told("models", "list", "--registry", "s3://somewhere/silent")
    assert code == EXIT_FAILED
    assert f"http://127.0.0.1:{port}" in words


def test_a_file_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, to whom everything is open, so that the file system's refusal is played."""

    def refuses(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", "/models/v0001/model.safetensors")

    monkeypatch.setattr("trainers.artifacts.registry.Registry.list", refuses)
    code, words = told("models", "list", "--registry", str(tmp_path))
    assert code == EXIT_BAD_INPUT
    assert words.startswith("error: /models/v0001/model.safetensors: permission denied: let this user")

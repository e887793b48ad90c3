"""Where a run's base model is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from inference.models import resolve
from inference.policy import Policy
from mechanism.errors import ConfigError, InputError
from trainers.artifacts.registry import Registry, local_base


def test_names_and_folders_stay_what_they_are() -> None:
    for base in ("tiny", "/models/v1", "models/v1", "organisation/model"):
        assert local_base(base) == base


def test_a_registered_version_at_a_url_is_fetched(
    new_bucket: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_AUCTION_CACHE", str(tmp_path / "cache"))
    url = f"{new_bucket()}/production"
    Registry(url).register(resolve("tiny"), base="tiny")
    folder = local_base(f"{url}/models/v0001")
    assert Path(folder).is_relative_to(tmp_path / "cache")
    assert Policy.load(folder).digest == Policy.load("tiny").digest
    with pytest.raises(InputError, match="known are v0001"):
        local_base(f"{url}/models/v0002")


@pytest.mark.parametrize("base", ["s3://bucket/production", "s3://bucket/models/", "s3://bucket/models/v1/policy"])
def test_a_url_without_a_version_is_refused_with_the_form(base: str) -> None:
    with pytest.raises(ConfigError, match=r"give a version, as in s3://bucket/prefix/models/v0003"):
        local_base(base)

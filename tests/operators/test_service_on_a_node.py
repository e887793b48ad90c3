"""A service in pods that really run: a rollout under traffic, a version that fails, a retraining that takes over.

Minutes on a quiet machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from benchmarks.operators.operating import Running
from benchmarks.serving.triton import next_version
from cli.serve import builtin_catalogue
from inference.models import resolve
from inference.policy import Policy
from mechanism.errors import ConfigError
from mechanism.weights import model_version
from serving.campaigns.catalogue import read_catalogue
from serving.policies.triton import server
from simulator.world import World
from tests.support.cluster.node import Node
from tests.support.object_store import object_store
from tests.support.postgres import PostgresMissing, PostgresServer
from tests.trainers.logged_traffic import served, write
from trainers.artifacts.registry import Registry

from .conftest import eventually
from .live_service import PLACE, LiveService, opened, spec, stock, wrap_triton

STEP_S = 1500.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


@pytest.fixture(scope="module")
def triton() -> None:
    """Skip the test if Triton is not prepared."""
    try:
        server.locate()
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Return the folder of a PostgreSQL server's socket, open to every user, and the address of a filled database."""
    try:
        postgres = PostgresServer(durable=False)
    except PostgresMissing as missing:
        pytest.skip(str(missing))
    with postgres:
        postgres.folder.chmod(0o755)
        url = postgres.create("auction")
        stock(url, read_catalogue(builtin_catalogue(tmp_path_factory.mktemp("catalogue"), 0)))
        yield postgres.folder, url


@dataclass
class Models:
    """A registry with the shipped policy and a copy with slightly other weights.

    `place`: address of the registry and the log for pods; `store`: variables for it; `folder`: the volume /auction.
    """

    folder: Path
    registry: Registry
    lake: str
    place: str
    store: dict[str, str]
    first: tuple[str, str]
    second: tuple[str, str]


@pytest.fixture
def models(request: pytest.FixtureRequest, own_node: Node, tmp_path: Path) -> Iterator[Models]:
    """Fill a registry on the volume or, with the parameter "s3", in an object store."""
    folder = tmp_path / "auction"
    folder.mkdir()
    with ExitStack() as stack:
        url, place, store = str(folder), "/auction", {}
        if getattr(request, "param", "volume") == "s3":
            server = stack.enter_context(object_store("0.0.0.0"))
            url = place = server.bucket()
            store = server.reached_at(own_node.plane.network.machine)
        registry = Registry(f"{url}/registry", tmp_path / "cache")
        tiny = resolve("tiny")
        first = registry.register(tiny, base="tiny")
        second = registry.register(next_version(tmp_path), base="tiny")
        versions = ((first.version, first.digest), (second.version, second.digest))
        yield Models(folder, registry, f"{url}/lake", place, store, *versions)


@pytest.fixture
def service(
    triton: None,
    running: Running,
    database: tuple[Path, str],
    models: Models,
    pods_api: client.ApiClient,
    pods_namespace: str,
    pod_image: str,
) -> Iterator[LiveService]:
    """Run the service with its first version."""
    specification = spec(pod_image, *models.first, wrap_triton(models.folder), f"{models.place}/registry")
    with opened(pods_api, pods_namespace, models.folder, database, specification, models.store) as found:
        yield found


def test_a_new_version_takes_over_under_traffic_and_one_that_never_starts_does_not(
    service: LiveService, models: Models
) -> None:
    name, digest = models.second
    with service.readers():
        eventually("readers are answered", lambda: service.outcomes["answered"] >= 5, 300)
        service.change({"model": {"name": name, "digest": digest}})
        eventually("both versions have traffic", lambda: service.status().get("phase") == "Canary", STEP_S)
        eventually("the new version is the stable one", lambda: service.serves(name), STEP_S)
        by_version = service.answered()
        assert by_version[model_version(models.first[1])] >= 5
        assert by_version[model_version(digest)] >= 20

        # The first version's weights have another digest than this one, so it can never be verified.
        service.change({"model": {"name": models.first[0], "digest": "f" * 64}, "rollout": {"readySeconds": 60}})
        eventually("it is rolled back", lambda: service.status().get("phase") == "RolledBack", STEP_S)
        assert service.status()["rejected"]["digest"] == "f" * 64
        assert [one["name"] for one in service.status()["traffic"]] == [name]
        before = service.outcomes["answered"]
        eventually("the stable version keeps answering", lambda: service.outcomes["answered"] >= before + 5, 300)
    assert set(service.outcomes) == {"answered"}, service.outcomes
    assert set(service.clicks) == {302}, service.clicks


RETRAINING: dict[str, Any] = {
    "feedback": {"held_out": 0.4},
    "reward": {"passes": 4, "batch": 64},
    "rollout": {"contexts": 48, "samples": 4, "temperature": 1.0},
    "penalty": {"per_ad": 0.0, "per_extra_ad": 0.0},
    "preference": {"delta": 1.0, "losers": 2, "counterfactual_bids": 1},
    "optimisation": {"learning_rate": 2e-4, "batch": 8, "batch_per_process": 8, "checkpoint_steps": 0},
    "evaluation": {"validation": 16},
    "guards": {"min_ads_per_answer": 0.0},
}
GATES: dict[str, Any] = {
    "queries": 24,
    "swept": 8,
    "min_queries": 0,
    "min_auc": 0.0,
    "auc_margin": 1.0,
    "max_calibration_error": 1.0,
    "offpolicy": {"action": "ads", "draws": 100, "min_effective_sample": 1, "max_weight_error": 100},
    "revenue_margin": 1.0,
    "experience_margin": 1e6,
    "min_rise": -100,
    "max_fall": 100,
    "quality_margin": 1.0,
    "max_latency_ratio": 100,
}
"""Limits that any model passes: so few answers cannot decide, and the test is about the process."""


def policy(image: str, place: str) -> dict[str, Any]:
    """Return a policy that retrains as soon as there are answers to learn from, and promotes the result."""
    return {
        "service": {"name": "ads"},
        "source": {"lake": f"{place}/lake"},
        "triggers": {"new_interactions": 200, "at_least": 100, "cooldown_hours": 0},
        "look": {"everySeconds": 30},
        "template": {
            "spec": {
                "image": image,
                "config": RETRAINING,
                "storage": {"url": f"{place}/registry"},
                "volumes": [
                    {"name": "auction", "mountPath": "/auction", "persistentVolumeClaim": {"claimName": "auction"}}
                ],
                "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
                "envFrom": [{"secretRef": {"name": "store"}}],
                "backoffSeconds": 1,
            }
        },
        "gates": GATES,
        "promote": True,
    }


@pytest.mark.parametrize("models", ["volume", "s3"], indirect=True)
def test_a_service_is_trained_on_its_log_and_the_result_takes_over(
    service: LiveService, models: Models, pods_api: client.ApiClient, pods_namespace: str, pod_image: str
) -> None:
    name, digest = models.first
    base = Policy.load(str(models.registry.fetch(name)))
    begin = datetime.now(UTC) - timedelta(hours=3)
    write(
        models.lake,
        served(base, World(0, profiles=60), 260, digest=digest, ad_load=0.5, rate=0.5, begin=begin),
    )
    objects: Any = client.CustomObjectsApi(pods_api)
    body = {"apiVersion": "/".join(PLACE), "kind": "RetrainPolicy", "metadata": {"name": "steady"}}
    objects.create_namespaced_custom_object(
        *PLACE, pods_namespace, "retrainpolicies", body | {"spec": policy(pod_image, models.place)}
    )

    def status() -> dict[str, Any]:
        found: dict[str, Any] = service.objects("retrainpolicies", "steady").get("status") or {}
        return found

    with service.readers():
        eventually("the log is read", lambda: "seen" in status(), STEP_S)
        assert status()["seen"]["new"] == 260
        eventually("a retraining ends", lambda: "lastResult" in status(), 4 * STEP_S)
        result = status()["lastResult"]
        assert result["outcome"] == "Passed", result
        entry = models.registry.get(result["model"])
        assert (entry.parent, entry.digest, entry.status) == (name, result["digest"], "candidate")
        eventually("the result is the stable version", lambda: service.serves(entry.version), STEP_S)
        eventually("it answers", lambda: service.answered().get(model_version(entry.digest), 0) > 0, 300)
    assert set(service.outcomes) == {"answered"}, service.outcomes

"""A service that really runs, for tests on a node: PostgreSQL with campaigns, and a volume with a registry and a log.

The tests prepare the volume, with a Triton server, on this machine.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from kubernetes import client

from operators.auctionservice.meter import parsed
from operators.kube import read_report
from serving.campaigns.catalogue import Catalogue, import_catalogue
from serving.campaigns.storage import CampaignStore
from serving.database.engine import Database
from serving.database.migrations import migrate
from serving.policies.triton import server

from .conftest import eventually

PLACE = ("llm-auction.io", "v1alpha1")
QUESTIONS = ("Which shoes for a wet trail?", "How do I sleep better?", "What is a good travel headphone?")
BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
READING_S = 1.5
"""Time between answer and click: a link that is followed at once is not counted as a reader's click."""


@contextmanager
def shared_folder(api: client.ApiClient, namespace: str, claim: str, folder: Path) -> Iterator[None]:
    """Make a folder of this machine available to pods through a claim."""
    core: Any = client.CoreV1Api(api)
    volume = f"{namespace}-{claim}"
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteMany"],
        "hostPath": {"path": str(folder)},
        "persistentVolumeReclaimPolicy": "Retain",
    }
    core.create_persistent_volume({"metadata": {"name": volume}, "spec": spec})
    wanted: dict[str, Any] = {"accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": volume}
    wanted["resources"] = {"requests": {"storage": "1Gi"}}
    core.create_namespaced_persistent_volume_claim(namespace, {"metadata": {"name": claim}, "spec": wanted})
    try:
        yield
    finally:
        core.delete_persistent_volume(volume)


def wrap_triton(folder: Path) -> list[dict[str, str]]:
    """Write a `tritonserver` to `folder`/bin that runs the prepared one; return the variables for it."""
    prepared = server.locate()
    (folder / "bin").mkdir()
    script = folder / "bin" / "tritonserver"
    backends = prepared.server / "backends"
    script.write_text(
        f'#!/bin/sh\nexec {prepared.server}/bin/tritonserver --backend-directory={backends} "$@"\n', encoding="ascii"
    )
    script.chmod(0o755)
    # the model's process uses the first python3 on PATH
    path = ["/auction/bin", f"{prepared.environment}/bin", f"{sys.prefix}/bin", "/usr/bin", "/bin"]
    return [
        {"name": "PATH", "value": os.pathsep.join(path)},
        {"name": "LD_LIBRARY_PATH", "value": str(prepared.libpython)},
        {"name": "OMP_NUM_THREADS", "value": "1"},
    ]


def stock(url: str, catalogue: Catalogue) -> None:
    """Create the tables and approved campaigns."""
    migrate(url)
    database = Database(url)
    try:
        import_catalogue(catalogue, CampaignStore(database), datetime.now(UTC))
    finally:
        database.close()


def spec(image: str, version: str, digest: str, triton: list[dict[str, str]], registry: str) -> dict[str, Any]:
    """Return a specification with one router, one Triton per version, and a canary short enough for a test.

    `registry` is its address for pods; the Secret `store` holds the variables of an object store.
    """
    pods = {"podSecurity": {"runAsUser": 1000, "runAsGroup": 1000}}
    auction = {"name": "auction", "mountPath": "/auction", "persistentVolumeClaim": {"claimName": "auction"}}
    database = {"name": "database", "mountPath": "/database", "persistentVolumeClaim": {"claimName": "database"}}
    return {
        "model": {"name": version, "digest": digest},
        "router": {
            **pods,
            "image": image,
            "replicas": 1,
            "anonymous": True,
            "currency": "USD",
            "volumes": [database],
            "database": {"secretKeyRef": {"name": "auction", "key": "database"}},
            "secret": {"secretKeyRef": {"name": "auction", "key": "secret"}},
            "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
        },
        "policy": {
            **pods,
            "image": image,
            "source": {"registry": registry},
            "env": triton,
            "envFrom": [{"secretRef": {"name": "store"}}],
            "volumes": [{**auction, "readOnly": True}],
            "sharedMemory": "256Mi",
        },
        "rollout": {
            "steps": [{"weight": 50, "pauseSeconds": 5}],
            "keepSeconds": 5,
            # Both versions share the same cores, and the one trained here shows more ads: only failures are compared.
            "guards": {"minAnswers": 20, "maxLatencyRatio": 100, "maxAdLoadRatio": 100, "patienceSeconds": 60},
        },
    }


@dataclass
class LiveService:
    """The AuctionService `ads` and its readers."""

    api: client.ApiClient
    namespace: str
    folder: Path
    address: str = ""
    outcomes: Counter[str] = field(default_factory=Counter)
    clicks: Counter[int] = field(default_factory=Counter)
    _over: threading.Event = field(default_factory=threading.Event)

    def objects(self, plural: str, name: str) -> dict[str, Any]:
        """Read a custom resource."""
        api: Any = client.CustomObjectsApi(self.api)
        found: dict[str, Any] = api.get_namespaced_custom_object(*PLACE, self.namespace, plural, name)
        return found

    def status(self) -> dict[str, Any]:
        """Read the service's status."""
        status: dict[str, Any] = self.objects("auctionservices", "ads").get("status") or {}
        return status

    def change(self, changes: dict[str, Any]) -> None:
        """Change the service's specification."""
        api: Any = client.CustomObjectsApi(self.api)
        api.patch_namespaced_custom_object(*PLACE, self.namespace, "auctionservices", "ads", {"spec": changes})

    def serves(self, version: str) -> bool:
        """Return whether a version is the stable one and no other is taking over."""
        status = self.status()
        return status.get("phase") == "Serving" and status["stable"]["name"] == version

    def answered(self) -> dict[str, int]:
        """Return the routers' counts of answers, by model version."""
        core: Any = client.CoreV1Api(self.api)
        found = Counter[str]()
        labels = "app.kubernetes.io/component=router"
        for pod in core.list_namespaced_pod(self.namespace, label_selector=labels).items:
            text = read_report(f"{pod.status.pod_ip}:9090", 0)
            assert text is not None
            report = parsed(text)
            assert report is not None
            for (_, version), tally in report.cohorts.items():
                found[version] += tally.answers
        return found

    @contextmanager
    def readers(self) -> Iterator[None]:
        """Ask questions and follow links for as long as the context lasts."""
        core: Any = client.CoreV1Api(self.api)
        self.address = f"http://{core.read_namespaced_service('ads', self.namespace).spec.cluster_ip}"
        thread = threading.Thread(target=self._read, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _read(self) -> None:
        number = 0
        with httpx.Client(timeout=120, headers=BROWSER) as http:
            while not self._over.is_set():
                number += 1
                try:
                    self._ask(http, QUESTIONS[number % len(QUESTIONS)])
                except httpx.HTTPError as error:
                    self.outcomes[f"{type(error).__name__}: {error}"] += 1

    def _ask(self, http: httpx.Client, question: str) -> None:
        body = {"model": "llm-auction", "messages": [{"role": "user", "content": question}]}
        answer = http.post(f"{self.address}/v1/chat/completions", json=body)
        if answer.status_code != 200:
            self.outcomes[f"{answer.status_code}: {answer.text[:200]}"] += 1
            return
        self.outcomes["answered"] += 1
        for ad in answer.json()["ads"][:1]:
            time.sleep(READING_S)
            self.clicks[http.get(ad["click_url"]).status_code] += 1


@contextmanager
def opened(
    api: client.ApiClient,
    namespace: str,
    folder: Path,
    database: tuple[Path, str],
    spec: dict[str, Any],
    store: dict[str, str],
    seconds: float = 600,
) -> Iterator[LiveService]:
    """Create the service and wait until its first version serves.

    `database`: folder of its socket, and its address; `store`: variables of an object store, if one is used.
    """
    core: Any = client.CoreV1Api(api)
    socket, url = database
    address = url.replace(str(socket), "/database")
    secret = {"database": address, "secret": "a secret of the tests, long enough for one"}
    core.create_namespaced_secret(namespace, {"metadata": {"name": "auction"}, "stringData": secret})
    core.create_namespaced_secret(namespace, {"metadata": {"name": "store"}, "stringData": store})
    with shared_folder(api, namespace, "auction", folder), shared_folder(api, namespace, "database", socket):
        objects: Any = client.CustomObjectsApi(api)
        body = {"apiVersion": "/".join(PLACE), "kind": "AuctionService", "metadata": {"name": "ads"}, "spec": spec}
        objects.create_namespaced_custom_object(*PLACE, namespace, "auctionservices", body)
        service = LiveService(api, namespace, folder)
        eventually("the first version serves", lambda: service.serves(spec["model"]["name"]), seconds)
        yield service

"""Install, upgrade and uninstall on an API server: what comes, what changes, what stays."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from operators.resources.crds import KINDS
from tests.operators.charts.helm import DEFINITIONS, TRIAL, WHOLE, Helm
from tests.support.cluster.control_plane import ControlPlane

pytestmark = pytest.mark.cluster

# Without controllers no pod starts, so neither the hooks' jobs nor anything else is waited for.
INSTALL = ("--no-hooks", "--values", TRIAL)
MINE = ("-l", "app.kubernetes.io/instance=shop", "-o", "name", "--ignore-not-found")


@pytest.fixture
def undefined(own_control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """Return an API server without the kinds; other tests of the session find them again."""
    names = [kind.name for kind in KINDS]
    own_control_plane.kubectl("delete", "crd", *names, "--ignore-not-found", "--wait")
    yield own_control_plane
    own_control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(DEFINITIONS / "definitions"))
    own_control_plane.kubectl("wait", "crd", *names, "--for=condition=Established", "--timeout=60s")


def defined(plane: ControlPlane) -> set[str]:
    """Return the definitions of the kinds that the API server has."""
    found = plane.kubectl("get", "crds", "-o", "name").split()
    return {name.rpartition("/")[2] for name in found} & {kind.name for kind in KINDS}


def left(plane: ControlPlane, namespace: str) -> set[str]:
    """Return all objects of the release in its namespace, and its roles."""
    kinds = plane.kubectl("api-resources", "--verbs=list,delete", "--namespaced=true", "-o", "name").split()
    here = plane.kubectl("get", ",".join(kinds), "-n", namespace, *MINE, seconds=120).split()
    return {*here, *plane.kubectl("get", "clusterroles,clusterrolebindings", *MINE).split()}


def keys(plane: ControlPlane, namespace: str) -> dict[str, dict[str, str]]:
    """Return the content of the release's Secrets."""
    listed = json.loads(plane.kubectl("get", "secrets", "-n", namespace, *MINE[:2], "-o", "json"))
    return {item["metadata"]["name"]: item["data"] for item in listed["items"]}


def test_one_command_installs_the_trial_and_an_uninstall_leaves_what_the_docs_say(
    installing: Helm, undefined: ControlPlane, namespace: str
) -> None:
    place = ("--namespace", namespace)
    notes = installing("install", "shop", WHOLE, *place, *INSTALL)
    assert "wait auctionservice/ads --for=condition=Available" in notes
    assert defined(undefined) == {kind.name for kind in KINDS}
    installed = left(undefined, namespace)
    assert {"auctionservice.llm-auction.io/ads", "statefulset.apps/shop-llm-auction-kafka"} <= installed
    drawn = keys(undefined, namespace)
    assert set(drawn) == {f"shop-llm-auction-{name}" for name in ("keys", "postgres", "object-store")}

    installing("upgrade", "shop", WHOLE, *place, *INSTALL, platform={"routers": {"replicas": 3}})
    assert keys(undefined, namespace) == drawn
    assert left(undefined, namespace) == installed

    installing("uninstall", "shop", *place, "--no-hooks")
    assert left(undefined, namespace) == {f"secret/{name}" for name in drawn}
    assert defined(undefined) == {kind.name for kind in KINDS}

    installing("install", "shop", WHOLE, *place, *INSTALL)
    assert keys(undefined, namespace) == drawn
    installing("uninstall", "shop", *place, "--no-hooks")


def test_an_upgrade_migrates_a_database_that_is_there(
    installing: Helm, undefined: ControlPlane, namespace: str
) -> None:
    place = ("--namespace", namespace)
    installing("install", "shop", WHOLE, *place, "--no-hooks")
    for migrates in (False, True):
        installing("upgrade", "shop", WHOLE, *place, *INSTALL)
        assert ("name: shop-llm-auction-migrate" in installing("get", "hooks", "shop", *place)) == migrates
    installing("uninstall", "shop", *place, "--no-hooks")


def test_helm_upgrades_definitions_and_an_uninstall_keeps_them(
    installing: Helm, undefined: ControlPlane, namespace: str
) -> None:
    place = ("--namespace", namespace)
    undefined.kubectl("apply", "--server-side", "-f", str(DEFINITIONS / "definitions"))
    undefined.kubectl("annotate", "crd", KINDS[0].name, "former=yes")
    installing("upgrade", "--install", "kinds", DEFINITIONS, *place, "--take-ownership", "--force-conflicts")
    path = "jsonpath={.metadata.annotations.meta\\.helm\\.sh/release-name}"
    assert undefined.kubectl("get", "crd", KINDS[0].name, "-o", path) == "kinds"
    installing("uninstall", "kinds", *place)
    assert defined(undefined) == {kind.name for kind in KINDS}

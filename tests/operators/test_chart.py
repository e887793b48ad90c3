"""The Helm chart: what it renders, that it installs and uninstalls cleanly, that its commands have its options."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from cli.operator import operator
from cli.serve import serve
from cli.triton import app as triton_app
from cli.worker import app as worker_app
from operators import rbac
from operators.auctionservice.manifests import PolicyServers, manifests
from operators.auctionservice.observe import Desired
from operators.resources.auctionservice import AuctionServiceSpec, AuctionServiceStatus, Model
from operators.resources.crds import KINDS
from tests.support.cluster import tools
from tests.support.cluster.control_plane import ControlPlane

from .service_world import digest, spec

pytestmark = pytest.mark.cluster

CHART = Path(__file__).parents[2] / "charts" / "llm-auction"
EVERYTHING: dict[str, Any] = {
    "imagePullSecrets": [{"name": "registry"}],
    "auctionServices": {"ads": spec()},
    "workers": {
        "env": [{"name": "LLM_AUCTION_LOG", "value": "kafka"}],
        "envFrom": [{"secretRef": {"name": "kafka"}}],
        "volumes": [{"name": "lake", "persistentVolumeClaim": {"claimName": "lake"}}],
        "volumeMounts": [{"name": "lake", "mountPath": "/lake"}],
        "judge": {"enabled": True, "replicas": 2, "args": ["--sample=0.5"]},
        "lake": {"enabled": True, "url": "/lake"},
        "ledger": {"enabled": True, "databaseSecret": {"name": "auction"}},
    },
    "networkPolicy": {"metricsClients": [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}]},
}


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        return tools.locate("helm")
    except tools.ToolsMissing as error:
        pytest.skip(str(error))


class Helm:
    """The helm program, for an API server or without one."""

    def __init__(self, program: Path, folder: Path, kubeconfig: Path | None = None) -> None:
        self.program, self.folder = program, folder
        home = {name: str(folder) for name in ("HOME", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}
        self.environment = home | ({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {})

    def try_(self, *arguments: str, **values: Any) -> subprocess.CompletedProcess[str]:
        given = list(arguments)
        if values:
            path = self.folder / "values.json"
            path.write_text(json.dumps(values))
            given += ["--values", str(path)]
        command = [str(self.program), *given]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=False)

    def __call__(self, *arguments: str, **values: Any) -> str:
        done = self.try_(*arguments, **values)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def render(self, **values: Any) -> list[dict[str, Any]]:
        text = self("template", "shop", str(CHART), "--namespace", "ads", **values)
        return [item for item in yaml.safe_load_all(text) if item]


@pytest.fixture
def helm(program: Path, tmp_path: Path) -> Helm:
    return Helm(program, tmp_path)


@pytest.fixture
def installing(program: Path, tmp_path: Path, own_control_plane: ControlPlane) -> Helm:
    return Helm(program, tmp_path, own_control_plane.kubeconfig)


def named(items: list[dict[str, Any]], kind: str) -> set[str]:
    return {item["metadata"]["name"] for item in items if item["kind"] == kind}


def pods(items: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for item in items:
        if item["kind"] in ("Deployment", "StatefulSet"):
            yield item["metadata"]["name"], item["spec"]["template"]["spec"]


def test_the_chart_passes_helms_own_checks(helm: Helm) -> None:
    helm("lint", "--strict", str(CHART), **EVERYTHING)


def test_by_default_only_the_operator_runs(helm: Helm) -> None:
    items = helm.render()
    assert named(items, "Deployment") == {"shop-llm-auction-operator"}
    deployment = next(item for item in items if item["kind"] == "Deployment")
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]) == (1, {"type": "Recreate"})
    assert not [item for item in items if item["kind"] in ("Secret", "AuctionService", "PodMonitor")]


def test_no_pod_can_be_root_write_its_root_or_use_the_api_without_need(helm: Helm) -> None:
    found = dict(pods(helm.render(**EVERYTHING)))
    assert {name.rpartition("-")[2] for name in found} == {"operator", "judge", "lake", "ledger"}
    for name, pod in found.items():
        assert pod["securityContext"]["runAsNonRoot"]
        assert (pod.get("automountServiceAccountToken") is False) == ("operator" not in name)
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]


def test_each_replica_of_a_worker_owns_its_share_of_the_partitions(helm: Helm) -> None:
    judge = next(item for item in helm.render(**EVERYTHING) if item["metadata"]["name"].endswith("-judge"))
    assert (judge["kind"], judge["spec"]["replicas"]) == ("StatefulSet", 2)
    (container,) = judge["spec"]["template"]["spec"]["containers"]
    assert "--member=$(ORDINAL)/2" in container["args"]
    ordinal = next(variable for variable in container["env"] if variable["name"] == "ORDINAL")
    assert ordinal["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['apps.kubernetes.io/pod-index']"


def test_the_rights_are_those_of_the_code_and_bound_to_the_given_namespaces(helm: Helm) -> None:
    assert rbac.CHART.read_text(encoding="utf-8") == rbac.rendered(), "run `make crds`"
    wide = helm.render()
    role = next(i for i in wide if i["kind"] == "ClusterRole" and i["metadata"]["name"].endswith("-operator"))
    assert role["rules"] == rbac.rules("cluster") + rbac.rules("watched")
    assert not [item for item in wide if item["kind"] == "Role"]

    narrow = helm.render(operator={"namespaces": ["ads", "shoes"]})
    role = next(i for i in narrow if i["kind"] == "ClusterRole" and i["metadata"]["name"].endswith("-operator"))
    assert role["rules"] == rbac.rules("cluster")
    assert [i["metadata"]["namespace"] for i in narrow if i["kind"] == "Role"] == ["ads", "shoes"]
    arguments = next(pods(narrow))[1]["containers"][0]["args"]
    assert {"--namespace=ads", "--namespace=shoes"} <= set(arguments)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"operater": {}}, "operater"),
        ({"operator": {"threads": 0}}, "threads"),
        ({"workers": {"lake": {"enabled": True}}}, "url"),
        ({"workers": {"ledger": {"enabled": True}}}, "name"),
        ({"auctionServices": {"Ads": {}}}, "Ads"),
        ({"serviceAccount": {"create": False}}, "name the account"),
        ({"operator": {"namespaces": ["other"]}, "auctionServices": {"ads": spec()}}, "operator.namespaces: add"),
    ],
)
def test_invalid_values_are_refused(helm: Helm, values: dict[str, Any], expected: str) -> None:
    done = helm.try_("template", "shop", str(CHART), **values)
    assert done.returncode != 0
    assert expected in done.stderr


@pytest.mark.usefixtures("definitions")
def test_the_chart_installs_and_an_uninstall_leaves_only_the_definitions(
    installing: Helm, own_control_plane: ControlPlane, namespace: str
) -> None:
    place = ("--namespace", namespace)
    notes = installing("install", "shop", str(CHART), *place, **EVERYTHING)
    assert "wait auctionservice/ads --for=condition=Available" in notes
    mine = ("-l", "app.kubernetes.io/instance=shop", "-o", "name", "--ignore-not-found")
    kinds = own_control_plane.kubectl("api-resources", "--verbs=list,delete", "-o", "name").split()
    namespaced = own_control_plane.kubectl("api-resources", "--verbs=list", "--namespaced=true", "-o", "name").split()
    here = ",".join(kind for kind in kinds if kind in namespaced)
    everywhere = "clusterroles,clusterrolebindings"

    found = own_control_plane.kubectl("get", here, "-n", namespace, *mine, seconds=120).split()
    assert {"auctionservice.llm-auction.io/ads", "statefulset.apps/shop-llm-auction-ledger"} <= set(found)
    assert len(own_control_plane.kubectl("get", everywhere, *mine).split()) == 4

    installing("upgrade", "shop", str(CHART), *place, **{**EVERYTHING, "auctionServices": {}})
    assert "auctionservice" not in own_control_plane.kubectl("get", here, "-n", namespace, *mine, seconds=120)

    installing("uninstall", "shop", *place)
    assert own_control_plane.kubectl("get", here, "-n", namespace, *mine, seconds=120) == ""
    assert own_control_plane.kubectl("get", everywhere, *mine) == ""
    assert installing("list", *place, "--short") == ""
    definitions = own_control_plane.kubectl("get", "crds", "-o", "name").split()
    assert {f"customresourcedefinition.apiextensions.k8s.io/{kind.name}" for kind in KINDS} <= set(definitions)


def options(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def group(app: typer.Typer) -> dict[str, Any]:
    found: Any = typer.main.get_command(app)
    return dict(found.commands)


def single(function: Any) -> Any:
    app = typer.Typer()
    app.command()(function)
    return typer.main.get_command(app)


def test_the_commands_have_every_option_that_the_chart_and_the_operator_pass(helm: Helm) -> None:
    workers, triton = group(worker_app), group(triton_app)
    known = {
        "operator": single(operator),
        "serve": single(serve),
        "build": triton["build"],
        **workers,
    }
    service = AuctionServiceSpec.model_validate(
        spec(policy__source={"registry": "/models"}, policy__gpus=1, router__publicUrl="https://ads.example")
    )
    desired = Desired("ads", "shop", "u-1", 1, datetime.now(UTC), service, AuctionServiceStatus())
    items = manifests(desired, AuctionServiceStatus(), [PolicyServers(Model(name="v1", digest=digest("v1")), 1)])
    seen = set()
    for _, pod in (*pods(helm.render(**EVERYTHING)), *pods(items)):
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            command = container["command"]
            if command[0] != "llm-auction":
                continue
            name = next(word for word in reversed(command) if word in known)
            seen.add(name)
            given = {argument.partition("=")[0] for argument in container["args"]}
            assert given <= options(known[name])
    assert seen == {"operator", "serve", "build", "judge", "lake", "ledger"}

"""The charts of the definitions and of the operator."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from operators import rbac
from operators.resources.crds import CHART, KINDS, definition, rendered
from tests.operators.charts.helm import DEFINITIONS, OPERATOR, Helm, named, one, pods

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("chart", [DEFINITIONS, OPERATOR])
def test_the_charts_pass_helms_own_checks(helm: Helm, chart: Any) -> None:
    helm("lint", "--strict", chart)


def test_the_definitions_are_those_of_the_code_and_outlive_an_uninstall(helm: Helm) -> None:
    assert {file.name: file.read_text(encoding="utf-8") for file in CHART.iterdir()} == rendered(), "run `make crds`"
    items = {item["metadata"]["name"]: item for item in helm.render(DEFINITIONS)}
    assert set(items) == {kind.name for kind in KINDS}
    for kind in KINDS:
        item = items[kind.name]
        assert item["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert item == yaml.safe_load(yaml.safe_dump(definition(kind)))


def test_the_operators_chart_brings_the_definitions_to_a_cluster_that_lacks_them(helm: Helm) -> None:
    assert "CustomResourceDefinition" not in {item["kind"] for item in helm.render(OPERATOR)}
    text = helm("template", "shop", OPERATOR, "--include-crds")
    items = [item for item in yaml.safe_load_all(text) if item]
    assert named(items, "CustomResourceDefinition") == {kind.name for kind in KINDS}


def test_one_operator_runs_at_a_time(helm: Helm) -> None:
    items = helm.render(OPERATOR)
    assert named(items, "Deployment") == {"shop-llm-auction-operator"}
    deployment = one(items, "Deployment")
    assert deployment["spec"]["replicas"] == 2
    assert "--lease=ads/shop-llm-auction-operator" in dict(pods(items))["operator"]["containers"][0]["args"]
    assert one(items, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert not [item for item in items if item["kind"] in ("Secret", "PodMonitor")]


def test_by_default_the_operator_has_rights_in_its_own_namespace_only(helm: Helm) -> None:
    assert rbac.CHART.read_text(encoding="utf-8") == rbac.rendered(), "run `make crds`"
    items = helm.render(OPERATOR)
    role, lease = (one(items, "Role", name) for name in ("-operator", "-operator-lease"))
    assert (role["metadata"]["namespace"], role["rules"]) == ("ads", rbac.rules("watched"))
    assert (lease["metadata"]["namespace"], lease["rules"]) == ("ads", rbac.rules("own"))
    assert one(items, "ClusterRole", "-operator")["rules"] == rbac.rules("cluster")
    assert "--namespace=ads" in dict(pods(items))["operator"]["containers"][0]["args"]


def test_the_operators_rights_are_bound_to_the_given_namespaces(helm: Helm) -> None:
    items = helm.render(OPERATOR, namespaces=["ads", "shoes"])
    for kind in ("Role", "RoleBinding"):
        bound = [i for i in items if i["kind"] == kind and i["metadata"]["name"].endswith("-operator")]
        assert [i["metadata"]["namespace"] for i in bound] == ["ads", "shoes"]
    arguments = dict(pods(items))["operator"]["containers"][0]["args"]
    assert {"--namespace=ads", "--namespace=shoes"} <= set(arguments)


def test_the_whole_cluster_is_a_choice(helm: Helm) -> None:
    items = helm.render(OPERATOR, clusterWide=True)
    assert one(items, "ClusterRole", "-operator")["rules"] == rbac.rules("cluster") + rbac.rules("watched")
    assert named(items, "Role") == named(items, "RoleBinding") == {"shop-llm-auction-operator-lease"}
    arguments = dict(pods(items))["operator"]["containers"][0]["args"]
    assert not [argument for argument in arguments if argument.startswith("--namespace")]


def test_editors_of_a_namespace_cannot_write_a_status(helm: Helm) -> None:
    role = one(helm.render(OPERATOR), "ClusterRole", "-edit")
    assert role["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
    writes = {"create", "delete", "deletecollection", "patch", "update"}
    written = {resource for rule in role["rules"] if writes & set(rule["verbs"]) for resource in rule["resources"]}
    scalable = {f"{kind.plural}/scale" for kind in KINDS if kind.scale}
    assert written == {kind.plural for kind in KINDS} | scalable


def test_the_operator_reaches_the_api_server_and_routers_only(helm: Helm) -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}]
    settings = {"enabled": True, "metricsClients": peers}
    server = {"ports": [6443], "addresses": [{"ipBlock": {"cidr": "10.0.0.1/32"}}]}
    items = helm.render(OPERATOR, **{"global": {"networkPolicy": settings}, "apiServer": server})
    policy = one(items, "NetworkPolicy")["spec"]
    assert [rule["from"] for rule in policy["ingress"]] == [peers]
    _, api, routers = policy["egress"]
    assert api == {"ports": [{"port": 6443, "protocol": "TCP"}], "to": server["addresses"]}
    assert routers["to"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "router"
    off = helm.render(OPERATOR, **{"global": {"networkPolicy": {"enabled": False}}})
    assert not named(off, "NetworkPolicy")


def test_every_setting_of_the_operators_pod_arrives(helm: Helm) -> None:
    items = helm.render(
        OPERATOR,
        image="registry.example/operator:1",
        threads=9,
        logLevel="debug",
        resources={"limits": {"memory": "2Gi"}},
        nodeSelector={"disk": "fast"},
        tolerations=[{"operator": "Exists"}],
        priorityClassName="high",
        podLabels={"team": "ads"},
        podAnnotations={"note": "x"},
        serviceAccount={"create": True, "name": "mine", "annotations": {"role": "y"}},
        **{
            "global": {
                "imagePullPolicy": "Always",
                "imagePullSecrets": [{"name": "registry"}],
                "podSecurityContext": {"runAsUser": 7},
                "monitoring": {"podMonitors": {"enabled": True, "interval": "5s", "labels": {"release": "p"}}},
            }
        },
    )
    template = one(items, "Deployment")["spec"]["template"]
    pod = template["spec"]
    (container,) = pod["containers"]
    assert (container["image"], container["imagePullPolicy"]) == ("registry.example/operator:1", "Always")
    assert "--threads=9" in container["args"]
    assert {"name": "LLM_AUCTION_LOG_LEVEL", "value": "debug"} in container["env"]
    assert container["resources"]["limits"] == {"memory": "2Gi"}
    assert (pod["nodeSelector"], pod["tolerations"]) == ({"disk": "fast"}, [{"operator": "Exists"}])
    assert (pod["priorityClassName"], pod["imagePullSecrets"]) == ("high", [{"name": "registry"}])
    assert pod["securityContext"]["runAsUser"] == 7
    assert pod["serviceAccountName"] == "mine"
    assert template["metadata"]["labels"]["team"] == "ads"
    assert template["metadata"]["annotations"] == {"note": "x"}
    account = one(items, "ServiceAccount")["metadata"]
    assert (account["name"], account["annotations"]) == ("mine", {"role": "y"})
    monitor = one(items, "PodMonitor")
    assert monitor["metadata"]["labels"]["release"] == "p"
    assert monitor["spec"]["podMetricsEndpoints"] == [{"port": "metrics", "interval": "5s"}]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"imagee": ""}, "imagee"),
        ({"threads": 0}, "threads"),
        ({"serviceAccount": {"create": False}}, "name the account"),
        ({"clusterWide": True, "namespaces": ["ads"]}, "leave it empty with clusterWide"),
        ({"global": {"imagePulPolicy": "Always"}}, "imagePulPolicy"),
    ],
)
def test_invalid_values_are_refused(helm: Helm, values: dict[str, Any], expected: str) -> None:
    done = helm.try_("template", "shop", OPERATOR, **values)
    assert done.returncode != 0
    assert expected in done.stderr

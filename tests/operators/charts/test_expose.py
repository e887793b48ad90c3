"""How clients outside of the cluster reach the routers: Ingress and Gateway API, readers and administrators apart."""

from __future__ import annotations

from typing import Any

import pytest

from tests.operators.charts.helm import NAME, PLATFORM, ROUTERS, Helm, named, one

pytestmark = pytest.mark.cluster

HOSTS: dict[str, Any] = {
    "public": {"host": "ads.example", "tlsSecret": "ads-tls"},
    "admin": {"host": "admin.example", "tlsSecret": "admin-tls"},
}


def test_readers_reach_no_path_of_the_administrators(helm: Helm) -> None:
    ingress = {"enabled": True, "className": "nginx", "annotations": {"a": "b"}}
    items = helm.render(PLATFORM, expose={**HOSTS, "ingress": ingress, "service": "ads"})
    public, admin = (one(items, "Ingress", f"-{name}") for name in ("public", "admin"))
    assert public["spec"]["tls"] == [{"secretName": "ads-tls", "hosts": ["ads.example"]}]
    assert (public["spec"]["ingressClassName"], public["metadata"]["annotations"]) == ("nginx", {"a": "b"})
    (rule,) = public["spec"]["rules"]
    paths = {entry["path"] for entry in rule["http"]["paths"]}
    assert rule["host"] == "ads.example"
    assert {entry["backend"]["service"]["name"] for entry in rule["http"]["paths"]} == {"ads"}
    assert "/v1/chat/completions" in paths
    for private in ("/v1/campaigns", "/v1/keys", "/v1/reports", "/v1/summary", "/v1/session", "/console", "/metrics"):
        assert not [path for path in paths if (private + "/").startswith(path.rstrip("/") + "/")], private
    (rule,) = admin["spec"]["rules"]
    assert [entry["path"] for entry in rule["http"]["paths"]] == ["/"]


def test_a_gateway_has_a_listener_for_each_host(helm: Helm) -> None:
    items = helm.render(PLATFORM, **ROUTERS, expose={**HOSTS, "gateway": {"enabled": True, "className": "envoy"}})
    listeners = {entry["name"]: entry for entry in one(items, "Gateway")["spec"]["listeners"]}
    assert set(listeners) == {"public", "admin"}
    assert listeners["public"]["tls"]["certificateRefs"] == [{"name": "ads-tls"}]
    for name in listeners:
        route = one(items, "HTTPRoute", f"-{name}")["spec"]
        assert route["parentRefs"] == [{"name": NAME, "sectionName": name}]
        assert route["hostnames"] == [listeners[name]["hostname"]]
        assert route["rules"][0]["backendRefs"] == [{"name": f"{NAME}-router", "port": 80}]


def test_a_gateway_of_others_can_be_used(helm: Helm) -> None:
    gateway = {"enabled": True, "create": False, "name": "shared", "namespace": "infra"}
    items = helm.render(PLATFORM, expose={"service": "ads", "public": {"host": "ads.example"}, "gateway": gateway})
    assert not named(items, "Gateway")
    assert one(items, "HTTPRoute")["spec"]["parentRefs"][0]["namespace"] == "infra"


def test_without_tls_a_gateway_listens_on_http(helm: Helm) -> None:
    gateway = {"enabled": True, "className": "envoy"}
    expose = {"service": "ads", "public": {"host": "ads.example"}, "gateway": gateway}
    (listener,) = one(helm.render(PLATFORM, expose=expose), "Gateway")["spec"]["listeners"]
    assert (listener["port"], listener["protocol"], "tls" in listener) == (80, "HTTP", False)

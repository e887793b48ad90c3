"""The network policies of the platform: which pods they open to which, and that they close all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.operators.charts.helm import PLATFORM, PRODUCTION, TRIAL, WHOLE, Helm, Item, named, one, pods

pytestmark = pytest.mark.cluster


def selects(selector: Item, labels: dict[str, str]) -> bool:
    """Return whether a label selector selects a pod."""
    exact = all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())
    return exact and all(
        labels.get(each["key"]) in each["values"] if each["operator"] == "In" else each["key"] in labels
        for each in selector.get("matchExpressions", [])
    )


def ways(items: Sequence[Item], direction: str, labels: dict[str, str]) -> list[Item] | None:
    """Return the rules for a pod in one direction, Ingress or Egress; None where no policy closes it."""
    policies = [item["spec"] for item in items if item["kind"] == "NetworkPolicy"]
    closing = [p for p in policies if direction in p["policyTypes"] and selects(p["podSelector"], labels)]
    return [rule for p in closing for rule in p.get(direction.lower()) or []] if closing else None


def opened(rules: Sequence[Item], side: str, labels: dict[str, str], ports: Sequence[Any]) -> bool:
    """Return whether a rule names one of the ports and a pod of this namespace, or any address."""
    for rule in rules:
        fits = {entry["port"] for entry in rule.get("ports", [])} & set(ports) or "ports" not in rule
        peers = rule.get(side)
        if fits and (not peers or any(selects(p["podSelector"], labels) for p in peers if "podSelector" in p)):
            return True
    return False


def pod(component: str, **labels: str) -> dict[str, str]:
    """Return the labels of one of the release's pods."""
    own = {"app.kubernetes.io/name": "llm-auction", "app.kubernetes.io/component": component}
    return own | {"app.kubernetes.io/instance": "shop"} | labels


PARTS = {name: pod(name) for name in ("operator", "judge", "lake", "ledger", "kafka", "postgres", "object-store")}
PARTS |= {name: pod(name) for name in ("migrate", "first-model", "test")}
PARTS |= {name: pod(name, **{"llm-auction.io/auctionservice": "ads"}) for name in ("router", "policy")}
PARTS["training"] = {"llm-auction.io/irpojob": "ads-1"}
PORTS = {
    "kafka": (9092,),
    "postgres": (5432,),
    "object-store": (7070,),
    "router": ("http", "metrics"),
    "policy": ("grpc",),
}
WANTED = {
    "kafka": {"router", "judge", "lake", "ledger", "kafka"},
    "postgres": {"router", "ledger", "migrate"},
    "object-store": {"router", "policy", "lake", "first-model", "training"},
    "router": {"operator", "test"},
    "policy": {"router"},
}


def test_in_the_trial_each_pod_is_reached_by_those_that_need_it_alone(helm: Helm) -> None:
    items = helm.render(WHOLE, TRIAL)
    assert {name for name, _ in pods(items)} <= set(PARTS)
    for target, ports in PORTS.items():
        entry = ways(items, "Ingress", PARTS[target])
        assert entry is not None
        found = set()
        for source, labels in PARTS.items():
            leaving = ways(items, "Egress", labels)
            out = leaving is None or opened(leaving, "to", PARTS[target], ports)
            if out and opened(entry, "from", labels, ports):
                found.add(source)
        assert found == WANTED[target], target


def test_no_pod_of_the_release_is_left_open(helm: Helm) -> None:
    items = helm.render(WHOLE, TRIAL)
    for name, labels in PARTS.items():
        assert ways(items, "Ingress", labels) is not None, name
        assert ways(items, "Egress", labels) is not None, name


def test_what_lies_outside_is_reached_by_port_and_address(helm: Helm) -> None:
    peers = [{"ipBlock": {"cidr": "10.1.0.0/16"}}]
    external = {"eventLog": {"ports": [9096], "addresses": peers}}
    log = {"provider": "existing", "existing": {"servers": "k:9096"}}
    items = helm.render(PLATFORM, eventLog=log, networkPolicy={"external": external, "routerClients": peers})
    (rule,) = one(items, "NetworkPolicy", "-to-event-log")["spec"]["egress"]
    assert rule == {"ports": [{"port": 9096, "protocol": "TCP"}], "to": peers}
    clients, _ = one(items, "NetworkPolicy", "-routers")["spec"]["ingress"]
    assert peers[0] in clients["from"]


def test_scrapers_reach_metrics_only(helm: Helm) -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}]
    items = helm.render(PLATFORM, **{"global": {"networkPolicy": {"metricsClients": peers}}})
    for name in ("-routers", "-policies", "-metrics"):
        rules = one(items, "NetworkPolicy", name)["spec"]["ingress"]
        assert [r["ports"][0]["port"] for r in rules if peers[0] in r.get("from", [])] == ["metrics"]


def test_in_production_prometheus_reaches_every_pod_that_it_scrapes(helm: Helm) -> None:
    items = helm.render(WHOLE, PRODUCTION)
    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert len(named(items, "PodMonitor")) == 2
    for name in ("operator", "router", "policy", "judge", "lake", "ledger"):
        rules = ways(items, "Ingress", PARTS[name]) or []
        ports = [rule["ports"][0]["port"] for rule in rules if prometheus in rule.get("from", [])]
        assert ports == ["metrics"], name


def test_policies_can_be_left_to_others(helm: Helm) -> None:
    off = {"global": {"networkPolicy": {"enabled": False}}}
    assert not named(helm.render(WHOLE, TRIAL, **off), "NetworkPolicy")

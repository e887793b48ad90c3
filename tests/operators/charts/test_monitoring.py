"""Alerts and dashboards of the platform's chart: they are rendered, and name metrics that the code exports."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from judge.client import EndpointSettings
from judge.cost import Prices
from judge.endpoint import EndpointJudge, EndpointJudgeSettings
from operators.conditions import ServiceReason
from operators.metrics import OperatorMetrics
from serving.campaigns.types import Pricing
from serving.clicks.decision import VALID
from serving.ledger.worker import LedgerMetrics
from serving.metrics import Metrics
from streaming.log import Partition
from streaming.spool import ProducerMetrics
from streaming.workers.lake import LakeMetrics
from streaming.workers.metrics import WorkerMetrics
from tests.operators.charts.helm import PLATFORM, WHOLE, Helm, named, one

pytestmark = pytest.mark.cluster

FILES = PLATFORM / "files"


def exported() -> set[str]:
    """Return the names of all samples that routers, workers and the operator export."""
    registries = [Metrics().registry, OperatorMetrics().registry, CollectorRegistry()]
    for metrics in (LedgerMetrics, ProducerMetrics, LakeMetrics, WorkerMetrics):
        metrics(registries[-1])
    endpoint = EndpointSettings("http://judge", "m", None)
    EndpointJudge(EndpointJudgeSettings(endpoint, 1.0, None, Prices(0, 0), ""), registry=registries[-1])
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
    return {
        family.name + suffix
        for registry in registries
        for family in registry.collect()
        for suffix in suffixes[family.type]
    }


def expressions() -> list[str]:
    """Return every expression of the alerts and dashboards."""
    rules = yaml.safe_load((FILES / "alerts.yaml").read_text(encoding="utf-8"))
    found = [rule["expr"] for rule in rules.values()]
    for file in sorted((FILES / "dashboards").iterdir()):
        panels = json.loads(file.read_text(encoding="utf-8"))["panels"]
        found += [target["expr"] for panel in panels for target in panel["targets"]]
    return found


def test_every_metric_of_alerts_and_dashboards_exists() -> None:
    names = {name for expression in expressions() for name in re.findall(r"llm_auction_\w+", expression)}
    assert len(names) > 25
    assert names <= exported()


def test_every_label_value_of_alerts_and_dashboards_exists() -> None:
    text = "\n".join(expressions())
    assert set(re.findall(r'reason\W+"(\w+)"', text)) == {ServiceReason.ABORTED.value}
    assert set(re.findall(r'pricing="(\w+)"', text)) == {Pricing.CLICK.value}
    assert set(re.findall(r'validity="(\w+)"', text)) == {VALID}


def test_a_first_rollback_defect_or_dead_letter_is_an_increase() -> None:
    registry = OperatorMetrics().registry
    warnings = {"kind": "AuctionService", "type": "Warning"}
    for reason in ServiceReason:
        assert registry.get_sample_value("llm_auction_operator_events_total", warnings | {"reason": reason}) == 0
    defects = {"kind": "IRPOJob", "result": "defect"}
    assert registry.get_sample_value("llm_auction_operator_rounds_total", defects) == 0
    registry = CollectorRegistry()
    WorkerMetrics(registry).lags("lake", {Partition("clicks", 0): 7})
    letters = {"worker": "lake", "topic": "clicks"}
    assert registry.get_sample_value("llm_auction_worker_dead_letters_total", letters) == 0


def rendered_rules(helm: Helm, **alerts: Any) -> dict[str, Any]:
    """Return the rendered alerts by name."""
    monitoring = {"alerts": {"enabled": True, **alerts}}
    rule = one(helm.render(PLATFORM, monitoring=monitoring), "PrometheusRule")
    return {each["alert"]: each for each in rule["spec"]["groups"][0]["rules"]}


def test_alerts_are_of_this_namespace_and_have_their_limits(helm: Helm) -> None:
    given = yaml.safe_load((FILES / "alerts.yaml").read_text(encoding="utf-8"))
    rules = rendered_rules(helm)
    assert set(rules) == {f"LLMAuction{name}" for name in given}
    for name, rule in given.items():
        expression = rules[f"LLMAuction{name}"]["expr"]
        assert not re.search("NAMESPACE|LIMIT", expression)
        assert re.search(rf"[<>] {re.escape(str(rule['limit']))}$", expression)
    assert 'namespace="ads"' in rules["LLMAuctionWorkerLag"]["expr"]
    assert rules["LLMAuctionOperatorWithoutLeader"]["expr"].startswith("absent(llm_auction_operator_leading) or ")
    assert "{{ $labels.worker }}" in rules["LLMAuctionWorkerLag"]["annotations"]["summary"]


def test_alerts_can_be_changed_and_switched_off(helm: Helm) -> None:
    rules = rendered_rules(helm, limits={"FillRate": 0.3, "DeadLetters": 0}, disabled=["LakeAge"], labels={"team": "a"})
    assert rules["LLMAuctionFillRate"]["expr"].endswith("< 0.3")
    assert rules["LLMAuctionFillRate"]["labels"] == {"severity": "warning", "team": "a"}
    assert "LLMAuctionLakeAge" not in rules


def test_a_limit_of_an_unknown_alert_is_refused(helm: Helm) -> None:
    monitoring = {"alerts": {"enabled": True, "limits": {"FilRate": 0.3}}}
    done = helm.try_("template", "shop", PLATFORM, monitoring=monitoring)
    assert done.returncode != 0
    assert "FilRate" in done.stderr


def test_dashboards_are_configmaps_that_grafanas_sidecar_finds(helm: Helm) -> None:
    items = helm.render(PLATFORM, monitoring={"dashboards": {"enabled": True, "labels": {"grafana_dashboard": "yes"}}})
    maps = [item for item in items if item["kind"] == "ConfigMap"]
    assert len(maps) == len(list((FILES / "dashboards").iterdir()))
    for item in maps:
        assert item["metadata"]["labels"]["grafana_dashboard"] == "yes"
        ((name, text),) = item["data"].items()
        assert json.loads(text) == json.loads((FILES / "dashboards" / name.removeprefix("llm-auction-")).read_text())


def test_each_pod_is_scraped_once(helm: Helm) -> None:
    items = helm.render(WHOLE, **{"global": {"monitoring": {"podMonitors": {"enabled": True}}}})
    components = [
        component
        for item in items
        if item["kind"] == "PodMonitor"
        for component in (
            [item["spec"]["selector"]["matchLabels"].get("app.kubernetes.io/component")]
            if "matchExpressions" not in item["spec"]["selector"]
            else item["spec"]["selector"]["matchExpressions"][0]["values"]
        )
    ]
    assert sorted(components) == ["judge", "lake", "ledger", "operator", "policy", "router"]
    assert not named(helm.render(WHOLE), "PodMonitor")

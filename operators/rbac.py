"""The operator's RBAC rules, derived from `operators.kube.USED`. `make crds` writes them for the chart."""

from __future__ import annotations

from pathlib import Path

import yaml

from operators.kube import USED, Scope
from operators.resources.base import Manifest

CHART = Path(__file__).parents[1] / "charts" / "llm-auction-operator" / "files" / "rules.yaml"
HEADER = "# Generated from USED in operators/kube.py by `make crds`. Do not edit.\n"


def rules(scope: Scope) -> list[Manifest]:
    """Return the rules of a scope: each reconciled namespace, the operator's own namespace, or the cluster."""
    result: list[Manifest] = []
    for (version, _), use in USED.items():
        if use.scope != scope:
            continue
        group = version.rpartition("/")[0]
        result.append({"apiGroups": [group], "resources": [use.plural], "verbs": sorted(use.verbs)})
        if use.status_verbs:
            result.append(
                {"apiGroups": [group], "resources": [f"{use.plural}/status"], "verbs": sorted(use.status_verbs)}
            )
    return result


def rendered() -> str:
    """Render the lists as YAML for the chart's templates."""
    lists = {"cluster": rules("cluster"), "namespaced": rules("watched"), "own": rules("own")}
    return HEADER + yaml.safe_dump(lists, sort_keys=False)


if __name__ == "__main__":
    CHART.write_text(rendered(), encoding="utf-8")

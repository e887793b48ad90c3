"""The operator's rights, made of what `operators.kube` says it uses. The chart's role is written by `make crds`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from operators.kube import USED

CHART = Path(__file__).parents[1] / "charts" / "llm-auction" / "files" / "rules.yaml"
HEADER = "# Made from USED in operators/kube.py by `make crds`. Do not edit.\n"


def rules(*, cluster: bool) -> list[dict[str, Any]]:
    """Rules for what lives in the cluster as a whole (`cluster`), or in each namespace looked after."""
    found = []
    for (version, _), use in USED.items():
        if use.namespaced == cluster:
            continue
        group = version.rpartition("/")[0]
        found.append({"apiGroups": [group], "resources": [use.plural], "verbs": sorted(use.verbs)})
        if use.status_verbs:
            found.append(
                {"apiGroups": [group], "resources": [f"{use.plural}/status"], "verbs": sorted(use.status_verbs)}
            )
    return found


def rendered() -> str:
    """Both lists as YAML, for the chart's templates."""
    told = {"cluster": rules(cluster=True), "namespaced": rules(cluster=False)}
    return HEADER + yaml.safe_dump(told, sort_keys=False)


if __name__ == "__main__":
    CHART.write_text(rendered(), encoding="utf-8")

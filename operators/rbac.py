"""The operator's rights, made of what `operators.kube` says it uses. The chart's role is written by `make crds`."""

from __future__ import annotations

from typing import Any

from operators.kube import USED


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

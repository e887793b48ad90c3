"""The documents' example resources, changed by path, and created at the API server as `kubectl apply` would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from kubernetes import client

PLACE = ("llm-auction.io", "v1alpha1")
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "operators"


def example(name: str, **changes: Any) -> dict[str, Any]:
    """Return the example `name` with changes in its spec by dotted path (`steps__optimisation__pods=3`)."""
    resource: dict[str, Any] = yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))
    for path, value in changes.items():
        *parents, last = path.split("__")
        at = resource["spec"]
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    return resource


def create(api: client.ApiClient, namespace: str, plural: str, resource: dict[str, Any]) -> dict[str, Any]:
    """Create a resource with strict field validation, and return it as the API server keeps it."""
    kept: dict[str, Any] = client.CustomObjectsApi(api).create_namespaced_custom_object(
        *PLACE, namespace, plural, resource, field_validation="Strict"
    )
    return kept

"""The helm program, and what tests ask of its output."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

CHARTS = Path(__file__).parents[3] / "charts"
DEFINITIONS, OPERATOR, PLATFORM, WHOLE = (
    CHARTS / name for name in ("llm-auction-crds", "llm-auction-operator", "llm-auction-platform", "llm-auction")
)
TRIAL, PRODUCTION = (WHOLE / "profiles" / f"{name}.yaml" for name in ("trial", "production-gpu"))
Item = dict[str, Any]

NAME = "shop-llm-auction"
"""How the objects of a release `shop` begin."""
CONNECTED: dict[str, Any] = {
    "secrets": {"name": "keys"},
    "database": {"provider": "existing", "secret": {"name": "db"}},
    "eventLog": {"provider": "existing", "existing": {"servers": "kafka:9093", "userSecret": "kafka"}},
    "objectStore": {"provider": "existing", "existing": {"url": "s3://auction/p/", "secret": "s3"}},
}
ROUTERS: dict[str, Any] = {**CONNECTED, "routers": {"enabled": True, "policy": {"upstream": {"url": "http://vllm"}}}}


class Helm:
    """The helm program, for an API server or without one."""

    def __init__(self, program: Path, folder: Path, kubeconfig: Path | None = None) -> None:
        self.program, self.folder = program, folder
        home = {name: str(folder) for name in ("HOME", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}
        self.environment = home | ({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {})

    def try_(self, *arguments: str | Path, **values: Any) -> subprocess.CompletedProcess[str]:
        """Run helm; `values` are those of the chart."""
        given = list(arguments)
        if values:
            path = self.folder / "values.json"
            path.write_text(json.dumps(values))
            given += ["--values", path]
        command = [str(self.program), *map(str, given)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=False)

    def __call__(self, *arguments: str | Path, **values: Any) -> str:
        """Run helm and return its output."""
        done = self.try_(*arguments, **values)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def render(self, chart: Path, *profiles: Path, **values: Any) -> list[Item]:
        """Return the objects of a release `shop` in the namespace `ads`."""
        files = [part for profile in profiles for part in ("--values", profile)]
        text = self("template", "shop", chart, "--namespace", "ads", *files, **values)
        return [item for item in yaml.safe_load_all(text) if item]


def named(items: Sequence[Item], kind: str) -> set[str]:
    """Return the names of the objects of a kind."""
    return {item["metadata"]["name"] for item in items if item["kind"] == kind}


def one(items: Sequence[Item], kind: str, name: str = "") -> Item:
    """Return the object of a kind, or the one whose name ends with `name`."""
    (found,) = (item for item in items if item["kind"] == kind and item["metadata"]["name"].endswith(name))
    return found


def pods(items: Sequence[Item]) -> Iterator[tuple[str, Item]]:
    """Return the pods' specifications by the component that they are."""
    for item in items:
        if item["kind"] in ("Deployment", "StatefulSet", "Job"):
            template = item["spec"]["template"]
            yield template["metadata"]["labels"]["app.kubernetes.io/component"], template["spec"]
        elif item["kind"] == "Pod":
            yield item["metadata"]["labels"]["app.kubernetes.io/component"], item["spec"]


def variables(container: Item) -> dict[str, Any]:
    """Return a container's environment: values, and (Secret, key) where a Secret has them."""
    found: dict[str, Any] = {}
    for variable in container["env"]:
        source = variable.get("valueFrom", {}).get("secretKeyRef")
        found[variable["name"]] = (source["name"], source["key"]) if source else variable.get("value")
    return found

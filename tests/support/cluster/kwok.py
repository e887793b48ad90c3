"""Nodes that exist in the API only: pods on them run and end as kwok.yaml says, and nothing is executed.

For many nodes, many pods, and GPUs that this machine does not have. A node that executes pods is in `node`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.support.cluster import tools
from tests.support.cluster.certificates import MASTERS
from tests.support.cluster.control_plane import ControlPlane, ready_nodes

BEHAVIOUR = Path(__file__).with_suffix(".yaml")
ANNOTATION = "kwok.x-k8s.io/node"
"""Of every such node, with the value `fake`."""
RUN_FOR = "kwok.llm-auction.io/run-for"
"""Annotation of a Job's pod: how long it runs, as `5s`."""
EXIT_CODE = "kwok.llm-auction.io/exit-code"
"""Annotation of a Job's pod: with which code its containers end."""
READY_S = 60.0


def start(plane: ControlPlane) -> None:
    """Starts kwok's controller on a running control plane. Raises ToolsMissing where it has not been built."""
    program = tools.locate("kwok")
    access = plane.authority.kubeconfig(plane.folder / "kwok.kubeconfig", plane.url, "kwok", [MASTERS])
    plane.processes.start("kwok", [program, f"--kubeconfig={access}", f"--config={BEHAVIOUR}"])


def add_nodes(
    plane: ControlPlane,
    count: int,
    *,
    prefix: str = "kwok",
    resources: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    tainted: bool = False,
) -> list[str]:
    """Adds nodes of one kind and returns their names once all are Ready. `resources` are added to 32 CPUs, 256 GiB
    and 110 pods: {"nvidia.com/gpu": "8"}. To `tainted` ones come only pods that tolerate the taint ANNOTATION: for a
    cluster that has a node which runs the others."""
    capacity = {"cpu": "32", "memory": "256Gi", "pods": "110", **(resources or {})}
    names = [f"{prefix}-{number}" for number in range(count)]
    nodes = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "annotations": {ANNOTATION: "fake"},
                "labels": {"kubernetes.io/hostname": name, "type": "kwok", **(labels or {})},
            },
            "spec": {"taints": [{"key": ANNOTATION, "value": "fake", "effect": "NoSchedule"}] if tainted else []},
            "status": {"capacity": capacity, "allocatable": capacity},
        }
        for name in names
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".json", dir=plane.folder) as manifest:
        json.dump({"apiVersion": "v1", "kind": "List", "items": nodes}, manifest)
        manifest.flush()
        plane.kubectl("create", "-f", manifest.name)
    plane.processes.wait_until(f"{count} nodes that are Ready", lambda: ready_nodes(plane) >= set(names), READY_S)
    return names

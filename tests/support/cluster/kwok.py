"""Nodes that exist only in the API: pods on them run and end as kwok.yaml says, and nothing is executed.

For many nodes, many pods, and GPUs that this machine does not have. `node` has a node that executes pods.
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
"""Annotation of every simulated node, with the value `fake`."""
RUN_FOR = "kwok.llm-auction.io/run-for"
"""Annotation of a Job's pod: how long it runs, such as `5s`."""
EXIT_CODE = "kwok.llm-auction.io/exit-code"
"""Annotation of a Job's pod: the exit code of its containers."""
READY_S = 60.0


def start(plane: ControlPlane) -> None:
    """Start kwok's controller on a running control plane; raises ToolsMissing if it has not been built."""
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
    """Add nodes of one kind and return their names when all are Ready.

    Each has 32 CPUs, 256 GiB and 110 pods, and `resources` such as {"nvidia.com/gpu": "8"}. `tainted` nodes get only
    pods that tolerate the taint ANNOTATION, for clusters in which a real node runs the others.
    """
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

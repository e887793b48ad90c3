"""A training job from its first step to the registered model, in pods that really run, with DeepSpeed over two pods.

Minutes on a quiet machine; half an hour on one busy core.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from benchmarks.operators.operating import Running
from operators.irpojob.observe import JOB_LABEL, STEP_LABEL
from operators.resources.irpojob import IRPOJobSpec
from tests.support.cluster.node import Node
from trainers.artifacts.registry import Registry
from trainers.artifacts.run_directory import RunDirectory
from trainers.optimisation.launch import run_optimisation
from trainers.optimisation.worker import COMPLETE, TRAJECTORY, OptimisationJob

from .conftest import eventually
from .live_service import shared_folder

PLACE = ("llm-auction.io", "v1alpha1")
STEP_S = 1500.0
CONFIG: dict[str, Any] = {
    "base": "tiny",
    "epochs": 1,
    "world": {"kind": "builtin", "candidates": 6},
    "feedback": {"contexts": 64, "answers": 2},
    "reward": {"passes": 3},
    "rollout": {"contexts": 16, "samples": 4, "max_new_tokens": 64},
    "preference": {"delta": 0.5},
    "optimisation": {"batch": 4, "learning_rate": 2e-5, "precision": "float32", "checkpoint_steps": 2, "passes": 2},
    "evaluation": {"validation": 8},
    "guards": {"min_ads_per_answer": 0.0, "reward_hacking_drop": 100.0},
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


@pytest.fixture
def runs(tmp_path: Path, pods_api: client.ApiClient, pods_namespace: str) -> Iterator[Path]:
    """Share a folder of this machine with the pods."""
    folder = tmp_path / "runs"
    folder.mkdir()
    with shared_folder(pods_api, pods_namespace, "runs", folder):
        yield folder


def spec_of(image: str, stage: int) -> dict[str, Any]:
    """Return a specification with two pods for rollouts and two for optimisation."""
    return {
        "image": image,
        "config": {**CONFIG, "optimisation": {**CONFIG["optimisation"], "zero_stage": stage}},
        "storage": {"url": "/runs/auction"},
        "volumes": [{"name": "runs", "mountPath": "/runs", "persistentVolumeClaim": {"claimName": "runs"}}],
        "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
        "steps": {"rollouts": {"pods": 2}, "optimisation": {"pods": 2}},
        "backoffSeconds": 1,
        "maxRestarts": 2,
    }


def losses_of_one_process(run: Path, spec: dict[str, Any], out: Path) -> list[float]:
    """Run the same optimisation on the same pairs in this process without DeepSpeed; return its losses."""
    config = IRPOJobSpec.model_validate(spec).run_config("tiny-run")
    alone = config.optimisation.at_epoch(1).model_copy(update={"processes": 1, "zero_stage": None})
    pairs = RunDirectory(run).phase("pairs", 1).fetch() / "groups.parquet"
    seed = config.seed * 1_000_003 + 101 + 6
    job = OptimisationJob("tiny", str(pairs), str(out), str(out.with_name("checkpoints")), seed, alone)
    return [entry["loss"] for entry in run_optimisation(job, lambda *_: None)]


@pytest.mark.parametrize(("stage", "disturbed"), [(1, False), (2, True)])
def test_two_pods_under_deepspeed_train_as_one_process(
    own_node: Node,
    running: Running,
    runs: Path,
    pods_api: client.ApiClient,
    pods_namespace: str,
    pod_image: str,
    tmp_path: Path,
    stage: int,
    disturbed: bool,
) -> None:
    objects, core = client.CustomObjectsApi(pods_api), client.CoreV1Api(pods_api)
    spec = spec_of(pod_image, stage)
    body = {"apiVersion": "/".join(PLACE), "kind": "IRPOJob", "metadata": {"name": "tiny-run"}, "spec": spec}
    objects.create_namespaced_custom_object(*PLACE, pods_namespace, "irpojobs", body)
    run = runs / "auction" / "tiny-run"

    def status() -> dict[str, Any]:
        found: dict[str, Any] = objects.get_namespaced_custom_object(*PLACE, pods_namespace, "irpojobs", "tiny-run")
        return found.get("status", {})

    def ended() -> bool:
        return status().get("phase") in ("Complete", "Failed")

    if disturbed:
        # Delete a worker once there is a checkpoint: the step continues from it.
        checkpoints = run / "epoch-001" / "policy.checkpoints"
        eventually("a checkpoint is complete", lambda: ended() or any(checkpoints.glob(f"*/{COMPLETE}")), 3 * STEP_S)
        assert not ended(), status()
        labels = f"{JOB_LABEL}=tiny-run,{STEP_LABEL}=optimisation"
        worker = sorted(
            pod.metadata.name for pod in core.list_namespaced_pod(pods_namespace, label_selector=labels).items
        )[1]
        core.delete_namespaced_pod(worker, pods_namespace, grace_period_seconds=0)
    eventually("the job has ended", ended, 4 * STEP_S)
    found = status()
    assert found["phase"] == "Complete", json.dumps(found, indent=1)
    assert found["restarts"] == (1 if disturbed else 0)
    trajectory = json.loads((run / "epoch-001" / "policy" / TRAJECTORY).read_text(encoding="utf-8"))
    expected = losses_of_one_process(run, spec, tmp_path / "alone")
    assert len(expected) >= 6
    assert [entry["loss"] for entry in trajectory] == pytest.approx(expected, rel=2e-3, abs=2e-4)
    if found["bestEpoch"]:
        assert Registry(str(runs / "auction")).get(found["modelVersion"]).run.endswith("tiny-run")

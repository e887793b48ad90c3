"""The objects of an IRPOJob: their content, and that the API server accepts them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from operators.irpojob.manifests import config_map, service, step_job
from operators.irpojob.observe import Desired
from operators.irpojob.plan import EPOCH_STEPS, SHORT, Place, Step, job_name, places
from operators.resources.irpojob import IRPOJobSpec, IRPOJobStatus
from tests.support.cluster.control_plane import ControlPlane
from trainers.config import GateSettings, parse_config

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "operators"
SINGLE = (Step.REWARD, Step.REGISTRATION)
"""Steps of one pod."""
GOLDEN = Path(__file__).with_name("golden") / "h100-optimisation.yaml"


def job_of(example: str, namespace: str = "default", **changes: Any) -> Desired:
    """Return an example as the operator reads it."""
    example_job = yaml.safe_load((EXAMPLES / f"{example}.yaml").read_text(encoding="utf-8"))
    spec = IRPOJobSpec.model_validate({**example_job["spec"], **changes})
    return Desired(example_job["metadata"]["name"], namespace, "0-0-0", 1, datetime.now(UTC), spec, IRPOJobStatus())


def container(job: Desired, step: Step) -> dict[str, Any]:
    """Return the container of a step's pods."""
    [only] = step_job(job, Place(1, step), 0)["spec"]["template"]["spec"]["containers"]
    return dict(only)


HERE = {"matchLabels": {"llm-auction.io/irpojob": "quick"}}
RACK = {"labelSelector": HERE, "topologyKey": "topology.kubernetes.io/zone"}
GPU_NODES = {
    "matchExpressions": [{"key": "gpu", "operator": "In", "values": ["h100"]}, {"key": "x", "operator": "Exists"}]
}
EVERY_FIELD: dict[str, Any] = {
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [GPU_NODES]},
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 5, "preference": GPU_NODES}],
        },
        "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [RACK]},
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": RACK}]
        },
    },
    "runtimeClassName": "nvidia",
    "schedulerName": "volcano",
    "hostNetwork": True,
    "initContainers": [
        {"name": "fetch", "image": "tools:1", "command": ["fetch"], "volumeMounts": [{"name": "x", "mountPath": "/x"}]},
        {"name": "logs", "image": "logs:1", "restartPolicy": "Always", "env": [{"name": "A", "value": "1"}]},
    ],
    "volumes": [
        {
            "name": "x",
            "mountPath": "/scratch",
            "ephemeral": {"volumeClaimTemplate": {"spec": {"resources": {"requests": {"storage": "100Gi"}}}}},
        }
    ],
    "steps": {
        "optimisation": {
            "resourceClaims": [
                {"name": "gpus", "resourceClaimTemplateName": "four-gpus"},
                {"name": "fabric", "resourceClaimName": "fabric", "request": "nic"},
            ]
        }
    },
}


@pytest.mark.parametrize("example", ["01-quick", "02-two-pods", "03-h100", "every field"])
def test_the_api_server_accepts_every_object(
    own_control_plane: ControlPlane, namespace: str, tmp_path: Path, example: str
) -> None:
    job = (
        job_of("01-quick", namespace, **EVERY_FIELD, storage={"url": "s3://b/p"})
        if example == "every field"
        else job_of(example, namespace)
    )
    steps = places(1, job.spec.steps)
    items = [config_map(job), service(job), *(step_job(job, place, 0) for place in steps)]
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all(items), encoding="utf-8")
    output = own_control_plane.kubectl("create", "--dry-run=server", "--validate=strict", "-o", "name", "-f", str(file))
    assert len(output.splitlines()) == 2 + len(steps)


def test_the_optimisation_on_eight_nodes_of_eight_h100_is_as_reviewed() -> None:
    job = step_job(job_of("03-h100"), Place(2, Step.OPTIMISATION), 1)
    assert job == yaml.safe_load(GOLDEN.read_text(encoding="utf-8"))


def test_the_configuration_is_the_trainers_own_with_the_jobs_name_and_processes() -> None:
    config = parse_config(config_map(job_of("03-h100"))["data"]["config.yaml"], "config.yaml")
    assert (config.name, config.optimisation.processes, config.optimisation.zero_stage) == ("qwen3-4b", 64, 2)


def test_a_queue_admits_each_step() -> None:
    job = step_job(job_of("01-quick", queueName="training"), Place(1, Step.PAIRS), 0)
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "training"
    assert job["spec"]["suspend"] is True
    assert "suspend" not in step_job(job_of("01-quick"), Place(1, Step.PAIRS), 0)["spec"]


def test_gpus_are_requested_only_for_steps_that_have_some() -> None:
    job = job_of("02-two-pods", gpu={"type": "NVIDIA-L4"}, steps={"rollouts": {"gpus": 2}})
    with_gpus = step_job(job, Place(1, Step.ROLLOUTS), 0)["spec"]["template"]["spec"]
    without = step_job(job, Place(1, Step.PAIRS), 0)["spec"]["template"]["spec"]
    assert with_gpus["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert with_gpus["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 2}
    assert "nodeSelector" not in without
    assert "limits" not in without["containers"][0]["resources"]


def test_a_variable_of_a_step_overrides_that_of_the_job() -> None:
    env = [{"name": "A", "value": "job"}, {"name": "B", "value": "job"}]
    job = job_of("02-two-pods", env=env, steps={"pairs": {"env": [{"name": "A", "value": "step"}]}})
    variables = {one["name"]: one["value"] for one in container(job, Step.PAIRS)["env"]}
    assert variables == {"HOME": "/tmp", "LLM_AUCTION_CACHE": "/shared/cache", "A": "step", "B": "job"}


def test_pods_get_no_token_and_no_privileges() -> None:
    pod = step_job(job_of("01-quick"), Place(1, Step.PAIRS), 0)["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }


def test_each_pod_of_a_step_over_contexts_has_its_shard() -> None:
    pods = {"feedback": 3, "rollouts": 4, "pairs": 5, "evaluation": 6}
    job = job_of("01-quick", steps={name: {"pods": count} for name, count in pods.items()})
    for name, count in pods.items():
        expected = ["--epoch", "1", "--phase", name, "--shard", f"$(JOB_COMPLETION_INDEX)/{count}"]
        assert container(job, Step(name))["args"][-6:] == expected
    assert container(job, Step.REWARD)["args"][-4:] == ["--phase", "feedback", "--phase", "reward_model"]


def test_rollouts_of_a_trainer_that_leaves_them_unmerged_are_merged_before_the_pairs() -> None:
    job = job_of("02-two-pods")
    assert container(job, Step.PAIRS)["args"][-6:] == ["--phase", "rollouts", "--shard", "all/4", "--phase", "pairs"]
    assert "--shard" not in container(job_of("01-quick"), Step.PAIRS)["args"]


def test_only_the_registration_gets_the_gates() -> None:
    gates = {"min_auc": 0.6, "offpolicy": {"action": "ads"}}
    log = {"config": {"feedback": {"source": "lake", "path": "/data/lake"}, "epochs": 1}}
    job = job_of("01-quick", gates=gates, **log)
    parsed = GateSettings.model_validate(yaml.safe_load(config_map(job)["data"]["gates.yaml"]))
    assert (parsed.min_auc, parsed.offpolicy.action) == (0.6, "ads")
    assert container(job, Step.REGISTRATION)["args"][-2:] == ["--gates", "/etc/llm-auction/gates.yaml"]
    own = [step for step in EPOCH_STEPS if step is not Step.FEEDBACK]
    assert all("--gates" not in container(job, step)["args"] for step in own)
    assert "gates.yaml" not in config_map(job_of("01-quick"))["data"]
    assert "--gates" not in container(job_of("01-quick"), Step.REGISTRATION)["args"]


def test_the_longest_pod_names_are_valid_host_names() -> None:
    longest = job_name("a" * 40, Place(999, Step.REGISTRATION), 9999)
    assert len(longest) <= 63
    assert max(len(f"{job_name('a' * 40, Place(999, step), 9999)}-1023") for step in SHORT if step not in SINGLE) <= 63


def test_every_pod_field_reaches_the_pods() -> None:
    job = job_of("01-quick", storage={"url": "s3://b/p"}, **EVERY_FIELD)
    pod = step_job(job, Place(1, Step.OPTIMISATION), 0)["spec"]["template"]["spec"]
    assert pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]["topologyKey"]
    assert (pod["runtimeClassName"], pod["schedulerName"]) == ("nvidia", "volcano")
    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    assert [one["name"] for one in pod["initContainers"]] == ["fetch", "logs"]
    for one in pod["initContainers"]:
        assert one["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert pod["initContainers"][1]["restartPolicy"] == "Always"
    assert [volume for volume in pod["volumes"] if "ephemeral" in volume]
    assert pod["resourceClaims"] == [
        {"name": "gpus", "resourceClaimTemplateName": "four-gpus"},
        {"name": "fabric", "resourceClaimName": "fabric"},
    ]
    claims = pod["containers"][0]["resources"]["claims"]
    assert claims == [{"name": "gpus"}, {"name": "fabric", "request": "nic"}]
    other = step_job(job, Place(1, Step.PAIRS), 0)["spec"]["template"]["spec"]
    assert "resourceClaims" not in other

"""The objects that a job is made of: its configuration, the name service of its pods, and one Job for each step.

All of them belong to the job by owner reference, so that Kubernetes removes them with it, operator or no operator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from operators.irpojob.observed import ATTEMPT_LABEL, EPOCH_LABEL, JOB_LABEL, STEP_LABEL, Desired
from operators.irpojob.plan import Place, Step, job_name, pods_of
from operators.resources.base import API_VERSION
from operators.resources.irpojob import IRPOJobSpec, OptimisationPods, StepPods
from operators.resources.pods import EnvVar
from trainers.config import dump_config

KIND = "IRPOJob"
LABELS = {"app.kubernetes.io/managed-by": "llm-auction-operator", "app.kubernetes.io/part-of": "llm-auction"}
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
CONFIG_FOLDER = "/etc/llm-auction"
GATES_FILE = "gates.yaml"
CONTAINER = "train"
LOCK_WAIT_S = 900
"""How long pods wait for the run's lock: an object store's lease of a dead pod ends after five minutes."""
SHUTDOWN_S = 30
MESSAGE = "/dev/termination-log"


def config_name(job: Desired) -> str:
    """Name of the ConfigMap with the run's configuration."""
    return f"{job.name}-config"


def service_name(job: Desired) -> str:
    """Name of the headless Service under which the job's pods find each other."""
    return f"{job.name}-pods"


def config_map(job: Desired) -> dict[str, Any]:
    """The run's configuration and its gates, as the trainer reads them."""
    data = {"config.yaml": dump_config(job.spec.run_config(job.name))}
    if job.spec.gates is not None:
        data[GATES_FILE] = yaml.safe_dump(job.spec.gates, sort_keys=True)
    return {
        **_head(job, "v1", "ConfigMap", config_name(job), {JOB_LABEL: job.name}),
        "immutable": True,
        "data": data,
    }


def service(job: Desired) -> dict[str, Any]:
    """Gives each pod of a step a name of its own, ready or not."""
    return {
        **_head(job, "v1", "Service", service_name(job), {JOB_LABEL: job.name}),
        "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {JOB_LABEL: job.name}},
    }


def step_job(job: Desired, place: Place, attempt: int) -> dict[str, Any]:
    """The Job of an attempt at a step: every pod at once, and none of them tried again by Kubernetes itself."""
    count, pods = pods_of(job.spec, place.step)
    labels = {
        JOB_LABEL: job.name,
        EPOCH_LABEL: str(place.epoch),
        STEP_LABEL: str(place.step),
        ATTEMPT_LABEL: str(attempt),
    }
    spec: dict[str, Any] = {
        "backoffLimit": 0,
        "completions": count,
        "parallelism": count,
        "completionMode": "Indexed",
        "template": {
            "metadata": {
                "labels": {**job.spec.pod_labels, **LABELS, **labels},
                "annotations": {**job.spec.pod_annotations, **pods.pod_annotations},
            },
            "spec": _pod(job, place, attempt, pods),
        },
    }
    head = _head(job, "batch/v1", "Job", job_name(job.name, place, attempt), labels)
    if job.spec.queue_name is not None:
        head["metadata"]["labels"][QUEUE_LABEL] = job.spec.queue_name
        spec["suspend"] = True
    return {**head, "spec": spec}


def _head(job: Desired, version: str, kind: str, name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    owner = {"apiVersion": API_VERSION, "kind": KIND, "name": job.name, "uid": job.uid, "controller": True}
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": job.namespace,
            "labels": {**LABELS, **labels},
            "ownerReferences": [owner],
        },
    }


def _pod(job: Desired, place: Place, attempt: int, pods: StepPods) -> dict[str, Any]:
    """One pod of a step, with the run's configuration in it and a name of its own."""
    volume = {"name": "config", "configMap": {"name": config_name(job)}}
    mount = {"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True}
    pod = pod_around(job.spec, pods, arguments(job, place, attempt), [(volume, mount)])
    return {**pod, "subdomain": service_name(job)}


def pod_around(
    spec: IRPOJobSpec,
    pods: StepPods,
    arguments: Sequence[str],
    own: Sequence[tuple[dict[str, Any], dict[str, Any]]] = (),
) -> dict[str, Any]:
    """A pod that runs the console script with these arguments, as the specification has pods. `own`: further volumes
    and their mounts."""
    selector = {**spec.node_selector, **pods.node_selector}
    if pods.gpus and spec.gpu.type is not None:
        selector[spec.gpu.node_label] = spec.gpu.type
    volumes = [*(volume for volume, _ in own), *(v.source() for v in spec.volumes)]
    mounts = [*(mount for _, mount in own), *(v.mount() for v in spec.volumes)]
    if pods.shared_memory is not None:
        volumes.append(
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": str(pods.shared_memory)}}
        )
        mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})
    capabilities: dict[str, Any] = {"drop": ["ALL"]}
    if isinstance(pods, OptimisationPods) and pods.ipc_lock:
        capabilities["add"] = ["IPC_LOCK"]
    container = {
        "name": CONTAINER,
        "image": spec.image,
        "imagePullPolicy": spec.image_pull_policy,
        "args": list(arguments),
        "command": ["llm-auction"],
        "env": _environment(spec, pods),
        "envFrom": [one.to_api() for one in spec.env_from],
        "resources": _resources(spec, pods),
        "volumeMounts": mounts,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": capabilities},
        # the last words of a pod that failed are in its status, and so in the job's, when the pod is gone
        "terminationMessagePath": MESSAGE,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    result: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": SHUTDOWN_S,
        "enableServiceLinks": False,
        "automountServiceAccountToken": spec.service_account_name is not None,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}, **spec.pod_security.to_api()},
        "containers": [container],
        "volumes": volumes,
    }
    if selector:
        result["nodeSelector"] = selector
    if spec.tolerations:
        result["tolerations"] = [one.to_api() for one in spec.tolerations]
    if spec.image_pull_secrets:
        result["imagePullSecrets"] = [one.to_api() for one in spec.image_pull_secrets]
    if spec.priority_class_name is not None:
        result["priorityClassName"] = spec.priority_class_name
    if spec.service_account_name is not None:
        result["serviceAccountName"] = spec.service_account_name
    return result


def _environment(spec: IRPOJobSpec, pods: StepPods) -> list[dict[str, Any]]:
    """Ours first, then the job's, then the step's: a name given again replaces what came before it."""
    # the images' user has no home, and libraries want one
    ours: dict[str, dict[str, Any]] = {"HOME": {"name": "HOME", "value": "/tmp"}}
    if spec.storage.cache is not None:
        ours["LLM_AUCTION_CACHE"] = {"name": "LLM_AUCTION_CACHE", "value": spec.storage.cache}
    given: list[EnvVar] = [*spec.env, *pods.env]
    return list({**ours, **{one.name: one.to_api() for one in given}}.values())


def _resources(spec: IRPOJobSpec, pods: StepPods) -> dict[str, Any]:
    asked = pods.resources.to_api()
    if pods.gpus:
        asked["limits"] = {**asked.get("limits", {}), spec.gpu.resource: pods.gpus}
    return asked


def run_url(job: Desired) -> str:
    """The run directory."""
    return f"{job.spec.storage.url}/{job.name}"


def arguments(job: Desired, place: Place, attempt: int) -> list[str]:
    """What the console script is asked to do in a step's pods."""
    always = [
        "--log-format",
        "json",
        "train",
        f"{CONFIG_FOLDER}/config.yaml",
        "--out",
        run_url(job),
        "--wait",
        str(LOCK_WAIT_S),
        "--outcome",
        MESSAGE,
    ]
    count, pods = pods_of(job.spec, place.step)
    own: list[str] = []
    match place.step:
        case Step.REWARD:
            own = ["--phase", "feedback", "--phase", "reward_model"]
        case Step.ROLLOUTS:
            own = ["--phase", "rollouts"]
            if count > 1:
                own += ["--shard", f"$(JOB_COMPLETION_INDEX)/{count}"]
        case Step.PAIRS:
            shards = job.spec.steps.rollouts.pods
            # the shards of the rollouts become one here, where one pod is alone with the run
            own = [*(["--phase", "rollouts", "--shard", f"all/{shards}"] if shards > 1 else []), "--phase", "pairs"]
        case Step.OPTIMISATION:
            own = ["--phase", "policy"]
            if count > 1:
                assert isinstance(pods, OptimisationPods)
                name, service = job_name(job.name, place, attempt), service_name(job)
                own += [
                    "--node",
                    f"$(JOB_COMPLETION_INDEX)/{count}",
                    "--meet",
                    f"{name}-0.{service}:{pods.port}",
                    "--address",
                    f"{name}-$(JOB_COMPLETION_INDEX).{service}",
                ]
        case Step.EVALUATION:
            own = ["--phase", "evaluation"]
        case Step.REGISTRATION:
            return always if job.spec.gates is None else [*always, "--gates", f"{CONFIG_FOLDER}/{GATES_FILE}"]
    return [*always, "--epoch", str(place.epoch), *own]

"""The objects of an IRPOJob: a ConfigMap with its configuration, a headless Service for its pods, a Job per step.

All have an owner reference to the IRPOJob, so that Kubernetes deletes them with it even while no operator runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml

from operators.irpojob.observe import ATTEMPT_LABEL, EPOCH_LABEL, JOB_LABEL, STEP_LABEL, Desired
from operators.irpojob.plan import Place, Step, job_name, pods_of
from operators.objects import owned_object
from operators.resources.base import Manifest
from operators.resources.irpojob import IRPOJobSpec, OptimisationPods, StepPods
from operators.resources.pods import EnvVar, InitContainer
from trainers.config import dump_config

KIND = "IRPOJob"
LABELS = {"app.kubernetes.io/managed-by": "llm-auction-operator", "app.kubernetes.io/part-of": "llm-auction"}
POD_LABELS = {**LABELS, "app.kubernetes.io/name": "llm-auction", "app.kubernetes.io/component": "training"}
"""Labels by which monitors and network policies select training pods."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
CONFIG_FOLDER = "/etc/llm-auction"
GATES_FILE = "gates.yaml"
CONTAINER = "train"
LOCK_WAIT_S = 900
"""How long pods wait for the run's lock. In an object store, the lease of a dead pod expires after five minutes."""
SHUTDOWN_S = 30
TERMINATION_LOG = "/dev/termination-log"
CONTAINER_SECURITY = {"allowPrivilegeEscalation": False}


def config_name(job: Desired) -> str:
    """Return the name of the ConfigMap with the run's configuration."""
    return f"{job.name}-config"


def service_name(job: Desired) -> str:
    """Return the name of the headless Service by which the pods of a step resolve each other."""
    return f"{job.name}-pods"


def config_map(job: Desired) -> Manifest:
    """Render the configuration of the run and its gates, as the trainer reads them."""
    data = {"config.yaml": dump_config(job.spec.run_config(job.name))}
    if job.spec.gates is not None:
        data[GATES_FILE] = yaml.safe_dump(job.spec.gates, sort_keys=True)
    return {
        **_object(job, "v1", "ConfigMap", config_name(job), {JOB_LABEL: job.name}),
        "immutable": True,
        "data": data,
    }


def service(job: Desired) -> Manifest:
    """Render the headless Service, which gives each pod a DNS name before it is ready."""
    return {
        **_object(job, "v1", "Service", service_name(job), {JOB_LABEL: job.name}),
        "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {JOB_LABEL: job.name}},
    }


def step_job(job: Desired, place: Place, attempt: int) -> Manifest:
    """Render the Job of an attempt at a step: all pods at once, and no retries by Kubernetes."""
    count, pods = pods_of(job.spec, place.step)
    labels = {
        JOB_LABEL: job.name,
        EPOCH_LABEL: str(place.epoch),
        STEP_LABEL: str(place.step),
        ATTEMPT_LABEL: str(attempt),
    }
    spec: Manifest = {
        "backoffLimit": 0,
        "completions": count,
        "parallelism": count,
        "completionMode": "Indexed",
        "template": {
            "metadata": {
                "labels": {**job.spec.pod_labels, **POD_LABELS, **labels},
                "annotations": {**job.spec.pod_annotations, **pods.pod_annotations},
            },
            "spec": _pod(job, place, attempt, pods),
        },
    }
    result = _object(job, "batch/v1", "Job", job_name(job.name, place, attempt), labels)
    if job.spec.queue_name is not None:
        result["metadata"]["labels"][QUEUE_LABEL] = job.spec.queue_name
        spec["suspend"] = True
    return {**result, "spec": spec}


def _object(job: Desired, version: str, kind: str, name: str, labels: Mapping[str, str]) -> Manifest:
    return owned_object(job, KIND, version, kind, name, {**LABELS, **labels})


def _pod(job: Desired, place: Place, attempt: int, pods: StepPods) -> Manifest:
    """Render a pod of a step: with the run's configuration mounted and a DNS name."""
    volume = {"name": "config", "configMap": {"name": config_name(job)}}
    mount = {"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True}
    pod = pod_around(job.spec, pods, arguments(job, place, attempt), [(volume, mount)])
    return {**pod, "subdomain": service_name(job)}


def pod_around(
    spec: IRPOJobSpec,
    pods: StepPods,
    arguments: Sequence[str],
    extra_volumes: Sequence[tuple[Manifest, Manifest]] = (),
) -> Manifest:
    """Render a pod that runs the console script with these arguments. `extra_volumes`: volumes with their mounts."""
    selector = {**spec.node_selector, **pods.node_selector}
    if pods.gpus and spec.gpu.type is not None:
        selector[spec.gpu.node_label] = spec.gpu.type
    volumes = [*(volume for volume, _ in extra_volumes), *(v.source() for v in spec.volumes)]
    mounts = [*(mount for _, mount in extra_volumes), *(v.mount() for v in spec.volumes)]
    if pods.shared_memory is not None:
        volumes.append(
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": str(pods.shared_memory)}}
        )
        mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})
    capabilities: Manifest = {"drop": ["ALL"]}
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
        "securityContext": {**CONTAINER_SECURITY, "capabilities": capabilities},
        # A failed pod's output is kept in its status, from which the operator copies it before the pod is gone.
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    result: Manifest = {
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
    if spec.init_containers:
        result["initContainers"] = [_init_container(spec, one) for one in spec.init_containers]
    if pods.resource_claims:
        result["resourceClaims"] = [_without(one.to_api(), "request") for one in pods.resource_claims]
    if spec.affinity is not None:
        result["affinity"] = spec.affinity.to_api()
    if spec.runtime_class_name is not None:
        result["runtimeClassName"] = spec.runtime_class_name
    if spec.scheduler_name is not None:
        result["schedulerName"] = spec.scheduler_name
    if spec.host_network:
        # The names of the step's pods are the cluster's, also on a node's network.
        result |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    if spec.tolerations:
        result["tolerations"] = [one.to_api() for one in spec.tolerations]
    if spec.image_pull_secrets:
        result["imagePullSecrets"] = [one.to_api() for one in spec.image_pull_secrets]
    if spec.priority_class_name is not None:
        result["priorityClassName"] = spec.priority_class_name
    if spec.service_account_name is not None:
        result["serviceAccountName"] = spec.service_account_name
    return result


def _init_container(spec: IRPOJobSpec, container: InitContainer) -> Manifest:
    return {
        **container.to_api(),
        "imagePullPolicy": spec.image_pull_policy,
        "securityContext": {**CONTAINER_SECURITY, "capabilities": {"drop": ["ALL"]}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _without(item: Manifest, field: str) -> Manifest:
    return {key: value for key, value in item.items() if key != field}


def _environment(spec: IRPOJobSpec, pods: StepPods) -> list[Manifest]:
    """Merge the variables of the operator, the job and the step; later ones replace earlier ones of the same name."""
    # The images' user has no home directory, but libraries expect one.
    defaults: dict[str, Manifest] = {"HOME": {"name": "HOME", "value": "/tmp"}}
    if spec.storage.cache is not None:
        defaults["LLM_AUCTION_CACHE"] = {"name": "LLM_AUCTION_CACHE", "value": spec.storage.cache}
    specified: list[EnvVar] = [*spec.env, *pods.env]
    return list({**defaults, **{one.name: one.to_api() for one in specified}}.values())


def _resources(spec: IRPOJobSpec, pods: StepPods) -> Manifest:
    resources = pods.resources.to_api()
    if pods.gpus:
        resources["limits"] = {**resources.get("limits", {}), spec.gpu.resource: pods.gpus}
    if pods.resource_claims:
        claims = [{"name": one.name, "request": one.request} for one in pods.resource_claims]
        resources["claims"] = [_without(one, "request") if one["request"] is None else one for one in claims]
    return resources


def run_url(job: Desired) -> str:
    """Return the URL or path of the run directory."""
    return f"{job.spec.storage.url}/{job.name}"


def arguments(job: Desired, place: Place, attempt: int) -> list[str]:
    """Return the console script's arguments in a step's pods."""
    common = [
        "--log-format",
        "json",
        "train",
        f"{CONFIG_FOLDER}/config.yaml",
        "--out",
        run_url(job),
        "--wait",
        str(LOCK_WAIT_S),
        "--outcome",
        TERMINATION_LOG,
    ]
    count, pods = pods_of(job.spec, place.step)
    step_arguments: list[str] = []
    shard = ["--shard", f"$(JOB_COMPLETION_INDEX)/{count}"] if count > 1 else []
    match place.step:
        case Step.FEEDBACK | Step.ROLLOUTS | Step.PAIRS | Step.EVALUATION:
            step_arguments = ["--phase", str(place.step), *shard]
            before = job.spec.steps.rollouts.pods
            if place.step is Step.PAIRS and count == 1 and before > 1:
                # The last shard has merged them, unless the trainer is of an earlier release.
                step_arguments = ["--phase", "rollouts", "--shard", f"all/{before}", *step_arguments]
        case Step.REWARD:
            # The feedback is finished already where it is a step of its own.
            step_arguments = ["--phase", "feedback", "--phase", "reward_model"]
        case Step.OPTIMISATION:
            step_arguments = ["--phase", "policy"]
            if count > 1:
                assert isinstance(pods, OptimisationPods)
                name, service = job_name(job.name, place, attempt), service_name(job)
                step_arguments += [
                    "--node",
                    f"$(JOB_COMPLETION_INDEX)/{count}",
                    "--meet",
                    f"{name}-0.{service}:{pods.port}",
                    "--address",
                    f"{name}-$(JOB_COMPLETION_INDEX).{service}",
                ]
        case Step.REGISTRATION:
            return common if job.spec.gates is None else [*common, "--gates", f"{CONFIG_FOLDER}/{GATES_FILE}"]
    return [*common, "--epoch", str(place.epoch), *step_arguments]

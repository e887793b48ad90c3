"""The objects of an AuctionService as Kubernetes manifests, rendered from its specification and status."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from operators.auctionservice.observe import (
    DIGEST_LABEL,
    METRICS_PORT,
    PART_LABEL,
    POLICY,
    ROUTER,
    SERVICE_LABEL,
    Desired,
)
from operators.objects import owned_object
from operators.resources.auctionservice import AuctionServiceStatus, Served, ServerSettings, Traffic
from operators.resources.base import GROUP, Manifest
from operators.resources.routers import Pods

KIND = "AuctionService"
VERSION_LABEL = f"{GROUP}/version"
HTTP_PORT = 8080
TRITON_HTTP, TRITON_GRPC, TRITON_METRICS = 8000, 8001, 8002
ROUTES_FOLDER, ROUTES_FILE = "/etc/llm-auction/routes", "routes.json"
STATE = "/var/lib/llm-auction"
BUILT = f"{STATE}/models"
PRE_STOP_S = 10
"""How long a pod keeps serving after its removal from the endpoints: other nodes learn of that with a delay."""
SHUTDOWN_MARGIN_S = 15
TERMINATION_MESSAGE_POLICY = "FallbackToLogsOnError"
"""The end of a failed container's log becomes part of its status, where the operator reads it."""


def router_name(service: str) -> str:
    """Return the name of the routers' Deployment, autoscaler and disruption budget."""
    return f"{service}-router"


def routes_name(service: str) -> str:
    """Return the name of the ConfigMap with the route file."""
    return f"{service}-routes"


def policy_name(service: str, version: Served | Traffic) -> str:
    """Return the name of a version's Deployment and Service."""
    return f"{service}-policy-{version.key}"


def routes_file(service: Desired, status: AuctionServiceStatus) -> str:
    """Render the route file that `llm-auction serve --routes` reads (serving/policies/route_file.py)."""
    versions = [
        {
            "name": one.name,
            "weight": one.weight,
            "policy": f"triton {policy_name(service.name, one)}.{service.namespace}.svc:{TRITON_GRPC}",
            "digest": one.digest,
            **{name: value for name, value in (("revision", one.revision), ("base", one.base)) if value},
        }
        for one in status.traffic
    ]
    return json.dumps({"generation": status.routes_generation, "versions": versions}, indent=1) + "\n"


@dataclass(frozen=True, slots=True)
class PolicyServers:
    """The policy servers of a version; `unavailable`: how many may be missing while their pods are replaced."""

    version: Served
    settings: ServerSettings
    replicas: int
    unavailable: int = 0


def manifests(
    service: Desired, status: AuctionServiceStatus, policies: Sequence[PolicyServers], routers: int | None = None
) -> list[Manifest]:
    """Render all objects of a service in the order of their creation.

    `routers` is the number of routers; None leaves it as it is, once an autoscaler has set it.
    """
    result: list[Manifest] = []
    for one in policies:
        result += [_policy_service(service, one.version), _policy_deployment(service, one)]
    result += [
        _object(service, "v1", "ConfigMap", routes_name(service.name), ROUTER)
        | {"data": {ROUTES_FILE: routes_file(service, status)}},
        _router_service(service),
        _router_deployment(service, routers),
        _disruption_budget(service),
    ]
    if service.spec.router.autoscaling is not None:
        result.append(_autoscaler(service))
    return result


def selector(service: str, part: str) -> dict[str, str]:
    """Return the labels that select the pods of a part (routers or policy servers)."""
    return {SERVICE_LABEL: service, PART_LABEL: part}


def _object(service: Desired, version: str, kind: str, name: str, part: str, **labels: str) -> Manifest:
    labels = {"app.kubernetes.io/name": "llm-auction", **selector(service.name, part), **labels}
    return owned_object(service, KIND, version, kind, name, labels)


def _router_service(service: Desired) -> Manifest:
    ports = [
        {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"},
        {"name": "metrics", "port": METRICS_PORT, "targetPort": "metrics", "protocol": "TCP"},
    ]
    spec = {"selector": selector(service.name, ROUTER), "ports": ports}
    return _object(service, "v1", "Service", service.name, ROUTER) | {"spec": spec}


def _router_deployment(service: Desired, replicas: int | None) -> Manifest:
    router = service.spec.router
    options = {
        "host": "0.0.0.0",
        "port": HTTP_PORT,
        "metrics": f"0.0.0.0:{METRICS_PORT}",
        "state-dir": STATE,
        "model": router.model_name,
        "routes": f"{ROUTES_FOLDER}/{ROUTES_FILE}",
        "currency": router.currency,
        "candidates": router.candidates,
        "max-ads": router.max_ads,
        "in-flight": router.in_flight,
        "drain": router.drain_seconds,
        "address-per-minute": router.address_per_minute,
        "key-per-minute": router.key_per_minute,
        "key-per-day": router.key_per_day,
        "connections": router.connections,
        "head-timeout": router.head_seconds,
        "body-timeout": router.body_seconds,
        "stale-keys": router.stale_keys_seconds,
        "trusted-proxies": ",".join(router.trusted_proxies) or None,
        "forwarded-header": router.forwarded_header,
        "block-advertisers": router.block_advertisers,
        "stop-ads-after": router.stop_ads_after_seconds,
        "repeat-fade": router.repeat_fade,
        "max-characters": router.max_characters,
        "public-url": router.public_url,
    }
    arguments = [f"--{name}={value}" for name, value in options.items() if value is not None]
    arguments += [f"--highest-bid={bid}" for bid in router.highest_bids]
    sources = {
        "LLM_AUCTION_DATABASE": router.database,
        "LLM_AUCTION_SECRET": router.secret,
        "LLM_AUCTION_OTHER_SECRETS": router.other_secrets,
    }
    secrets = [{"name": name, "valueFrom": source.to_api()} for name, source in sources.items() if source is not None]
    container = {
        "name": "router",
        "image": router.image,
        "imagePullPolicy": service.spec.image_pull_policy,
        "command": ["llm-auction", "serve"],
        "args": [*arguments, "--no-demo", *(["--anonymous"] if router.anonymous else [])],
        "env": [*secrets, {"name": "HOME", "value": "/tmp"}, *(one.to_api() for one in router.env)],
        "ports": [
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
        ],
        "startupProbe": _probe("/livez", "http", period=2, failures=90),
        "livenessProbe": _probe("/livez", "http", period=10, failures=3),
        "readinessProbe": _probe("/readyz", "http", period=3, failures=2),
        "terminationMessagePolicy": TERMINATION_MESSAGE_POLICY,
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_S}}},
    }
    volumes = [
        _routes_volume(service),
        ({"name": "llm-auction-state", "emptyDir": {}}, STATE, False),
        ({"name": "llm-auction-tmp", "emptyDir": {}}, "/tmp", False),
    ]
    template = _template(service, router, ROUTER, container, volumes)
    template["spec"]["terminationGracePeriodSeconds"] = PRE_STOP_S + router.drain_seconds + SHUTDOWN_MARGIN_S
    template["spec"]["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector(service.name, ROUTER)},
        }
    ]
    spec = _deployment_spec(service, ROUTER, template)
    if replicas is not None:
        spec["replicas"] = replicas
    return _object(service, "apps/v1", "Deployment", router_name(service.name), ROUTER) | {"spec": spec}


def _policy_service(service: Desired, version: Served) -> Manifest:
    """Render a headless Service, so that the routers' gRPC clients balance over the pods that its name resolves to."""
    ports = [
        {"name": "grpc", "port": TRITON_GRPC, "targetPort": "grpc", "protocol": "TCP"},
        {"name": "metrics", "port": TRITON_METRICS, "targetPort": "metrics", "protocol": "TCP"},
    ]
    pods = {**selector(service.name, POLICY), DIGEST_LABEL: version.key}
    name = policy_name(service.name, version)
    spec = {"clusterIP": "None", "selector": pods, "ports": ports}
    return _object(service, "v1", "Service", name, POLICY, **_version(version)) | {"spec": spec}


def _policy_deployment(service: Desired, servers: PolicyServers) -> Manifest:
    policy, version = servers.settings, servers.version
    repository = policy.source.repository or BUILT
    container: Manifest = {
        "name": "policy",
        "image": policy.image,
        "imagePullPolicy": service.spec.image_pull_policy,
        "command": ["tritonserver"],
        "args": [
            f"--model-repository={repository}",
            "--model-control-mode=explicit",
            f"--load-model=policy-{version.loaded[:12]}",
            "--disable-auto-complete-config",
            f"--http-port={TRITON_HTTP}",
            f"--grpc-port={TRITON_GRPC}",
            f"--metrics-port={TRITON_METRICS}",
            *policy.args,
        ],
        "env": [{"name": "HOME", "value": "/tmp"}, *(one.to_api() for one in policy.env)],
        "ports": [
            {"name": "http", "containerPort": TRITON_HTTP, "protocol": "TCP"},
            {"name": "grpc", "containerPort": TRITON_GRPC, "protocol": "TCP"},
            {"name": "metrics", "containerPort": TRITON_METRICS, "protocol": "TCP"},
        ],
        "startupProbe": _probe("/v2/health/ready", "http", period=5, failures=max(2, policy.start_seconds // 5)),
        "livenessProbe": _probe("/v2/health/live", "http", period=10, failures=6),
        "readinessProbe": _probe("/v2/health/ready", "http", period=3, failures=2),
        "terminationMessagePolicy": TERMINATION_MESSAGE_POLICY,
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_S}}},
    }
    volumes = [
        (
            {"name": "llm-auction-shm", "emptyDir": {"medium": "Memory", "sizeLimit": policy.shared_memory}},
            "/dev/shm",
            False,
        ),
        ({"name": "llm-auction-tmp", "emptyDir": {}}, "/tmp", False),
    ]
    if policy.source.registry is not None:
        volumes.append(({"name": "llm-auction-models", "emptyDir": {}}, BUILT, False))
        if version.base:
            volumes.append(_routes_volume(service))
    template = _template(service, policy, POLICY, container, volumes, **_version(version))
    if policy.source.registry is not None:
        template["spec"]["initContainers"] = _builders(service, servers, template["spec"]["containers"][0])
    if policy.gpus:
        resources = template["spec"]["containers"][0].setdefault("resources", {})
        resources["limits"] = {**resources.get("limits", {}), policy.gpu_resource: policy.gpus}
    template["spec"]["terminationGracePeriodSeconds"] = (
        PRE_STOP_S + service.spec.router.drain_seconds + SHUTDOWN_MARGIN_S
    )
    spec = _deployment_spec(service, POLICY, template, **{DIGEST_LABEL: version.key})
    spec["replicas"] = servers.replicas
    spec["strategy"]["rollingUpdate"]["maxUnavailable"] = servers.unavailable
    spec["minReadySeconds"] = service.spec.policy.min_ready_seconds
    spec["progressDeadlineSeconds"] = policy.start_seconds + service.spec.policy.min_ready_seconds + 600
    name = policy_name(service.name, version)
    return _object(service, "apps/v1", "Deployment", name, POLICY, **_version(version)) | {"spec": spec}


def _builders(service: Desired, servers: PolicyServers, server: Manifest) -> list[Manifest]:
    """Render the init containers that build the model repository from the registry.

    For adapters they are the same whatever the version: one waits for the first adapter of the route file, a sidecar
    builds those that come later.
    """
    policy, version = servers.settings, servers.version
    container = {
        "image": policy.builder_image,
        "imagePullPolicy": service.spec.image_pull_policy,
        "env": server["env"],
        "envFrom": server["envFrom"],
        "terminationMessagePolicy": TERMINATION_MESSAGE_POLICY,
        "volumeMounts": [one for one in server["volumeMounts"] if one["mountPath"] != "/dev/shm"],
        "securityContext": server["securityContext"],
        "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
    }
    device = ["--device=gpu"] if policy.gpus else []
    registry = str(policy.source.registry)
    if not version.base:
        command = ["llm-auction", "triton", "build", registry]
        arguments = [f"--version={version.name}", f"--out={BUILT}", *device]
        return [{"name": "build", "command": command, "args": arguments, **container}]
    command = ["llm-auction", "triton", "follow", registry]
    routes = f"{ROUTES_FOLDER}/{ROUTES_FILE}"
    arguments = [f"--routes={routes}", f"--base={version.base}", f"--out={BUILT}", *device]
    return [
        {"name": "build", "command": command, "args": [*arguments, "--once"], **container},
        {"name": "adapters", "command": command, "args": arguments, "restartPolicy": "Always", **container},
    ]


def _routes_volume(service: Desired) -> tuple[Manifest, str, bool]:
    return {"name": "llm-auction-routes", "configMap": {"name": routes_name(service.name)}}, ROUTES_FOLDER, True


def _template(
    service: Desired,
    pods: Pods,
    part: str,
    container: Manifest,
    volumes: Sequence[tuple[Manifest, str, bool]],
    **labels: str,
) -> Manifest:
    """Render the pod template around a container. `volumes`: source, mount path, read-only."""
    security = pods.pod_security.to_api()
    container = container | {
        "resources": pods.resources.to_api(),
        "envFrom": [one.to_api() for one in pods.env_from],
        "volumeMounts": [
            *(
                {"name": source["name"], "mountPath": path, "readOnly": read_only}
                for source, path, read_only in volumes
            ),
            *(volume.mount() for volume in pods.volumes),
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    spec: Manifest = {
        "containers": [container],
        "volumes": [*(source for source, _, _ in volumes), *(volume.source() for volume in pods.volumes)],
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}, **security},
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "nodeSelector": dict(pods.node_selector),
        "tolerations": [one.to_api() for one in pods.tolerations],
        "imagePullSecrets": [one.to_api() for one in service.spec.image_pull_secrets],
    }
    if pods.priority_class_name is not None:
        spec["priorityClassName"] = pods.priority_class_name
    if pods.service_account_name is not None:
        spec["serviceAccountName"] = pods.service_account_name
    pod_labels = {"app.kubernetes.io/name": "llm-auction", **selector(service.name, part), **labels}
    metadata = {"labels": {**pods.pod_labels, **pod_labels}, "annotations": dict(pods.pod_annotations)}
    return {"metadata": metadata, "spec": spec}


def _deployment_spec(service: Desired, part: str, template: Manifest, **labels: str) -> Manifest:
    """Render the part that both Deployments share: new pods are ready before old ones end."""
    return {
        "selector": {"matchLabels": {**selector(service.name, part), **labels}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "revisionHistoryLimit": 3,
        "template": template,
    }


def _disruption_budget(service: Desired) -> Manifest:
    spec = {
        "maxUnavailable": service.spec.router.max_unavailable,
        "selector": {"matchLabels": selector(service.name, ROUTER)},
    }
    name = router_name(service.name)
    return _object(service, "policy/v1", "PodDisruptionBudget", name, ROUTER) | {"spec": spec}


def _autoscaler(service: Desired) -> Manifest:
    scaling = service.spec.router.autoscaling
    assert scaling is not None
    name = router_name(service.name)
    target = {"type": "Utilization", "averageUtilization": scaling.target_cpu_percent}
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "minReplicas": scaling.min_replicas,
        "maxReplicas": scaling.max_replicas,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": scaling.scale_down_seconds}},
    }
    return _object(service, "autoscaling/v2", "HorizontalPodAutoscaler", name, ROUTER) | {"spec": spec}


def _version(version: Served) -> dict[str, str]:
    """Return the labels of a version's servers; those that adapters share are named by the base."""
    name = f"base-{version.base[:12]}" if version.base else version.name
    return {VERSION_LABEL: name, DIGEST_LABEL: version.key}


def _probe(path: str, port: str, period: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }

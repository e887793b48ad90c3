"""The objects that a service consists of, as Kubernetes' manifests. What goes into them is decided elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from operators.auctionservice.observed import Desired
from operators.resources.auctionservice import AuctionServiceStatus, Model, Pods
from operators.resources.base import API_VERSION, GROUP

SERVICE_LABEL = f"{GROUP}/auctionservice"
PART_LABEL = "app.kubernetes.io/component"
VERSION_LABEL = f"{GROUP}/version"
DIGEST_LABEL = f"{GROUP}/digest"
ROUTES_ANNOTATION = f"{GROUP}/routes"
"""On a router's pod: the route file that it should follow by now."""
ROUTER, POLICY = "router", "policy"
HTTP_PORT, METRICS_PORT = 8080, 9090
TRITON_HTTP, TRITON_GRPC, TRITON_METRICS = 8000, 8001, 8002
ROUTES_FOLDER, ROUTES_FILE = "/etc/llm-auction/routes", "routes.json"
STATE = "/var/lib/llm-auction"
BUILT = f"{STATE}/models"
PRE_STOP_S = 10
"""How long a pod goes on as before after it was taken off the endpoints: other nodes hear of that a little later."""
MARGIN_S = 15
LAST_WORDS = "FallbackToLogsOnError"
"""Of a container that fails, the end of its log is in its status, where the operator reads it."""


def short(digest: str) -> str:
    """What of a digest names objects and, on Triton, the model (`policy-<12 digits>`)."""
    return digest[:12]


def router_name(service: str) -> str:
    """Name of the routers' Deployment, autoscaler and disruption budget."""
    return f"{service}-router"


def routes_name(service: str) -> str:
    """Name of the ConfigMap with the route file."""
    return f"{service}-routes"


def policy_name(service: str, digest: str) -> str:
    """Name of a version's Deployment and Service."""
    return f"{service}-policy-{short(digest)}"


def routes_file(service: Desired, status: AuctionServiceStatus) -> str:
    """The route file, in the form that `llm-auction serve --routes` reads (serving/policies/route_file.py)."""
    versions = [
        {
            "name": one.name,
            "weight": one.weight,
            "policy": f"triton {policy_name(service.name, one.digest)}.{service.namespace}.svc:{TRITON_GRPC}",
            "digest": one.digest,
        }
        for one in status.traffic
    ]
    return json.dumps({"generation": status.routes_generation, "versions": versions}, indent=1) + "\n"


def manifests(service: Desired, status: AuctionServiceStatus, models: Sequence[Model]) -> list[dict[str, Any]]:
    """All objects of a service in the order in which they are needed; `models` are the versions with servers."""
    made: list[dict[str, Any]] = []
    for model in models:
        made += [_policy_service(service, model), _policy_deployment(service, model)]
    made += [
        _object(service, "v1", "ConfigMap", routes_name(service.name), ROUTER)
        | {"data": {ROUTES_FILE: routes_file(service, status)}},
        _router_service(service),
        _router_deployment(service),
        _disruption_budget(service),
    ]
    if service.spec.router.autoscaling is not None:
        made.append(_autoscaler(service))
    return made


def selector(service: str, part: str) -> dict[str, str]:
    """The labels by which a part's pods are found."""
    return {SERVICE_LABEL: service, PART_LABEL: part}


def _object(service: Desired, version: str, kind: str, name: str, part: str, **labels: str) -> dict[str, Any]:
    owner = {
        "apiVersion": API_VERSION,
        "kind": "AuctionService",
        "name": service.name,
        "uid": service.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    common = {"app.kubernetes.io/name": "llm-auction", "app.kubernetes.io/managed-by": "llm-auction-operator"}
    metadata = {
        "name": name,
        "namespace": service.namespace,
        "labels": {**common, **selector(service.name, part), **labels},
        "ownerReferences": [owner],
    }
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


def _router_service(service: Desired) -> dict[str, Any]:
    made = _object(service, "v1", "Service", service.name, ROUTER)
    ports = [
        {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"},
        {"name": "metrics", "port": METRICS_PORT, "targetPort": "metrics", "protocol": "TCP"},
    ]
    return made | {"spec": {"selector": selector(service.name, ROUTER), "ports": ports}}


def _router_deployment(service: Desired) -> dict[str, Any]:
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
        "public-url": router.public_url,
    }
    arguments = [f"--{name}={value}" for name, value in options.items() if value is not None]
    secrets = [
        {"name": name, "valueFrom": source.to_api()}
        for name, source in (("LLM_AUCTION_DATABASE", router.database), ("LLM_AUCTION_SECRET", router.secret))
    ]
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
        "terminationMessagePolicy": LAST_WORDS,
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_S}}},
    }
    own = [
        ({"name": "llm-auction-routes", "configMap": {"name": routes_name(service.name)}}, ROUTES_FOLDER, True),
        ({"name": "llm-auction-state", "emptyDir": {}}, STATE, False),
        ({"name": "llm-auction-tmp", "emptyDir": {}}, "/tmp", False),
    ]
    template = _template(service, router, ROUTER, container, own)
    template["spec"]["terminationGracePeriodSeconds"] = PRE_STOP_S + router.drain_seconds + MARGIN_S
    template["spec"]["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector(service.name, ROUTER)},
        }
    ]
    spec = _deployment_spec(service, ROUTER, template)
    if router.autoscaling is None:
        spec["replicas"] = router.replicas or 2
    return _object(service, "apps/v1", "Deployment", router_name(service.name), ROUTER) | {"spec": spec}


def _policy_service(service: Desired, model: Model) -> dict[str, Any]:
    """Without an address of its own: the routers' gRPC clients spread over the pods that they find by the name."""
    made = _object(service, "v1", "Service", policy_name(service.name, model.digest), POLICY, **_version(model))
    ports = [
        {"name": "grpc", "port": TRITON_GRPC, "targetPort": "grpc", "protocol": "TCP"},
        {"name": "metrics", "port": TRITON_METRICS, "targetPort": "metrics", "protocol": "TCP"},
    ]
    chosen = {**selector(service.name, POLICY), DIGEST_LABEL: short(model.digest)}
    return made | {"spec": {"clusterIP": "None", "selector": chosen, "ports": ports}}


def _policy_deployment(service: Desired, model: Model) -> dict[str, Any]:
    policy = service.spec.policy
    repository = policy.source.repository or BUILT
    container: dict[str, Any] = {
        "name": "policy",
        "image": policy.image,
        "imagePullPolicy": service.spec.image_pull_policy,
        "command": ["tritonserver"],
        "args": [
            f"--model-repository={repository}",
            "--model-control-mode=explicit",
            f"--load-model=policy-{short(model.digest)}",
            "--disable-auto-complete-config",
            f"--http-port={TRITON_HTTP}",
            f"--grpc-port={TRITON_GRPC}",
            f"--metrics-port={TRITON_METRICS}",
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
        "terminationMessagePolicy": LAST_WORDS,
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_S}}},
    }
    own = [
        (
            {"name": "llm-auction-shm", "emptyDir": {"medium": "Memory", "sizeLimit": policy.shared_memory}},
            "/dev/shm",
            False,
        ),
        ({"name": "llm-auction-tmp", "emptyDir": {}}, "/tmp", False),
    ]
    if policy.source.registry is not None:
        own.append(({"name": "llm-auction-models", "emptyDir": {}}, BUILT, False))
    template = _template(service, policy, POLICY, container, own, **_version(model))
    if policy.source.registry is not None:
        template["spec"]["initContainers"] = [_builder(service, model, template["spec"]["containers"][0])]
    if policy.gpus:
        limits = {policy.gpu_resource: policy.gpus}
        told = template["spec"]["containers"][0].setdefault("resources", {})
        told["limits"] = {**told.get("limits", {}), **limits}
    template["spec"]["terminationGracePeriodSeconds"] = PRE_STOP_S + service.spec.router.drain_seconds + MARGIN_S
    spec = _deployment_spec(service, POLICY, template, **{DIGEST_LABEL: short(model.digest)})
    spec["replicas"] = policy.replicas
    spec["progressDeadlineSeconds"] = policy.start_seconds + 600
    name = policy_name(service.name, model.digest)
    return _object(service, "apps/v1", "Deployment", name, POLICY, **_version(model)) | {"spec": spec}


def _builder(service: Desired, model: Model, beside: dict[str, Any]) -> dict[str, Any]:
    """Makes the model repository out of the registry's entry before the server starts."""
    policy = service.spec.policy
    device = ["--device=gpu"] if policy.gpus else []
    return {
        "name": "build",
        "image": service.spec.router.image,
        "imagePullPolicy": service.spec.image_pull_policy,
        "command": ["llm-auction", "triton", "build", str(policy.source.registry)],
        "args": [f"--version={model.name}", f"--out={BUILT}", *device],
        "env": beside["env"],
        "envFrom": beside["envFrom"],
        "terminationMessagePolicy": LAST_WORDS,
        "volumeMounts": [one for one in beside["volumeMounts"] if one["mountPath"] != "/dev/shm"],
        "securityContext": beside["securityContext"],
        "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
    }


def _template(
    service: Desired,
    pods: Pods,
    part: str,
    container: dict[str, Any],
    own: Sequence[tuple[dict[str, Any], str, bool]],
    **labels: str,
) -> dict[str, Any]:
    """A pod template: what all our pods have in common around one container. `own`: volume, where, read-only."""
    security = pods.pod_security.to_api()
    container = container | {
        "resources": pods.resources.to_api(),
        "envFrom": [one.to_api() for one in pods.env_from],
        "volumeMounts": [
            *({"name": source["name"], "mountPath": path, "readOnly": fixed} for source, path, fixed in own),
            *(volume.mount() for volume in pods.volumes),
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    spec: dict[str, Any] = {
        "containers": [container],
        "volumes": [*(source for source, _, _ in own), *(volume.source() for volume in pods.volumes)],
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
    marks = {"app.kubernetes.io/name": "llm-auction", **selector(service.name, part), **labels}
    metadata = {"labels": {**pods.pod_labels, **marks}, "annotations": dict(pods.pod_annotations)}
    return {"metadata": metadata, "spec": spec}


def _deployment_spec(service: Desired, part: str, template: dict[str, Any], **labels: str) -> dict[str, Any]:
    """New pods are ready before old ones go."""
    return {
        "selector": {"matchLabels": {**selector(service.name, part), **labels}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "revisionHistoryLimit": 3,
        "template": template,
    }


def _disruption_budget(service: Desired) -> dict[str, Any]:
    spec = {
        "maxUnavailable": service.spec.router.max_unavailable,
        "selector": {"matchLabels": selector(service.name, ROUTER)},
    }
    made = _object(service, "policy/v1", "PodDisruptionBudget", router_name(service.name), ROUTER)
    return made | {"spec": spec}


def _autoscaler(service: Desired) -> dict[str, Any]:
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


def _version(model: Model) -> dict[str, str]:
    return {VERSION_LABEL: model.name, DIGEST_LABEL: short(model.digest)}


def _probe(path: str, port: str, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }

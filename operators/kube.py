"""The few calls to the API server that reconcilers need, over the kubernetes client's connection, as plain JSON.

Every kind that the operator touches, and what it may do with it, is in USED: the role in `operators.rbac` is made of
it, and a call that is not in it is refused here before the API server could.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from kubernetes import client, config
from urllib3.exceptions import HTTPError

from mechanism.errors import AuctionError, InputError
from operators.resources.base import API_VERSION

MANAGER = "llm-auction-operator"
JSON = "application/json"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Use:
    """A kind as the API server spells it, whether it lives in a namespace, and the verbs that the operator uses."""

    plural: str
    verbs: tuple[str, ...]
    status_verbs: tuple[str, ...] = ()
    namespaced: bool = True


USED: Mapping[tuple[str, str], Use] = {
    (API_VERSION, "IRPOJob"): Use("irpojobs", ("get", "list", "watch", "create", "delete"), ("patch",)),
    (API_VERSION, "RetrainPolicy"): Use("retrainpolicies", ("get", "list", "watch"), ("patch",)),
    (API_VERSION, "AuctionService"): Use("auctionservices", ("get", "list", "watch", "patch"), ("patch",)),
    ("apps/v1", "Deployment"): Use("deployments", ("list", "watch", "create", "patch", "delete")),
    ("policy/v1", "PodDisruptionBudget"): Use("poddisruptionbudgets", ("list", "create", "patch", "delete")),
    ("autoscaling/v2", "HorizontalPodAutoscaler"): Use(
        "horizontalpodautoscalers", ("list", "create", "patch", "delete")
    ),
    ("batch/v1", "Job"): Use("jobs", ("list", "watch", "create", "get", "delete")),
    ("v1", "Pod"): Use("pods", ("list", "patch", "delete")),
    ("v1", "ConfigMap"): Use("configmaps", ("list", "create", "patch", "delete")),
    ("v1", "Service"): Use("services", ("list", "create", "patch", "delete")),
    ("v1", "Node"): Use("nodes", ("list", "watch", "get"), namespaced=False),
    ("v1", "Event"): Use("events", ("create",)),
}
"""Server-side apply is a patch, and a create where the object is not there yet."""


class ApiError(AuctionError):
    """The API server refused a request or could not be reached; `status` is HTTP's, 0 where there was no answer."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class KubeApi:
    """A connection to one API server; safe to use from several threads."""

    def __init__(self, connection: client.ApiClient, watch_calls: Callable[[str, str], None] | None = None) -> None:
        """`watch_calls` is told verb and resource (`pods`, `irpojobs/status`) of every call."""
        self._connection = connection
        self._told = watch_calls or (lambda verb, resource: None)

    def get(self, version: str, kind: str, namespace: str | None, name: str) -> dict[str, Any] | None:
        """An object; None if there is none."""
        try:
            found: dict[str, Any] = self._call("get", "GET", version, kind, namespace, name)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found

    def list(self, version: str, kind: str, namespace: str | None, labels: str) -> list[dict[str, Any]]:
        """All objects with these labels that there are now."""
        query = f"?labelSelector={quote(labels)}"
        found: list[dict[str, Any]] = self._call("list", "GET", version, kind, namespace, query=query)["items"]
        return found

    def apply(self, manifest: Mapping[str, Any], *, subresource: str = "", force: bool = False) -> dict[str, Any]:
        """Server-side apply. Without `force` another manager's fields are a conflict (409)."""
        meta = manifest["metadata"]
        query = f"?fieldManager={MANAGER}&force={'true' if force else 'false'}"
        made: dict[str, Any] = self._call(
            "patch",
            "PATCH",
            manifest["apiVersion"],
            manifest["kind"],
            meta.get("namespace"),
            meta["name"],
            subresource,
            query,
            manifest,
            APPLY,
        )
        return made

    def create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """A new object; 409 if there is one of its name."""
        meta = manifest["metadata"]
        made: dict[str, Any] = self._call(
            "create",
            "POST",
            manifest["apiVersion"],
            manifest["kind"],
            meta.get("namespace"),
            query=f"?fieldManager={MANAGER}",
            body=manifest,
        )
        return made

    def delete(self, version: str, kind: str, namespace: str | None, name: str, uid: str, *, now: bool = False) -> None:
        """Removes an object of that uid and, in the background, what it owns; nothing if it is gone already."""
        options: dict[str, Any] = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        if now:
            options["gracePeriodSeconds"] = 0
        try:
            self._call("delete", "DELETE", version, kind, namespace, name, body=options)
        except ApiError as error:
            if error.status not in (404, 409):  # 409: another uid, so ours is gone
                raise

    def annotate(
        self, version: str, kind: str, namespace: str | None, name: str, uid: str, annotations: Mapping[str, str]
    ) -> None:
        """Writes annotations onto an object of that uid; nothing if it is gone already."""
        body = {"metadata": {"uid": uid, "annotations": dict(annotations)}}
        try:
            self._call("patch", "PATCH", version, kind, namespace, name, body=body, content=MERGE)
        except ApiError as error:
            if error.status not in (404, 409):  # 409: another uid, so ours is gone
                raise

    def serves(self, version: str) -> bool:
        """Whether the API server knows a group and version."""
        try:
            self._send("GET", f"/apis/{version}", None, "")
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def _call(
        self,
        verb: str,
        method: str,
        version: str,
        kind: str,
        namespace: str | None,
        name: str = "",
        subresource: str = "",
        query: str = "",
        body: Mapping[str, Any] | None = None,
        content: str = JSON,
    ) -> Any:
        use = USED[version, kind]
        if verb not in (use.status_verbs if subresource else use.verbs):
            raise KeyError(f"{verb} {use.plural}{'/' if subresource else ''}{subresource} is not in USED")
        self._told(verb, f"{use.plural}/{subresource}" if subresource else use.plural)
        root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
        inside = f"/namespaces/{namespace}" if use.namespaced and namespace else ""
        parts = [root + inside, use.plural, *([name] if name else []), *([subresource] if subresource else [])]
        return self._send(method, "/".join(parts) + query, body, content)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None, content: str) -> Any:
        headers = {"Accept": "application/json"} | ({"Content-Type": content} if body is not None else {})
        try:
            made = self._connection.param_serialize(method, path, header_params=headers, auth_settings=["BearerToken"])
            text = None if body is None else json.dumps(body)
            # the pool's own request: the client's would parse a patch of a type that it does not know
            answer = self._connection.rest_client.pool_manager.request(
                method, made[1], body=text, headers=made[2], timeout=TIMEOUT_S
            )
        except (HTTPError, OSError) as error:
            raise ApiError(0, f"the API server does not answer: {error}") from error
        if answer.status >= 400:
            raise ApiError(answer.status, _words(answer.data) or f"{method} {path}: HTTP {answer.status}")
        return json.loads(answer.data)


def _words(data: bytes) -> str:
    """The API server's own message."""
    try:
        return str(json.loads(data).get("message") or "")
    except (ValueError, AttributeError):
        return data[:500].decode(errors="replace")


def connect(kubeconfig: str = "") -> client.ApiClient:
    """The connection that a kubeconfig describes; without one, that of the pod this runs in, else the user's own.

    Raises InputError where there is none.
    """
    settings = client.Configuration()
    try:
        if kubeconfig:
            config.load_kube_config(kubeconfig, client_configuration=settings)
        else:
            try:
                config.load_incluster_config(client_configuration=settings)
            except config.ConfigException:
                config.load_kube_config(client_configuration=settings)
    except (config.ConfigException, OSError) as error:
        remedy = "name a kubeconfig in --kubeconfig or KUBECONFIG, or run in a pod with a service account"
        raise InputError("Kubernetes", str(error), remedy) from error
    settings.connection_pool_maxsize = 16
    settings.retries = False
    return client.ApiClient(settings)

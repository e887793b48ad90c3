"""The operator's network access: API server calls as plain JSON, and the rollout reports of router pods.

USED lists every kind that the operator accesses, with the verbs. `operators.rbac` derives the role from it, and a call
that is not listed is refused here before it is sent.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from kubernetes import client, config
from urllib3 import BaseHTTPResponse, Timeout
from urllib3.exceptions import HTTPError

from mechanism.errors import AuctionError, InputError
from operators.objects import MANAGER
from operators.resources.base import API_VERSION, Manifest

JSON = "application/json"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5.0
LEASE_TIMEOUT_S = 5.0
REPORT_TIMEOUT_S = 5.0
PAGE = 500
"""Objects in an answer, when a whole collection is listed."""
WATCH_S = 600
"""How long the API server may keep a watch open; then it is resumed."""
SILENCE_S = 150.0
"""How long a watch may be silent before it is taken for broken: bookmarks come about every minute."""


Scope = Literal["watched", "own", "cluster"]
"""`watched`: each namespace with resources; `own`: the operator's namespace; `cluster`: without one."""


@dataclass(frozen=True, slots=True)
class Use:
    """Access to one kind: its plural name in URLs, the verbs that the operator uses, and where."""

    plural: str
    verbs: tuple[str, ...]
    status_verbs: tuple[str, ...] = ()
    scope: Scope = "watched"


USED: Mapping[tuple[str, str], Use] = {
    (API_VERSION, "IRPOJob"): Use("irpojobs", ("get", "list", "watch", "create", "delete"), ("patch",)),
    (API_VERSION, "RetrainPolicy"): Use("retrainpolicies", ("get", "list", "watch"), ("patch",)),
    (API_VERSION, "AuctionService"): Use("auctionservices", ("get", "list", "watch", "patch"), ("patch",)),
    ("apps/v1", "Deployment"): Use("deployments", ("list", "watch", "create", "patch", "delete")),
    ("policy/v1", "PodDisruptionBudget"): Use("poddisruptionbudgets", ("list", "watch", "create", "patch", "delete")),
    ("autoscaling/v2", "HorizontalPodAutoscaler"): Use(
        "horizontalpodautoscalers", ("list", "watch", "create", "patch", "delete")
    ),
    ("batch/v1", "Job"): Use("jobs", ("list", "watch", "create", "get", "delete")),
    ("v1", "Pod"): Use("pods", ("list", "watch", "patch", "delete")),
    ("v1", "ConfigMap"): Use("configmaps", ("list", "watch", "create", "patch", "delete")),
    ("v1", "Service"): Use("services", ("list", "watch", "create", "patch", "delete")),
    ("v1", "Node"): Use("nodes", ("list", "watch", "get"), scope="cluster"),
    ("v1", "Event"): Use("events", ("create",)),
    ("coordination.k8s.io/v1", "Lease"): Use("leases", ("get", "create", "update"), scope="own"),
}
"""Server-side apply needs `patch`, and `create` where the object may not exist yet."""


class ApiError(AuctionError):
    """A request that the API server refused or that did not reach it. `status`: HTTP status, 0 without a response."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class _Tolerate:
    """Suppresses an ApiError with one of these HTTP statuses."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = statuses

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, ApiError) and error.status in self.statuses


class KubeApi:
    """A client of one API server; safe to use from several threads."""

    def __init__(
        self,
        connection: client.ApiClient,
        on_call: Callable[[str, str], None] | None = None,
        may_write: Callable[[], bool] | None = None,
    ) -> None:
        """Use `connection`.

        `on_call` receives verb and resource (`pods`, `irpojobs/status`) of every call; `may_write` is asked before each
        write except that of a Lease.
        """
        self._connection = connection
        self._on_call = on_call or (lambda verb, resource: None)
        self._may_write = may_write or (lambda: True)

    def get(self, version: str, kind: str, namespace: str | None, name: str) -> Manifest | None:
        """Return an object, or None if it does not exist."""
        with _Tolerate(404):
            return self._call("get", "GET", version, kind, namespace, name)
        return None

    def list(self, version: str, kind: str, namespace: str | None, labels: str) -> list[Manifest]:
        """Return all objects that match a label selector."""
        query = f"?labelSelector={quote(labels)}"
        items: list[Manifest] = self._call("list", "GET", version, kind, namespace, query=query)["items"]
        return [_typed(item, version, kind) for item in items]

    def list_all(self, version: str, kind: str, namespace: str | None, labels: str) -> tuple[Sequence[Manifest], str]:
        """Return the objects of a collection, and the version from which a watch continues."""
        items = []
        query = f"?labelSelector={quote(labels)}&limit={PAGE}"
        token = ""
        while True:
            page = self._call("list", "GET", version, kind, namespace, query=f"{query}&continue={quote(token)}")
            items += [_typed(item, version, kind) for item in page["items"]]
            token = page["metadata"].get("continue") or ""
            if not token:
                return items, page["metadata"]["resourceVersion"]

    def watch(self, version: str, kind: str, namespace: str | None, labels: str, since: str) -> Iterator[Manifest]:
        """Yield the events of a collection after a version, until the API server ends the watch.

        Raises:
            ApiError: if it is refused or breaks off; with status 410 if the version is too old.
        """
        query = f"?watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH_S}"
        query += f"&labelSelector={quote(labels)}&resourceVersion={quote(since)}"
        path = self._path("watch", version, kind, namespace) + query
        response = self._open("GET", path, None, "", Timeout(connect=CONNECT_TIMEOUT_S, read=SILENCE_S), stream=True)
        try:
            for line in response:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ApiError(int(event["object"].get("code") or 0), str(event["object"].get("message")))
                yield event
        except (HTTPError, OSError, ValueError) as error:
            raise ApiError(0, f"the watch broke off: {error}") from error
        finally:
            response.close()

    def apply(self, manifest: Manifest, *, subresource: str = "", force: bool = False) -> None:
        """Apply a manifest server-side. Without `force` a field of another manager is a conflict (409)."""
        meta = manifest["metadata"]
        self._call(
            "patch",
            "PATCH",
            manifest["apiVersion"],
            manifest["kind"],
            meta.get("namespace"),
            meta["name"],
            subresource,
            query=f"?fieldManager={MANAGER}&force={'true' if force else 'false'}",
            body=manifest,
            content=APPLY,
        )

    def create(self, manifest: Manifest) -> None:
        """Create an object; an existing one of its name is a conflict (409)."""
        self._call(
            "create",
            "POST",
            manifest["apiVersion"],
            manifest["kind"],
            manifest["metadata"].get("namespace"),
            query=f"?fieldManager={MANAGER}",
            body=manifest,
        )

    def replace(self, manifest: Manifest) -> None:
        """Replace the version of an object that was read; another one is a conflict (409)."""
        meta = manifest["metadata"]
        place = (manifest["apiVersion"], manifest["kind"], meta.get("namespace"), meta["name"])
        self._call("update", "PUT", *place, query=f"?fieldManager={MANAGER}", body=manifest)

    def delete(self, version: str, kind: str, namespace: str | None, name: str, uid: str, *, now: bool = False) -> None:
        """Delete the object with this uid and, in the background, what it owns; does nothing if it is gone."""
        options: Manifest = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        if now:
            options["gracePeriodSeconds"] = 0
        with _Tolerate(404, 409):  # 409: the name belongs to another uid, so this object is gone
            self._call("delete", "DELETE", version, kind, namespace, name, body=options)

    def annotate(
        self, version: str, kind: str, namespace: str | None, name: str, uid: str, annotations: Mapping[str, str]
    ) -> None:
        """Set annotations on the object with this uid; does nothing if it is gone."""
        body = {"metadata": {"uid": uid, "annotations": dict(annotations)}}
        with _Tolerate(404, 409):  # 409: the name belongs to another uid, so this object is gone
            self._call("patch", "PATCH", version, kind, namespace, name, body=body, content=MERGE)

    def serves(self, group: str) -> bool:
        """Return whether the API server serves an API group, or a version of it (GROUP/VERSION)."""
        with _Tolerate(404):
            self._send("GET", f"/apis/{group}", None, "")
            return True
        return False

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
        body: Manifest | None = None,
        content: str = JSON,
    ) -> Manifest:
        path = self._path(verb, version, kind, namespace, name, subresource) + query
        if kind == "Lease":
            return self._send(method, path, body, content, LEASE_TIMEOUT_S)
        if method != "GET" and not self._may_write():
            raise ApiError(0, f"{verb} {kind} {name}: not sent, because another replica may lead by now")
        return self._send(method, path, body, content)

    def _path(
        self, verb: str, version: str, kind: str, namespace: str | None, name: str = "", subresource: str = ""
    ) -> str:
        """Return the path of a call, and count it.

        Raises:
            KeyError: if the call is not listed in USED.
        """
        use = USED[version, kind]
        if verb not in (use.status_verbs if subresource else use.verbs):
            raise KeyError(f"{verb} {use.plural}{'/' if subresource else ''}{subresource} is not in USED")
        self._on_call(verb, f"{use.plural}/{subresource}" if subresource else use.plural)
        root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
        prefix = f"/namespaces/{namespace}" if use.scope != "cluster" and namespace else ""
        parts = [root + prefix, use.plural, *([name] if name else []), *([subresource] if subresource else [])]
        return "/".join(parts)

    def _send(
        self, method: str, path: str, body: Manifest | None, content: str, timeout_s: float = TIMEOUT_S
    ) -> Manifest:
        result: Manifest = json.loads(self._open(method, path, body, content, Timeout(timeout_s)).data)
        return result

    def _open(
        self, method: str, path: str, body: Manifest | None, content: str, timeout: Timeout, *, stream: bool = False
    ) -> BaseHTTPResponse:
        """Send a request; return its response, of which with `stream` only the head has been read.

        Raises:
            ApiError: if the API server refuses it or does not answer.
        """
        headers = {"Accept": "application/json"} | ({"Content-Type": content} if body is not None else {})
        try:
            request = self._connection.param_serialize(
                method, path, header_params=headers, auth_settings=["BearerToken"]
            )
            text = None if body is None else json.dumps(body)
            # The pool's request, not the client's: the client rejects patch content types that it does not know.
            response = self._connection.rest_client.pool_manager.request(
                method, request[1], body=text, headers=request[2], timeout=timeout, preload_content=not stream
            )
        except (HTTPError, OSError) as error:
            raise ApiError(0, f"the API server does not answer: {error}") from error
        if response.status >= 400:
            raise ApiError(response.status, _error_message(response.data) or f"{method} {path}: HTTP {response.status}")
        return response


def _typed(item: Manifest, version: str, kind: str) -> Manifest:
    """Return an element of a list with its version and kind, which the API server leaves out of lists."""
    return {"apiVersion": version, "kind": kind, **item}


def _error_message(data: bytes) -> str:
    try:
        return str(json.loads(data).get("message") or "")
    except (ValueError, AttributeError):
        return data[:500].decode(errors="replace")


def read_report(address: str, since: int) -> str | None:
    """Return the rollout report at HOST:PORT since a minute, or None if it cannot be read."""
    try:
        with urllib.request.urlopen(f"http://{address}/rollout?since={since}", timeout=REPORT_TIMEOUT_S) as response:
            return bytes(response.read()).decode()
    except (OSError, ValueError):
        return None


def connect(kubeconfig: str = "") -> client.ApiClient:
    """Connect by a kubeconfig; without one by the pod's service account, or else by the user's default kubeconfig.

    Raises:
        InputError: if there is no usable configuration.
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
    settings.connection_pool_maxsize = 64
    settings.retries = False
    return client.ApiClient(settings)

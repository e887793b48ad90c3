"""What the operator watches: the collections of its kinds and of their objects, and what it keeps of each object."""

from __future__ import annotations

from operators.auctionservice.observe import OWNED_KINDS, SERVICE_LABEL
from operators.informer import Watched
from operators.irpojob.observe import JOB_LABEL
from operators.resources.base import API_VERSION, Manifest
from operators.retrainpolicy.observe import POLICY_LABEL


def _without_managers(item: Manifest) -> Manifest:
    meta = {key: value for key, value in item["metadata"].items() if key != "managedFields"}
    return {**item, "metadata": meta}


def _as_it_is(item: Manifest) -> Manifest:
    return item


def _pod(item: Manifest) -> Manifest:
    """Keep a pod's node of its specification, which is most of a pod."""
    node = (item.get("spec") or {}).get("nodeName")
    return {**_without_managers(item), "spec": {"nodeName": node} if node else {}}


def _job(item: Manifest) -> Manifest:
    return {**_without_managers(item), "spec": {"suspend": (item.get("spec") or {}).get("suspend", False)}}


def _node(item: Manifest) -> Manifest:
    conditions = (item.get("status") or {}).get("conditions") or []
    ready = [one for one in conditions if one.get("type") == "Ready"]
    return {"metadata": {"name": item["metadata"]["name"]}, "status": {"conditions": ready}}


IRPOJOBS = Watched(API_VERSION, "IRPOJob", _without_managers, POLICY_LABEL, all_objects=True)
SERVICES = Watched(API_VERSION, "AuctionService", _without_managers, all_objects=True)
POLICIES = Watched(API_VERSION, "RetrainPolicy", _without_managers, all_objects=True)
NODES = Watched("v1", "Node", _node, all_objects=True)
JOBS_OF_IRPOJOBS = Watched("batch/v1", "Job", _job, JOB_LABEL)
JOBS_OF_POLICIES = Watched("batch/v1", "Job", _job, POLICY_LABEL)
PODS = tuple(Watched("v1", "Pod", _pod, label) for label in (JOB_LABEL, POLICY_LABEL, SERVICE_LABEL))
OBJECTS_OF_SERVICES = tuple(
    # The managers of a Deployment's fields tell whether an autoscaler sets its replicas.
    Watched(version, kind, _as_it_is if kind == "Deployment" else _without_managers, SERVICE_LABEL)
    for version, kind in OWNED_KINDS
)

"""Owned objects that need no write: applied from this manifest before, and not changed since.

Server-side apply of an unchanged object still costs the API server a merge of its fields, so an idle pass must not send
it. The digest of the manifest is an annotation of the object. A change by others is found by comparing each field of
the manifest with the object; fields that the manifest does not name belong to others (defaults, autoscalers).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from operators.resources.base import GROUP, Manifest

DIGEST_ANNOTATION = f"{GROUP}/applied"


def stamped(manifest: Manifest) -> Manifest:
    """Return the manifest with its own digest as an annotation."""
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:32]
    meta = manifest["metadata"]
    annotations = {**meta.get("annotations", {}), DIGEST_ANNOTATION: digest}
    return {**manifest, "metadata": {**meta, "annotations": annotations}}


def contains(existing: Any, wanted: Any) -> bool:
    """Return whether an object has all fields of a manifest, in the form in which the API server stores them.

    It leaves out empty fields, writes quantities in their shortest form, and keeps further elements of named lists.
    """
    if isinstance(wanted, dict):
        found = {} if existing is None else existing
        return isinstance(found, dict) and all(contains(found.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return _contains_list([] if existing is None else existing, wanted)
    if existing is None or wanted is None:
        return not wanted
    if isinstance(existing, (dict, list)):
        return False
    return bool(existing == wanted) or _same_quantity(existing, wanted)


def _contains_list(existing: Any, wanted: list[Any]) -> bool:
    if not isinstance(existing, list):
        return False
    if wanted and all(isinstance(one, dict) and "name" in one for one in wanted):
        by_name = {one.get("name"): one for one in existing if isinstance(one, dict)}
        return all(contains(by_name.get(one["name"]), one) and one["name"] in by_name for one in wanted)
    return len(existing) == len(wanted) and all(map(contains, existing, wanted))


def _same_quantity(existing: Any, wanted: Any) -> bool:
    if isinstance(existing, bool) or isinstance(wanted, bool):
        return False
    try:
        return bool(parse_quantity(existing) == parse_quantity(wanted))
    except ValueError:
        return False

"""The OpenAPI document: routes by Litestar, bodies and parameters by the handlers' `documented`, schemas by msgspec.

Handlers decode their bodies themselves, so that every refusal has one shape; `documented` declares what they expect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation in the document, without its path and its summary."""

    body: type[msgspec.Struct] | None
    query: Mapping[str, str]
    answer: str
    media: str
    secured: bool
    file: tuple[str, ...]


_REFUSALS = {
    "400": "A field is wrong; the error names it, its value and the remedy.",
    "401": "No valid API key.",
    "403": "The key's role may not do this.",
    "404": "It does not exist, or it belongs to another owner.",
    "409": "It was changed since it was read.",
    "413": "The body is too large.",
    "429": "Too many requests; see Retry-After.",
    "503": "Not possible now; see Retry-After.",
}


def documented(
    body: type[msgspec.Struct] | None = None,
    query: Mapping[str, str] | None = None,
    answer: str = "",
    media: str = "application/json",
    secured: bool = True,
    file: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Declare a handler's operation: the body's type, the query parameters with their meaning, the response.

    The result is the handler's `opt`. `secured` is False for operations that need no key. `file` are the media types of
    a file whose rows have the body's fields.
    """
    return {"operation": Operation(body, query or {}, answer, media, secured, file)}


def openapi(app: Litestar, version: str) -> bytes:
    """Build the document as JSON."""
    handlers = {
        (path, str(method)): handler
        for route in app.routes
        for handler in getattr(route, "route_handlers", ())
        if isinstance(handler, HTTPRouteHandler)
        for path in handler.paths
        for method in handler.http_methods - {"HEAD"}  # every GET answers HEAD
    }
    operations: dict[tuple[str, str], Operation] = {
        key: handler.opt["operation"] for key, handler in handlers.items() if "operation" in handler.opt
    }
    bodies = [operation.body for operation in operations.values() if operation.body is not None]
    refs, components = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    schemas = dict(zip(bodies, refs, strict=True))
    components["Error"] = _ERROR
    paths: dict[str, dict[str, Any]] = {}
    for path, method in sorted(operations):
        handler, operation = handlers[path, method], operations[path, method]
        template, parameters = _path(path)
        parameters += [
            {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
            for name, text in operation.query.items()
        ]
        entry: dict[str, Any] = {
            "summary": (handler.fn.__doc__ or "").strip().split("\n")[0],
            "operationId": handler.fn.__name__,
            "parameters": parameters,
            "responses": _responses(operation, handler.status_code),
        }
        if operation.body is not None:
            content: dict[str, Any] = {"application/json": {"schema": schemas[operation.body]}}
            if operation.file:
                text = f"One row for each {operation.body.__name__}, see #/components/schemas."
                content = {media: {"schema": {"type": "string", "description": text}} for media in operation.file}
            entry["requestBody"] = {"required": True, "content": content}
        if not operation.secured:
            entry["security"] = []
        paths.setdefault(template, {})[method.lower()] = entry
    document = {
        "openapi": "3.1.0",
        "info": {"title": "LLM-Auction router", "version": version},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{"key": []}],
    }
    return msgspec.json.encode(document)


def _path(path: str) -> tuple[str, list[dict[str, Any]]]:
    """Translate Litestar's `{name:str}` to OpenAPI's `{name}`; return the path and its parameters."""
    parts, parameters = [], []
    for part in path.split("/"):
        name = part[1:-1].split(":")[0] if part.startswith("{") else ""
        if name:
            parameters.append({"name": name, "in": "path", "required": True, "schema": {"type": "string"}})
        parts.append("{" + name + "}" if name else part)
    return "/".join(parts), parameters


def _responses(operation: Operation, status: int) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    found: dict[str, Any] = {code: {"description": text, "content": error} for code, text in _REFUSALS.items()}
    found[str(status)] = {"description": operation.answer or "Done.", "content": {operation.media: {}}}
    return found


_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
                "fields": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {name: {"type": "string"} for name in ("field", "value", "remedy")},
                    },
                },
            },
        }
    },
}

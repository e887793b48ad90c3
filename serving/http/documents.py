"""The OpenAPI document: routes by Litestar, bodies and parameters by the handlers' own notes, schemas by msgspec.

Handlers read their bodies themselves, so that every refusal has one shape; what they expect is noted beside the route.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler

_REFUSALS = {
    "400": "A field is wrong: which, and what to do.",
    "401": "No valid API key.",
    "403": "The key's role may not do this.",
    "404": "There is no such thing, or it is somebody else's.",
    "409": "Somebody changed it meanwhile.",
    "413": "The body is too large.",
    "503": "Not possible just now; see Retry-After.",
}


def documented(
    body: Any = None,
    query: Mapping[str, str] | None = None,
    answer: str = "",
    media: str = "application/json",
    secured: bool = True,
) -> dict[str, Any]:
    """Notes for the document: the body's type, query parameters with their meaning, what the answer is."""
    return {"document": {"body": body, "query": query or {}, "answer": answer, "media": media, "secured": secured}}


def openapi(app: Litestar, version: str) -> bytes:
    """The whole document as JSON."""
    handlers = {
        (path, str(method)): handler
        for route in app.routes
        for handler in getattr(route, "route_handlers", ())
        if isinstance(handler, HTTPRouteHandler)
        for path in handler.paths
        for method in handler.http_methods - {"HEAD"}  # goes without saying beside GET
    }
    noted = {key: handler.opt["document"] for key, handler in handlers.items() if "document" in handler.opt}
    bodies = [note["body"] for note in noted.values() if note["body"] is not None]
    refs, components = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    schemas = dict(zip([id(body) for body in bodies], refs, strict=True))
    components["Error"] = _ERROR
    paths: dict[str, dict[str, Any]] = {}
    for (path, method), note in sorted(noted.items()):
        handler = handlers[path, method]
        template, parameters = _path(path)
        parameters += [
            {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
            for name, text in note["query"].items()
        ]
        operation: dict[str, Any] = {
            "summary": (handler.fn.__doc__ or "").strip().split("\n")[0],
            "operationId": handler.fn.__name__,
            "parameters": parameters,
            "responses": _responses(note, handler.status_code),
        }
        if note["body"] is not None:
            content = {"application/json": {"schema": schemas[id(note["body"])]}}
            operation["requestBody"] = {"required": True, "content": content}
        if not note["secured"]:
            operation["security"] = []
        paths.setdefault(template, {})[method.lower()] = operation
    document = {
        "openapi": "3.1.0",
        "info": {"title": "LLM-Auction router", "version": version},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{"key": []}],
    }
    return msgspec.json.encode(document)


def _path(path: str) -> tuple[str, list[dict[str, Any]]]:
    """Litestar's `{name:str}` as OpenAPI's `{name}`, with its parameters."""
    parts, parameters = [], []
    for part in path.split("/"):
        name = part[1:-1].split(":")[0] if part.startswith("{") else ""
        if name:
            parameters.append({"name": name, "in": "path", "required": True, "schema": {"type": "string"}})
        parts.append("{" + name + "}" if name else part)
    return "/".join(parts), parameters


def _responses(note: Mapping[str, Any], status: int) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    found: dict[str, Any] = {code: {"description": text, "content": error} for code, text in _REFUSALS.items()}
    found[str(status)] = {"description": note["answer"] or "Done.", "content": {note["media"]: {}}}
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

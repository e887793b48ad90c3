"""OpenTelemetry spans where its API is installed (extra `trace`); without it nothing, at no cost.

Spans carry ids, counts and times, never words of a user. Which exporter gets them is the process's own set-up
(`opentelemetry-instrument`, or an SDK that the caller configures).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

_TRACER: Any = None
try:
    from opentelemetry import context as _context
    from opentelemetry import propagate as _propagate
    from opentelemetry import trace as _trace

    _TRACER = _trace.get_tracer("llm-auction.serving")
except ImportError:  # the extra is not installed
    pass

_NOTHING: AbstractContextManager[Any] = nullcontext()


def span(name: str, **attributes: str | int | float | bool) -> AbstractContextManager[Any]:
    """A span around a block, a child of the current one."""
    if _TRACER is None:
        return _NOTHING
    started: AbstractContextManager[Any] = _TRACER.start_as_current_span(name, attributes=attributes)
    return started


def continued(headers: Mapping[str, str]) -> AbstractContextManager[Any]:
    """Takes over the caller's trace (`traceparent`) for a block."""
    if _TRACER is None or "traceparent" not in headers:
        return _NOTHING
    return _Continued(headers)


class _Continued(AbstractContextManager[Any]):
    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers
        self._token: Any = None

    def __enter__(self) -> None:
        self._token = _context.attach(_propagate.extract(dict(self._headers)))

    def __exit__(self, *error: object) -> None:
        _context.detach(self._token)

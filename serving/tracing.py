"""OpenTelemetry spans, where its API is installed (extra `trace`); without it, spans do nothing.

Spans carry ids, counts and times, never a user's text. The process decides on the exporter (`opentelemetry-instrument`,
or an SDK that the caller configures).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

_TRACER: Any = None
try:
    from opentelemetry import context as _context
    from opentelemetry import propagate as _propagate
    from opentelemetry import trace as _trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    # Only W3C's `traceparent` and `tracestate` are sent on: baggage may hold anything that a caller put there.
    _OUTWARDS = TraceContextTextMapPropagator()
    _TRACER = _trace.get_tracer("llm-auction.serving")
except ImportError:  # the extra is not installed
    pass

_NO_SPAN: AbstractContextManager[Any] = nullcontext()


def span(name: str, **attributes: str | int | float | bool) -> AbstractContextManager[Any]:
    """Open a span around a block, as a child of the current span."""
    if _TRACER is None:
        return _NO_SPAN
    started: AbstractContextManager[Any] = _TRACER.start_as_current_span(name, attributes=attributes)
    return started


def continued(headers: Mapping[str, str]) -> AbstractContextManager[Any]:
    """Continue the caller's trace (`traceparent`) in a block."""
    if _TRACER is None or "traceparent" not in headers:
        return _NO_SPAN
    return _Continued(headers)


class Call(AbstractContextManager["Call"]):
    """A span around a call to another process; `headers` carry the trace there.

    It never is the current span, so that it may stay open while a generator yields. Its attribute `outcome` is
    "answered", "cancelled" where the caller stopped reading, or the error's type.
    """

    def __init__(self, name: str, **attributes: str | int | float | bool) -> None:
        self.headers: dict[str, str] = {}
        self._span: Any = None
        if _TRACER is not None:
            self._span = _TRACER.start_span(name, attributes=attributes)
            _OUTWARDS.inject(self.headers, _trace.set_span_in_context(self._span))

    def __exit__(self, kind: type[BaseException] | None, error: object, where: object) -> None:
        if self._span is None:
            return
        cancelled = kind is not None and issubclass(kind, (GeneratorExit, asyncio.CancelledError))
        self._span.set_attribute("outcome", "answered" if kind is None else "cancelled" if cancelled else kind.__name__)
        if kind is not None and not cancelled:
            self._span.set_status(_trace.StatusCode.ERROR)
        self._span.end()


class _Continued(AbstractContextManager[Any]):
    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers
        self._token: Any = None

    def __enter__(self) -> None:
        self._token = _context.attach(_propagate.extract(dict(self._headers)))

    def __exit__(self, *error: object) -> None:
        _context.detach(self._token)

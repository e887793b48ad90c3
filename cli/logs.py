"""Logging of every process of the project: one event a line on stderr, without personal data.

Modules call `structlog.get_logger()` and log an event name with fields; which fields are withheld is decided here.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

from cli import ROOMS
from mechanism.errors import InputError

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("auto", "console", "json")

PERSONAL = frozenset(
    {"query", "turns", "messages", "prompt", "answer", "raw", "profile", "age", "gender", "occupation"}
    | {"location", "interests", "history", "email", "ip"}
)
CREDENTIALS = frozenset({"api_key", "authorization", "cookie", "password", "secret", "token"})
WITHHELD = PERSONAL | CREDENTIALS
"""Keys whose values never reach a log, at any depth of a logged mapping."""


def withhold(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace values under WITHHELD keys by "[withheld]"; a structlog processor."""
    for key, value in event.items():
        if key.lower() in WITHHELD:
            event[key] = "[withheld]"
        elif isinstance(value, Mapping):
            event[key] = withhold(logger, method, dict(value))
    return event


def configure(level: str = "info", style: str = "auto") -> None:
    """Send this project's events at `level` and above to stderr, and third parties' warnings and errors.

    `style` is "console", "json", or "auto" (console on a terminal). A second call replaces the configuration.

    Raises:
        InputError: for an unknown level or style.
    """
    if level not in LEVELS:
        raise InputError("--log-level", level, f"give one of {', '.join(LEVELS)}")
    if style not in FORMATS:
        raise InputError("--log-format", style, f"give one of {', '.join(FORMATS)}")
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        withhold,
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *([] if console else [structlog.processors.format_exc_info]),
            renderer,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for room in ROOMS:
        logging.getLogger(room).setLevel(level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )

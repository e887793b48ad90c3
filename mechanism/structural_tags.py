"""The markers of a request's candidates as a structural tag, which vLLM, SGLang and others decode by (xgrammar).

Such a server then writes markers of candidates and no others: "@[" belongs to a marker, and after "@" and a candidate's
whole title only the rest of its marker can follow. Every other "@" (e-mail, handle, decorator) stays ordinary text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mechanism.markers import render_marker
from mechanism.types import Ad

MARK = "@"


def structural_tag(ads: Sequence[Ad]) -> dict[str, Any] | None:
    """Return the `response_format` of a request with these candidates; None without candidates."""
    if not ads:
        return None
    return {
        "type": "structural_tag",
        "format": {
            "type": "triggered_tags",
            "triggers": triggers(ads),
            "tags": [_tag(render_marker(ad)) for ad in ads],
            "at_least_one": False,
            "stop_after_first": False,
            "excludes": [f"{MARK}["],
        },
    }


def triggers(ads: Sequence[Ad]) -> list[str]:
    """Return what begins the marker of exactly one group of ads: a title that continues another is in its group."""
    openings = sorted({MARK + ad.title for ad in ads}, key=len)
    kept: list[str] = []
    for opening in openings:
        if not any(opening.startswith(shorter) for shorter in kept):
            kept.append(opening)
    return kept


def _tag(marker: str) -> dict[str, Any]:
    return {"type": "tag", "begin": marker, "content": {"type": "const_string", "value": ""}, "end": ""}

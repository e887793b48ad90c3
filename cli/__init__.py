"""The console script `llm-auction`: one thin module per command; the other packages do the work."""

from __future__ import annotations

ROOMS = ("mechanism", "inference", "judge", "simulator", "streaming", "trainers", "serving", "operators", "cli")
"""The project's top-level packages. Their log events are shown; a missing module of one is a defect, not an extra."""

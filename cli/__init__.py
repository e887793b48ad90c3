"""The console script `llm-auction`: one thin module a command; what the commands do lives in the other rooms."""

from __future__ import annotations

ROOMS = ("mechanism", "inference", "judge", "simulator", "streaming", "trainers", "serving", "operators", "cli")
"""The project's top-level packages: whose log events are shown, and whose missing modules are defects."""

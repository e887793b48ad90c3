"""The event log in one SQLite file: no server, several processes, safe against kills and power failures."""

from streaming.embedded.log import EmbeddedLog

__all__ = ["EmbeddedLog"]

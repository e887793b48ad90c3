"""The event log in files of this machine: nothing to install, several processes, safe against kills."""

from streaming.embedded.log import EmbeddedLog

__all__ = ["EmbeddedLog"]

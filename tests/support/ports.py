"""Free TCP ports for servers that tests and benchmarks start."""

from __future__ import annotations

import socket


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return different ports of `host` on which nothing listened a moment ago.

    All listeners are open at once, so that no port is returned twice; another process may still take one afterwards.
    """
    listeners = [socket.create_server((host, 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports

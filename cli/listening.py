"""The address that a router listens on: alone, or together with other workers."""

from __future__ import annotations

import socket

from mechanism.errors import ConfigError


def listen(host: str, port: int) -> socket.socket:
    """Open the listening socket; done before the model is loaded, so that a port in use is reported at once.

    Raises:
        ConfigError: if the address is invalid or in use.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise ConfigError(f"--port {port}", host, f"{error.strerror}: choose another --port or --host") from error


def share(host: str, port: int) -> socket.socket:
    """Bind a socket to an address that other workers bind, too; the kernel spreads connections over those that listen.

    Raises:
        ConfigError: if the address is invalid, or a program other than such a worker listens there.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        shared = socket.socket(family, kind, protocol)
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            shared.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        shared.bind(address[:2])
    except OSError as error:
        raise ConfigError(f"--port {port}", host, f"{error.strerror}: choose another --port or --host") from error
    return shared

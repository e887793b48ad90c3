"""The reader's address behind load balancers: taken from forwarding headers, but from trusted proxies only.

A proxy appends the address it was called from to `X-Forwarded-For`, or to `Forwarded` (RFC 7239). Read from the right,
the first address that is not a trusted proxy's is the reader's: everything left of it was sent by that address and
may be forged. One header alone is read, the one that the deployment's proxies write: a proxy that writes the one
passes on the other as the client sent it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from litestar.types import ASGIApp, Receive, Scope, Send

from mechanism.errors import ConfigError

FORWARDED, X_FORWARDED_FOR = "forwarded", "x-forwarded-for"
MOST_HOPS = 32
_Address: TypeAlias = IPv4Address | IPv6Address
_Headers: TypeAlias = Iterable[tuple[bytes, bytes]]
_PAIR = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;,"\s]*)\s*')
_BRACKETED = re.compile(r"\[([^\]]+)\](?::\d{1,5})?")
_WITH_PORT = re.compile(r"([0-9.]+):\d{1,5}")


class TrustedProxies:
    """The networks whose forwarding header is believed, as CIDR blocks or single addresses.

    Raises:
        ConfigError: if an entry is neither.
    """

    def __init__(self, networks: Sequence[str], header: str = X_FORWARDED_FOR) -> None:
        try:
            self._networks = [ip_network(entry.strip(), strict=False) for entry in networks]
        except ValueError as error:
            raise ConfigError("trusted_proxies", list(networks), f"{error}: give CIDR blocks: 10.0.0.0/8") from error
        self._header = header.encode()
        self._is_forwarded = header == FORWARDED

    def trusts(self, address: _Address) -> bool:
        """Whether an address is a trusted proxy's."""
        return any(address in network for network in self._networks)

    def client(self, peer: str, headers: _Headers) -> str:
        """Return the reader's address: `peer` itself unless it is a trusted proxy.

        An entry that is not an address (`unknown`, `_hidden`) ends the walk at the hop that wrote it.
        """
        address = _parsed(peer)
        if address is None:
            return peer
        hops = self._hops(headers) if self.trusts(address) else iter(())
        for _, hop in zip(range(MOST_HOPS), hops, strict=False):
            further = _parsed(hop)
            if further is None:
                break
            address = further
            if not self.trusts(address):
                break
        return str(address)

    def scheme(self, peer: str, headers: _Headers) -> str:
        """Return the scheme that the nearest trusted proxy was called with; "" if it names none."""
        address = _parsed(peer)
        if address is None or not self.trusts(address):
            return ""
        if self._is_forwarded:
            elements = list(_elements(_joined(headers, self._header)))
            scheme = elements[-1].get("proto", "") if elements else ""
        else:
            scheme = _joined(headers, b"x-forwarded-proto").rpartition(",")[2]
        scheme = scheme.strip().lower()
        return scheme if scheme in ("http", "https") else ""

    def _hops(self, headers: _Headers) -> Iterator[str]:
        """Yield the addresses of the header from the right."""
        text = _joined(headers, self._header)
        if not self._is_forwarded:
            yield from reversed(text.split(","))
            return
        for element in reversed(list(_elements(text))):
            yield element.get("for", "")


class ProxyMiddleware:
    """Gives each HTTP request the address and the scheme that the reader's client used."""

    def __init__(self, app: ASGIApp, proxies: TrustedProxies) -> None:
        self._app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        if client is not None:
            headers = scope["headers"]
            scheme = self._proxies.scheme(client[0], headers)
            scope["client"] = (self._proxies.client(client[0], headers), 0)
            if scheme:
                scope["scheme"] = scheme
        await self._app(scope, receive, send)


def network_of(address: str) -> str:
    """Return what stands for one line of readers: an IPv4 address, the /64 block of an IPv6 address.

    One subscriber has a whole /64 block and may take another address of it for every request.
    """
    parsed = _parsed(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((parsed, 64), strict=False).network_address)
    return address if parsed is None else str(parsed)


def _joined(headers: _Headers, name: bytes) -> str:
    return ",".join(value.decode("latin-1") for key, value in headers if key == name)


def _elements(text: str) -> Iterator[dict[str, str]]:
    """Yield the elements of a `Forwarded` header; what is malformed is an element without fields."""
    at = 0
    fields: dict[str, str] = {}
    while at < len(text):
        if found := _PAIR.match(text, at):
            name, value = found[1].lower(), found[2]
            fields[name] = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
            at = found.end()
        elif text[at] not in ",;":
            fields = {}
            at += 1
            continue
        if at < len(text) and text[at] == ",":
            yield fields
            fields = {}
        at += 1
    yield fields


def _parsed(text: str) -> _Address | None:
    """Return the address of `192.0.2.7`, `192.0.2.7:80`, `2001:db8::1` or `[2001:db8::1]:80`; None for anything else.

    An IPv4 address that is mapped into IPv6 is the IPv4 address.
    """
    text = text.strip()
    for form in (_BRACKETED, _WITH_PORT):
        if found := form.fullmatch(text):
            text = found[1]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address

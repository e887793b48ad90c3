"""Bounds on requests and connections: 429 in OpenAI's form with a time to wait, slow and surplus connections closed."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
import uvicorn

from mechanism.errors import ConfigError
from serving.http.connections import ConnectionLimits, limited_protocol
from serving.http.proxies import network_of
from serving.http.sessions import COOKIE
from serving.settings import ServeSettings

Start = Callable[..., Any]


def test_an_address_without_a_key_has_an_allowance(start: Start) -> None:
    router = start("Hello.", address_per_minute=3)
    assert [router.post().status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = router.post()
    error = refused.json()["error"]
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "requests")
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    with pytest.raises(openai.RateLimitError):
        router.client.models.list()
    assert router.call("GET", "/v1/models", "lla_" + "x" * 43).status_code == 429  # guesses count, too
    assert router.get("/c/x").status_code == 429
    assert router.get("/demo/x").status_code == 429
    guess = {"X-LLM-Auction-Console": "1", "Cookie": f"{COOKIE}-{urlsplit(router.url).port}=lla_{'x' * 43}"}
    assert httpx.delete(f"{router.url}/v1/session", headers=guess).status_code == 429
    assert router.call("GET", "/v1/keys").status_code == 200  # a key has its own
    assert router.get("/readyz").status_code == 200
    assert 'llm_auction_rate_limited_requests_total{limit="address"} 7.0' in router.get("/metrics").text


def test_a_key_has_an_allowance_by_minute_and_by_day(start: Start) -> None:
    router = start(key_per_minute=100, key_per_day=2)
    key = router.key("publisher")
    assert [router.call("GET", "/v1/models", key).status_code for _ in range(3)] == [200, 200, 429]
    assert int(router.call("GET", "/v1/models", key).headers["retry-after"]) > 3_600
    assert router.call("GET", "/v1/models", router.key("publisher")).status_code == 200
    assert 'llm_auction_rate_limited_requests_total{limit="quota"} 2.0' in router.get("/metrics").text


def test_an_ipv6_customer_is_counted_by_itsnetwork_of() -> None:
    one, neighbour = "2001:db8:1:2::5", "2001:db8:1:3::5"
    assert network_of(one) == network_of("2001:db8:1:2:aaaa::9") != network_of(neighbour)
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1") == "192.0.2.1"
    assert network_of("unix") == "unix"


@pytest.mark.parametrize("wrong", [{"address_per_minute": -1}, {"key_per_day": -1}, {"head_s": 0}, {"connections": 0}])
def test_limits_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ServeSettings(**wrong)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the length of the body."""
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
    await send({"type": "http.response.body", "body": f"{length:06d}".encode()})


@contextmanager
def listening(limits: ConnectionLimits) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(echo, http=limited_protocol(limits), lifespan="off", log_config=None, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


def connect(port: int, *parts: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    for part in parts:
        client.sendall(part)
    return client


def received(client: socket.socket) -> bytes:
    """Return what arrives until the server closes the connection."""
    data = b""
    with client, suppress(ConnectionResetError):
        while more := client.recv(65_536):
            data += more
    return data


def answered(client: socket.socket) -> bytes:
    """Return the body of a response of `echo`."""
    data = b""
    while len(data.partition(b"\r\n\r\n")[2]) < 6:
        more = client.recv(65_536)
        assert more, data
        data += more
    return data[-6:]


POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"


def test_slow_requests_are_closed_and_quick_ones_are_not() -> None:
    closed: list[str] = []
    with listening(ConnectionLimits(100, head_s=0.3, body_s=0.3, refused=closed.append)) as port:
        assert b"408 Request Timeout" in received(connect(port))
        assert b"408 Request Timeout" in received(connect(port, b"POST / HT"))
        late = received(connect(port, POST, b"12"))
        assert json.loads(late.partition(b"\r\n\r\n")[2])["error"]["code"] == "body"
        with connect(port, POST + b"12345") as kept:
            assert answered(kept) == b"000005"
            kept.sendall(POST + b"12345")  # the next request on the same connection has its own time
            assert answered(kept) == b"000005"
    assert closed == ["head", "head", "body"]


def test_surplus_connections_and_large_heads_are_closed() -> None:
    closed: list[str] = []
    with listening(ConnectionLimits(2, head_s=20, body_s=20, head_bytes=2_000, refused=closed.append)) as port:
        held = [connect(port, b"POST") for _ in range(2)]
        for one in held:
            one.sendall(b" ")
        surplus = received(connect(port))
        assert b"503 Service Unavailable" in surplus
        assert b"Retry-After: 2" in surplus
        for one in held:
            one.close()
        while b"503" in received(connect(port, b"GET / HTTP/1.1\r\nConnection: close\r\nHost: x\r\n\r\n")):
            pass  # the server has not seen yet that the others are closed
        large = received(connect(port, b"GET / HTTP/1.1\r\n" + b"X-Long: " + b"a" * 4_000))
        assert b"431" in large
    assert "connections" in closed
    assert "head_size" in closed

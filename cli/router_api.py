"""Requests to a router's API by commands that work on a running router."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import typer

from mechanism.errors import AuctionError, BusyError, InputError

RouterUrl = Annotated[str, typer.Option("--url", envvar="LLM_AUCTION_URL", help="The router's address.")]
ApiKey = Annotated[str, typer.Option("--key", envvar="LLM_AUCTION_KEY", help="An API key; better in the environment.")]
DEFAULT_URL = "http://localhost:8080"
TIMEOUT_S = 300.0


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Reports redirects as errors: urllib would send the key to the other address, and a GET in place of a POST."""

    def redirect_request(self, *_: object) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirects)


class Refused(InputError):
    """The router refused a request: `error` is OpenAI's error object, with all wrong fields as `fields`."""

    def __init__(self, status: int, error: Mapping[str, Any]) -> None:
        self.error = error
        super().__init__(error.get("param") or "request", f"status {status}", error.get("message") or "no message")

    def __str__(self) -> str:
        return str(self.error.get("message") or super().__str__())


def call(
    url: str, key: str, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Any:
    """Send a request and return the decoded JSON of the response; see `send`."""
    return send(url, key, method, path, body, headers)[0]


def send(
    url: str, key: str, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[Any, bool]:
    """Send a request; return the decoded JSON, and whether it is the stored answer of an earlier request.

    Raises:
        InputError: if the address is not one of HTTP or redirects to another one, or there is no key.
        Refused: if the request is wrong.
        BusyError: if it may succeed later.
        AuctionError: if the router cannot be reached, or answers with something else than JSON.
    """
    if not url.startswith(("http://", "https://")):
        raise InputError("--url", url, "give the router's address, such as https://ads.example")
    if not key:
        raise InputError("--key", "", "give an API key of the router, best in the environment variable LLM_AUCTION_KEY")
    sent = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(url.rstrip("/") + path, data=body or None, headers=sent, method=method)
    try:
        with _opener.open(request, timeout=TIMEOUT_S) as response:
            replayed = response.headers.get("Idempotency-Replayed") == "true"
            return msgspec.json.decode(response.read()), replayed
    except urllib.error.HTTPError as error:
        with error:
            refused = _refusal(error.read())
        message = refused.get("message") or f"status {error.code}"
        if 300 <= error.code < 400:
            remedy = (
                f"it redirects to {error.headers.get('Location', 'another address')}: give the router's own address"
            )
            raise InputError("--url", url, remedy) from error
        if error.code in (408, 409, 429) or error.code >= 500:
            raise BusyError(url, error.code, message) from error
        raise Refused(error.code, refused) from error
    except (OSError, msgspec.DecodeError) as error:
        raise AuctionError(f"{url}: {error}: check that a router of this version answers there") from error


def _refusal(body: bytes) -> Mapping[str, Any]:
    try:
        found = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return {}
    error = found.get("error") if isinstance(found, dict) else None
    return error if isinstance(error, dict) else {}

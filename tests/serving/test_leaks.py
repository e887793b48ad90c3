"""What must stay inside: random campaigns, profiles, bids and keys leave no trace in what a router sends or logs."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.bid_scale import BidScale
from tests.serving.conftest import Running, ScriptedPolicy, running, writes

EXAMPLES = 12
PAGES = (
    *("/v1/models", "/v1/auctions", "/v1/reports", "/v1/reports/events", "/v1/summary", "/v1/campaigns", "/v1/keys"),
    *("/v1/deliveries", "/v1/caller", "/livez", "/readyz", "/metrics", "/openapi.json", "/.well-known/jwks.json"),
    *("/", "/v1/campaigns/catalogue-A2", "/v1/campaigns/catalogue-A2/delivery", "/v1/nothing"),
)
BID = st.integers(10_000_019, 99_999_989)
WORD = st.text("bcdfghjklmnpqrstvwxz", min_size=9, max_size=14)
"""Words that stand nowhere else."""
PROFILE = st.fixed_dictionaries(
    {"age": WORD, "gender": WORD, "occupation": WORD, "location": WORD},
    optional={"interests": st.lists(WORD, max_size=3), "history": st.lists(WORD, max_size=3)},
)
ASK = st.fixed_dictionaries(
    {"question": st.sampled_from(["Good running shoes?", "Which coffee beans?", "Hello", "I want to kill myself"])},
    optional={
        "user_id": WORD,
        "blocked_terms": st.lists(WORD, max_size=2),
        "conversation_id": WORD,
        "floor_micros": st.integers(0, 100_000),
        "max_ads": st.integers(1, 3),
    },
)
ROUTES = st.sampled_from(["plain", "streamed", "responses", "broken"])
WHO = st.sampled_from(["anonymous", "publisher", "stranger"])


def strings(value: Any) -> Iterator[str]:
    """Yield all strings in a value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from strings(one)
    elif isinstance(value, str) and value:
        yield value


def decoded(text: str) -> str:
    """Return a text and what its encoded parts hold, read as Latin-1: every byte is then a character."""
    parts = [text, unquote(text)]
    for found in re.findall(r"[\w-]{16,}", text):
        for shift in range(4):
            piece = found[shift:]
            parts.append(base64.urlsafe_b64decode(piece[: len(piece) // 4 * 4]).decode("latin-1"))
    return "\n".join(parts)


def sent(response: Any) -> str:
    """Return all that a response says, its redirects' addresses included."""
    head = "\n".join(f"{name}: {value}" for name, value in response.headers.items())
    return f"{head}\n\n{response.text}"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A router whose scale takes bids that no other number resembles."""
    scale = BidScale({"EUR": 100_000_000})
    folder = tmp_path_factory.mktemp("leaks")
    with running(folder, ScriptedPolicy(writes("Try {A1}.")), bid_scale=scale) as router:
        yield router


@pytest.fixture(scope="module")
def client(shared: Any) -> Iterator[httpx.Client]:
    """Return one client for all requests, which saves opening hundreds."""
    with httpx.Client(base_url=shared.url, timeout=20) as client:
        yield client


@pytest.fixture(scope="module")
def keys(shared: Any) -> dict[str, str]:
    """Return a key of every role; the advertiser has no campaigns."""
    return {
        "anonymous": "",
        "publisher": shared.key("publisher"),
        "stranger": shared.key("advertiser", "Stranger"),
    }


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(bid=BID, profile=PROFILE, ask=ASK, route=ROUTES, who=WHO, pages=st.sets(st.sampled_from(PAGES), max_size=4))
def test_nothing_inside_gets_out(
    shared: Any,
    client: httpx.Client,
    keys: dict[str, str],
    bid: int,
    profile: dict[str, Any],
    ask: dict[str, Any],
    route: str,
    who: str,
    pages: set[str],
) -> None:
    issued = shared.key("advertiser", "Fleetfoot")
    question, fields = ask["question"], {name: value for name, value in ask.items() if name != "question"}
    ads = fields | {"consent": True, "profile": profile}
    with structlog.testing.capture_logs() as logs:
        made = call(client, "POST", "/v1/campaigns", issued, json=campaign(bid))
        assert made.status_code in (200, 201), made.text
        creative = made.json()["creatives"][0]["id"]
        approved = call(client, "POST", f"/v1/creatives/{creative}/review", shared.admin, json={"review": "approved"})
        assert approved.status_code == 200, approved.text
        responses = [asked(client, keys[who], route, question, ads)]
        own = re.findall(r'"auction_id": ?"([^"]+)"', responses[0].text)
        paths = (*sorted(pages), *(f"/v1/auctions/{one}{end}" for one in own for end in ("", "/receipt")))
        responses += [call(client, "GET", path, keys[who]) for path in paths]
    assert all(response.status_code < 500 for response in responses), [
        r.text for r in responses if r.status_code >= 500
    ]
    secrets = {*strings(profile), *strings(fields.get("blocked_terms", [])), fields.get("user_id") or issued, issued}
    amount = re.compile(rf"(?<!\d){bid}(?!\d)")
    for response in responses:
        said = decoded(sent(response))
        assert not [secret for secret in secrets if secret in said], response.url
        assert not amount.search(said), response.url
    assert "@[" not in responses[0].text  # a raw marker is "@Title@[id]"
    written = json.dumps(logs, default=str)
    assert not [secret for secret in (*secrets, str(bid), question) if secret in written]
    call(client, "POST", f"/v1/campaigns/{made.json()['id']}/end", issued)


def call(client: httpx.Client, method: str, path: str, key: str, **options: Any) -> httpx.Response:
    return client.request(method, path, headers={"Authorization": f"Bearer {key}"} if key else {}, **options)


def campaign(bid: int) -> dict[str, Any]:
    return {
        "name": f"rival at {datetime.now(UTC).isoformat()}",
        "bid_micros": bid,
        "currency": "EUR",
        "category": "running shoes",
        "state": "active",
        "creatives": [
            {
                "title": "Fleetfoot Trainers",
                "text": "running shoes and coffee beans",
                "landing_url": "https://f.example",
            }
        ],
    }


def asked(client: httpx.Client, key: str, route: str, question: str, ads: dict[str, Any]) -> Any:
    """Ask over one of the interfaces; "broken" leaves the question out and is refused."""
    body: dict[str, Any] = {"model": "scripted", "ads": ads}
    if route == "responses":
        return call(client, "POST", "/v1/responses", key, json=body | {"input": question})
    messages = [{"role": "user", "content": question}] if route != "broken" else [{"role": "user", "content": ""}]
    return call(
        client, "POST", "/v1/chat/completions", key, json=body | {"messages": messages, "stream": route == "streamed"}
    )

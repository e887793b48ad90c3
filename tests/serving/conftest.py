"""A real router over HTTP for the tests of `serving`: uvicorn on a free port, SQLite in a folder, a scripted policy."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import uvicorn
from numpy.typing import NDArray

from mechanism.markers import render_marker
from mechanism.types import Context, MarkerChoice
from serving.accounts.keys import Role
from serving.auction.sensitive import Topic
from serving.auction.sensitive.meaning import Meaning
from serving.campaigns.catalogue import Catalogue, CatalogueRow, import_catalogue, read_catalogue, write_catalogue
from serving.http.server import server_of
from serving.policies.in_process import ThreadedPolicy
from serving.policies.protocol import AnswerLimits, Completed, PolicyEvent, TextDelta
from serving.router import Router
from serving.settings import ServeSettings
from streaming.codec import decode

SECRET = b"a secret of the tests, long enough for one"
MODEL = "scripted"
BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}


def rows(count: int = 6) -> list[CatalogueRow]:
    """Return ads about different things; A2 bids 0.20, A3 0.30 and so on."""
    things = ["running shoes", "coffee beans", "city hotels", "memory mattress", "tax software", "garden tools"]
    return [
        CatalogueRow(
            id=f"A{i + 1}",
            title=f"Brand{i + 1} {things[i % 6].title()}",
            text=f"{things[i % 6]} for everyone",
            advertiser=f"Brand{i + 1}",
            landing_url=f"https://brand{i + 1}.example/shop?x={i}",
            bid_micros=(i + 1) * 100_000,
            currency="EUR",
            category=things[i % 6],
        )
        for i in range(count)
    ]


class WordEncoder:
    """A hashed bag of words: an encoder that is good enough for tests, and fast."""

    def encode(self, texts: list[str], /) -> NDArray[np.float32]:
        vectors = np.full((len(texts), 512), 1e-3, np.float32)
        for i, text in enumerate(texts):
            for word in text.lower().replace(":", " ").replace("?", " ").split():
                vectors[i, int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big") % 512] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


Script = Callable[[Context], Iterator[str]]


def writes(*deltas: str) -> Script:
    """Return a script that always writes the deltas; `{A2}` becomes that candidate's marker, `{*}` the first one."""

    def script(context: Context) -> Iterator[str]:
        markers = {c.ad.id: render_marker(c.ad) for c in context.candidates}
        first = next(iter(markers.values()), "")
        for delta in deltas:
            yield re.sub(r"\{([\w-]+)\}", lambda found: markers.get(found[1], ""), delta.replace("{*}", first))

    return script


@dataclass
class ScriptedPolicy:
    """A policy of which a test knows every character that it writes."""

    script: Script
    contexts: list[Context] = field(default_factory=list)
    closed: int = 0
    digest: str = "0" * 64

    def stream(self, context: Context, seed: int, max_ads: int, limits: AnswerLimits) -> Iterator[PolicyEvent]:
        self.contexts.append(context)
        even = {c.ad.id: 1 / len(context.candidates) for c in context.candidates}
        try:
            for delta in self.script(context):
                yield TextDelta(delta)
            choices = tuple(MarkerChoice(ad_id, even) for ad_id in list(even)[:1])
            yield Completed(choices, logprob=-1.5, tokens=7, prompt_tokens=40)
        finally:
            self.closed += 1


@dataclass
class Running:
    """A router that answers at `url`; `admin` is an administrator's key."""

    url: str
    policy: Any
    router: Router
    server: uvicorn.Server
    admin: str

    @property
    def settings(self) -> ServeSettings:
        return self.router.settings

    @cached_property
    def client(self) -> openai.OpenAI:
        """Its users' client; `router` closes it, since an open connection would warn in a later test."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0, timeout=20)

    def key(self, role: str, advertiser: str = "") -> str:
        """Issue a key of a role."""
        issued = self.router.accounts.issue(Role(role), "test", datetime.now(UTC), advertiser_id=advertiser)
        return issued.secret

    def call(self, method: str, path: str, key: str | None = None, **options: Any) -> httpx.Response:
        """Send a request with an API key: an administrator's unless another, or "" for none, is given."""
        key = self.admin if key is None else key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        headers |= options.pop("headers", {})
        return httpx.request(method, self.url + path, headers=headers, timeout=20, **options)

    def post(self, **body: Any) -> httpx.Response:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Good running shoes?"}]} | body
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=20)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=20, **options)

    def ask(self, **body: Any) -> dict[str, Any]:
        response = self.post(**body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def click(self, url: str, age_s: float = 2.0, **options: Any) -> httpx.Response:
        """Follow a link as a person's browser does, a moment after it was shown."""
        clock = time.time() + age_s
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("serving.http.clicks.time.time", lambda: clock)
            headers = BROWSER | options.pop("headers", {})
            return httpx.request(options.pop("method", "GET"), url, headers=headers, timeout=20, **options)

    def revenue(self) -> dict[str, int]:
        """Return the sums over the ledger."""
        found: dict[str, int] = self.call("GET", "/v1/summary").json()["revenue_micros"]
        return found

    def wait_until_charged(self) -> None:
        """Wait until all answers are finalised and the ledger has booked all events."""
        until(lambda: self.router.in_flight == 0)
        until(lambda: self.router.uncharged() == 0)

    def logged(self, topic: str) -> list[Any]:
        """Return the events of a topic, after the end of all answers under way."""
        until(lambda: self.router.in_flight == 0)
        until(lambda: self.router.events.buffered + self.router.events.waiting == 0)
        with self.router.log.consumer("", [topic]) as consumer:
            records = []
            while found := consumer.poll(0):
                records += found
        return [decode(topic, record.value) for record in records if record.value is not None]


@contextmanager
def running(
    folder: Path,
    policy: Any,
    encoder: Any = None,
    ads: int = 6,
    catalogue: Catalogue | None = None,
    backend: Any = None,
    secrets: tuple[bytes, ...] = (SECRET,),
    **settings: Any,
) -> Iterator[Running]:
    """Start a router on a free port and stop it at the end."""
    path = folder / "catalogue.jsonl"
    if catalogue is None and ads:
        write_catalogue(rows(ads), path)
        catalogue = read_catalogue(path)
    chosen = ServeSettings(
        **{
            "state_dir": folder / "state",
            "currency": catalogue.currency if catalogue else "EUR",
            "anonymous_chat": True,
            "refresh_s": 0.05,
            "relevance_floor": 0.0,
            "drain_s": 5.0,
            "encode_s": 5.0,
            "address_per_minute": 0,
            "key_per_minute": 0,
        }
        | settings
    )
    backend = backend or ThreadedPolicy(policy, chosen.waiting, chosen.deadline_s)
    router = Router(backend, MODEL, secrets[0], chosen, encoder or WordEncoder(), secrets[1:])
    if catalogue is not None:
        import_catalogue(catalogue, router.campaigns, datetime.now(UTC) - timedelta(seconds=5))
    admin = router.accounts.issue(Role.ADMIN, "test", datetime.now(UTC)).secret
    listener = socket.create_server(("127.0.0.1", 0))
    # What a client does not read stays with the router.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
    server = server_of(router)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until(lambda: server.started or not thread.is_alive(), 30)
    running = Running(f"http://127.0.0.1:{listener.getsockname()[1]}", policy, router, server, admin)
    try:
        yield running
    finally:
        running.client.close()
        server.should_exit = True
        thread.join(20)
        listener.close()


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for a condition; fail the test when it does not hold in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"the condition did not hold within {seconds} s"
        time.sleep(0.01)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Return `start("text with {A2}", script=None, encoder=None, **settings)`.

    It starts a router whose policy writes the given deltas, or runs the script.
    """
    with ExitStack() as stack:

        def make(*deltas: str, script: Script | None = None, encoder: Any = None, **settings: Any) -> Running:
            policy = ScriptedPolicy(script or writes(*(deltas or ("Hello.",))))
            return stack.enter_context(running(tmp_path, policy, encoder, **settings))

        yield make


@pytest.fixture
def router() -> Callable[..., Any]:
    """Return the context manager `router(folder, policy, ...)`, for any policy backend."""
    return running


@pytest.fixture
def scripted() -> Callable[..., ScriptedPolicy]:
    """Return `scripted("text with {A2}")`, which creates a policy that writes the text."""
    return lambda *deltas: ScriptedPolicy(writes(*deltas))


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """Return `until(condition, seconds)`."""
    return until


@pytest.fixture
def spans() -> Iterator[Callable[[], dict[str, Any]]]:
    """Return `spans()`, the finished spans of this test by name."""
    trace, sdk = pytest.importorskip("opentelemetry.trace"), pytest.importorskip("opentelemetry.sdk.trace")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    if not isinstance(trace.get_tracer_provider(), sdk.TracerProvider):
        trace.set_tracer_provider(sdk.TracerProvider())  # possible once in a process
    exporter = InMemorySpanExporter()
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
    yield lambda: {span.name: span for span in exporter.get_finished_spans()}
    exporter.shutdown()


@pytest.fixture
def small_meaning() -> Callable[..., Meaning]:
    """Return a classifier over vectors of width 3: the first one means grief, the second one a need."""

    def make(**changes: Any) -> Meaning:
        one, topics = np.eye(3, dtype=np.float32), tuple(Topic)
        heads_HD = np.zeros((2 + len(topics), 3), np.float32)
        heads_HD[0], heads_HD[1], heads_HD[2 + topics.index(Topic.GRIEF)] = one[0] * 2, one[1], one[0]
        nothing_H = np.zeros(len(heads_HD), np.float32)
        return replace(
            Meaning(
                topics=topics,
                pieces_R2=np.zeros((2, 2), np.float32),
                topic_pieces_RT=np.zeros((2, len(topics)), np.float32),
                phrases_HT=np.zeros((len(heads_HD), len(topics)), np.float32),
                english_HD=heads_HD,
                other_HD=-heads_HD,
                biases_H=nothing_H,
                blind_H=nothing_H,
                threshold=1.0,
                blind_threshold=0.5,
                need_bar=-1.0,
                probe_D=one[2],
            ),
            **changes,
        )

    return make


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One router for all tests of a module that leave no state behind."""
    with running(tmp_path_factory.mktemp("shared"), ScriptedPolicy(writes("Try {A1}."))) as router:
        yield router

"""Policies on a real tritonserver: the shipped model, and a scripted one where a test needs to know every step."""

from __future__ import annotations

import asyncio
import json
import shutil
import urllib.request
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.serving.triton import next_version
from cli.serve import routed
from mechanism.errors import ConfigError, InputError, PolicyError
from mechanism.types import Ad, Candidate, Context, Profile
from serving import tracing
from serving.errors import Overloaded, PolicyTimeout
from serving.policies.breaker import BreakerSettings, ServerDown
from serving.policies.protocol import AsyncPolicyBackend, Completed, PolicyEvent, TextDelta
from serving.policies.triton import server
from serving.policies.triton.client import ModelRef, TritonPolicy, TritonSettings, connect
from serving.policies.triton.repository import build_repository
from serving.policies.triton.rollout import ChangeLimits, ServedPolicy
from serving.policies.versioned import RoutedPolicy
from serving.settings import ServeSettings

ROOT = Path(__file__).parents[2]
SCRIPTED = '''
import sys, time
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent / "code"))
from serving.policies.protocol import Completed, TextDelta
from serving.policies.triton import backend

class Scripted:
    """As many deltas as the seed says, one each 5 ms."""
    digest = ""
    def stream(self, context, seed, max_ads):
        if context.query == "break":
            raise RuntimeError("a private question")
        for i in range(seed):
            yield TextDelta(f"{context.id}:{i} ")
            time.sleep(0.005)
        yield Completed((), -1.0, seed, 1)

class TritonPythonModel(backend.TritonPythonModel):
    def policy(self):
        return Scripted()
'''
QUESTIONS = ("Which headphones are good for noisy trains?", "What helps against sore feet after running?")
TITLES = ("Acme Noise Headphones", "Acme Noise Earbuds", "Zephyr Trail Shoes", "Lumen Desk Lamp")
ADS = tuple(Candidate(Ad(f"A{i}", title, "", title.split()[0]), i * 200_000) for i, title in enumerate(TITLES))
PROFILE = Profile("u", interests=("running", "music"))


def context(i: int) -> Context:
    turns = (("user", "Hello."), ("assistant", "Hello, how can I help?")) if i % 2 else ()
    return Context(f"c{i}", QUESTIONS[i % 2], ADS[: i % 5], PROFILE if i % 3 else None, turns)


def plain(name: str = "c", query: str = "q") -> Context:
    return Context(name, query, ())


@pytest.fixture(scope="session")
def prepared() -> server.Prepared:
    try:
        return server.locate(ROOT / server.FOLDER)
    except ConfigError as error:
        pytest.skip(str(error))


def scripted(out: Path, source: Path, weights: bytes, slots: int, waiting: int = 0) -> ModelRef:
    """A model without torch whose weights are a few bytes."""
    source.mkdir()
    (source / "config.json").write_text("{}")
    (source / "model.safetensors").write_bytes(weights)
    built = build_repository(str(source), out, slots=slots, waiting=waiting)
    (built.folder / "1" / "model.py").write_text(SCRIPTED)
    return ModelRef(built.name, built.digest)


@dataclass(frozen=True)
class Site:
    """A running server, its repository and the models in it; `following` is not loaded at the start."""

    server: server.TritonServer
    repository: Path
    tiny: ModelRef
    old: ModelRef
    following: ModelRef
    wide: ModelRef
    narrow: ModelRef

    def run(self, work: Callable[[Any], Awaitable[None]]) -> None:
        """Runs the work with a client on a loop of its own."""

        async def with_client() -> None:
            client = connect(f"127.0.0.1:{self.server.grpc}")
            try:
                await work(client)
            finally:
                await client.close()

        asyncio.run(with_client())


@pytest.fixture(scope="module")
def site(prepared: server.Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("triton")
    repository = folder / "repository"
    tiny = build_repository("tiny", repository, slots=4)
    following = build_repository(str(next_version(folder)), repository, slots=4)
    old = scripted(repository, folder / "old", b"old", slots=4)
    wide = scripted(repository, folder / "wide", b"wide", slots=8)
    narrow = scripted(repository, folder / "narrow", b"narrow", slots=1)
    load = [tiny.name, old.name, wide.name, narrow.name]
    with server.running(repository, load, folder / "server.log", prepared) as running:
        new, first = (ModelRef(b.name, b.digest) for b in (following, tiny))
        yield Site(running, repository, first, old, new, wide, narrow)


def ask(
    policy: AsyncPolicyBackend, about: Context, seed: int, seconds: float = 60
) -> AsyncGenerator[PolicyEvent, None]:
    return policy.stream(about, seed, 2, asyncio.get_running_loop().time() + seconds)


async def whole(policy: AsyncPolicyBackend, about: Context, seed: int, seconds: float = 60) -> tuple[str, Completed]:
    *deltas, done = [event async for event in ask(policy, about, seed, seconds)]
    assert isinstance(done, Completed)
    return "".join(d.text for d in deltas if isinstance(d, TextDelta)), done


def test_a_route_file_names_models_on_triton_and_folders_of_this_process(site: Site, tmp_path: Path) -> None:
    """As `llm-auction serve --routes` opens them; a model whose weights are others gets no traffic."""
    folder = tmp_path / "tiny"
    shutil.copytree(ROOT / "inference" / "models_data" / "tiny", folder)
    at = f"triton 127.0.0.1:{site.server.grpc}"
    versions = [
        {"name": "remote", "weight": 40, "policy": at, "digest": site.tiny.digest},
        {"name": "local", "weight": 40, "policy": str(folder), "digest": site.tiny.digest},
        {"name": "absent", "weight": 10, "policy": at, "digest": site.following.digest},
        {"name": "other", "weight": 10, "policy": str(folder), "digest": site.following.digest},
    ]
    path = tmp_path / "routes.json"
    path.write_text(json.dumps({"versions": versions}))

    async def work(_: Any) -> None:
        policy = routed(path, ServeSettings())()
        assert isinstance(policy, RoutedPolicy)
        try:
            await policy.start()
            assert policy.shares == {"remote": 50, "local": 50}
            assert set(policy.faults) == {"absent", "other"}
            assert "its weights are" in policy.faults["other"]
            texts = {await text_of(policy.version_for(f"user-{i}")) for i in range(6)}
            assert len(texts) == 1  # the same weights and seed, wherever they are
        finally:
            await policy.close()

    async def text_of(version: AsyncPolicyBackend) -> str:
        return (await whole(version, context(1), seed=1))[0]

    site.run(work)


def test_answers_are_those_of_the_policy_in_process(site: Site) -> None:
    """Also when they are written at the same time: text, propensities, log-probability, lengths."""
    local = ModelPolicy.load("tiny")

    async def work(client: Any) -> None:
        remote = TritonPolicy(client, site.tiny)
        answers = await asyncio.gather(*(whole(remote, context(i), seed=i) for i in range(10)))
        assert any(done.choices for _, done in answers)
        for i, (text, done) in enumerate(answers):
            *deltas, expected = local.stream(context(i), i, 2)
            assert isinstance(expected, Completed)
            assert text == "".join(d.text for d in deltas if isinstance(d, TextDelta))
            assert done.logprob == pytest.approx(expected.logprob, abs=1e-4)
            assert (done.tokens, done.prompt_tokens) == (expected.tokens, expected.prompt_tokens)
            assert (done.finished, done.digest) == (expected.finished, site.tiny.digest)
            assert [c.chosen for c in done.choices] == [c.chosen for c in expected.choices]
            for mine, theirs in zip(done.choices, expected.choices, strict=True):
                assert mine.probabilities == pytest.approx(dict(theirs.probabilities), abs=1e-5)

    site.run(work)


def test_eight_streams_are_written_at_once(site: Site) -> None:
    order: list[tuple[str, int]] = []

    async def work(client: Any) -> None:
        policy = TritonPolicy(client, site.wide)

        async def one(name: str) -> None:
            count = 0
            async for event in ask(policy, plain(name), 40):
                if isinstance(event, TextDelta):
                    assert event.text == f"{name}:{count} "
                    count += 1
                    order.append((name, count))
            assert count == 40

        await asyncio.gather(*(one(f"s{i}") for i in range(8)))

    site.run(work)
    firsts = [i for i, (_, count) in enumerate(order) if count == 1]
    lasts = [i for i, (_, count) in enumerate(order) if count == 40]
    assert len(firsts) == len(lasts) == 8
    assert max(firsts) < min(lasts)


def test_a_full_server_says_so_and_leaving_frees_the_slot(site: Site) -> None:
    async def work(client: Any) -> None:
        policy = TritonPolicy(client, site.narrow)
        endless = ask(policy, plain(), 10**6)
        await anext(endless)
        with pytest.raises(Overloaded):
            await whole(policy, plain(), 1)
        await endless.aclose()
        await until_room(policy)
        # the same when the reader's task is cancelled
        begun = asyncio.Event()

        async def read() -> None:
            async for _ in ask(policy, plain(), 10**6):
                begun.set()

        reader = asyncio.create_task(read())
        await begun.wait()
        assert await full(policy)
        reader.cancel()
        await until_room(policy)
        assert policy.breaker.closed

    site.run(work)


def test_a_client_that_dies_frees_its_slot(site: Site) -> None:
    async def work(client: Any) -> None:
        dying = connect(f"127.0.0.1:{site.server.grpc}")
        endless = ask(TritonPolicy(dying, site.narrow), plain(), 10**6)
        await anext(endless)
        assert await full(TritonPolicy(client, site.narrow))
        await dying.close()
        await until_room(TritonPolicy(client, site.narrow))
        with pytest.raises(PolicyError):
            await anext(endless)

    site.run(work)


async def full(policy: TritonPolicy) -> bool:
    try:
        await whole(policy, plain(), 1)
    except Overloaded:
        return True
    return False


async def until_room(policy: TritonPolicy) -> None:
    async with asyncio.timeout(20):
        while await full(policy):
            await asyncio.sleep(0.02)


def test_the_deadline_ends_the_answer_there_too(site: Site) -> None:
    async def work(client: Any) -> None:
        policy = TritonPolicy(client, site.narrow)
        with pytest.raises(PolicyTimeout):
            await whole(policy, plain(), 10**6, seconds=0.3)
        await until_room(policy)
        with pytest.raises(PolicyTimeout):
            await whole(policy, plain(), 1, seconds=-1)
        assert policy.breaker.failed_in_a_row == 0

    site.run(work)


def test_bad_input_and_a_broken_policy_say_what_to_do(site: Site) -> None:
    async def work(client: Any) -> None:
        tiny, wide = TritonPolicy(client, site.tiny), TritonPolicy(client, site.wide)
        with pytest.raises(InputError, match="shorten them") as caught:
            await whole(tiny, plain(query="a private word " * 2000), 1)
        assert caught.value.place == "messages"
        assert "private" not in str(caught.value)
        with pytest.raises(InputError, match="seed"):
            await whole(wide, plain(), -1)
        with pytest.raises(PolicyError, match="server's log") as broken:
            await whole(wide, plain(query="break"), 1)
        assert "private" not in str(broken.value)
        assert (await whole(wide, plain(), 2))[0] == "c:0 c:1 "

    site.run(work)
    assert "private" not in site.server.log.read_text()


def test_the_trace_goes_on_to_the_model(site: Site, spans: Callable[[], dict[str, Any]]) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"

    async def work(client: Any) -> None:
        policy = TritonPolicy(client, site.wide)
        with tracing.continued({"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}), tracing.span("auction"):
            await whole(policy, plain(), 2)
            answered = spans()["triton"]
            with pytest.raises(PolicyError):
                await whole(policy, plain(query="break"), 1)
            failed = spans()["triton"]
            endless = ask(policy, plain(), 10**6)
            await anext(endless)
            await endless.aclose()
        assert [s.attributes["outcome"] for s in (answered, failed, spans()["triton"])] == [
            "answered",
            "PolicyError",
            "cancelled",
        ]
        assert answered.attributes["model_digest"] == site.wide.digest
        assert answered.parent.span_id == spans()["auction"].context.span_id
        assert {f"{span.context.trace_id:032x}" for span in (answered, failed)} == {trace_id}
        await until_room(policy)

    site.run(work)
    assert f"no answer in trace {trace_id}" in site.server.log.read_text()


def test_plain_http_reaches_the_same_interface(site: Site) -> None:
    """What the interface's description promises to those who come without this client."""
    url = f"http://127.0.0.1:{site.server.http}/v2/models/{site.wide.name}/generate_stream"
    body = json.dumps(
        {"REQUEST": json.dumps({"context": {"id": "c", "query": "q", "candidates": []}, "seed": 2, "max_ads": 0})}
    )
    with urllib.request.urlopen(urllib.request.Request(url, body.encode()), timeout=20) as answer:
        frames = [json.loads(line[6:]) for line in answer.read().decode().splitlines() if line.startswith("data: ")]
    assert [f["TEXT"] for f in frames] == ["c:0 ", "c:1 ", ""]
    assert json.loads(frames[-1]["COMPLETED"])["digest"] == site.wide.digest


def test_another_digest_is_refused_before_anything_is_asked(site: Site) -> None:
    async def work(client: Any) -> None:
        wrong = TritonPolicy(client, ModelRef(site.wide.name, "0" * 64))
        with pytest.raises(PolicyError, match="not 000000000000"):
            await whole(wrong, plain(), 1)
        assert not await wrong.ready()
        assert await TritonPolicy(client, site.wide).ready()
        assert not await TritonPolicy(client, ModelRef("policy-absent", "0" * 64)).ready()

    site.run(work)


def test_the_version_changes_under_load_without_a_failed_request(site: Site) -> None:
    async def work(client: Any) -> None:
        served = ServedPolicy(client, site.old)
        written: list[str] = []
        over = asyncio.Event()

        async def reader(i: int) -> None:
            while not over.is_set():
                i += 4
                written.append((await whole(served, context(i), seed=i % 16))[1].digest)

        readers = [asyncio.create_task(reader(i)) for i in range(4)]
        while len(written) < 4:
            await asyncio.sleep(0.01)
        change = await served.change_to(site.following)
        after = len(written)
        while len(written) < after + 8:
            await asyncio.sleep(0.01)
        over.set()
        await asyncio.gather(*readers)  # raises if any request failed
        assert set(written) == {site.old.digest, site.following.digest}
        assert set(written[-4:]) == {site.following.digest}
        assert change.unloaded
        assert not await client.is_model_ready(site.old.name)
        assert served.digest == site.following.digest

    site.run(work)


def test_a_version_that_cannot_serve_leaves_the_old_one_serving(site: Site, tmp_path: Path) -> None:
    tampered = scripted(site.repository, tmp_path / "a", b"tampered", slots=1)
    (site.repository / tampered.name / "1" / "weights" / "model.safetensors").write_bytes(b"other")
    silent = scripted(site.repository, tmp_path / "b", b"silent", slots=1)
    script = site.repository / silent.name / "1" / "model.py"
    script.write_text(SCRIPTED.replace("for i in range(seed)", "time.sleep(1)\n        for i in range(seed)"))
    wrong = ModelRef(scripted(site.repository, tmp_path / "c", b"wrong", slots=1).name, "0" * 64)

    async def work(client: Any) -> None:
        served = ServedPolicy(client, site.wide)
        for bad, words in (
            (tampered, "not the weights that the repository was built from"),
            (ModelRef("policy-absent", "0" * 64), "could not load"),
            (silent, "deadline"),
            (wrong, "not 000000000000"),
            (site.wide, "serves already"),
        ):
            with pytest.raises(PolicyError, match=words):
                await served.change_to(bad, ChangeLimits(load_s=60, trial_s=0.3))
            assert served.digest == site.wide.digest
            assert (await whole(served, plain(), 1))[0] == "c:0 "
        for gone in (tampered, silent, wrong):
            async with asyncio.timeout(20):
                while await client.is_model_ready(gone.name):
                    await asyncio.sleep(0.02)

    site.run(work)


def test_the_breaker_opens_when_the_server_dies_and_closes_when_it_is_back(
    prepared: server.Prepared, tmp_path: Path
) -> None:
    model = scripted(tmp_path / "repository", tmp_path / "m", b"w", slots=2)
    settings = TritonSettings(retries=1, pause_s=0.01, breaker=BreakerSettings(failures=3, cool_s=0.2))
    ports = server.free_ports()

    async def failing(policy: TritonPolicy) -> None:
        with pytest.raises(ServerDown):
            await whole(policy, plain(), 1, seconds=10)

    async def work() -> None:
        client = connect(f"127.0.0.1:{ports[1]}")
        policy = TritonPolicy(client, model, settings)
        with server.running(tmp_path / "repository", [model.name], tmp_path / "log", prepared, ports) as first:
            assert (await whole(policy, plain(), 1))[0] == "c:0 "
            under_way = ask(policy, plain(), 10**6)
            await anext(under_way)
            first.kill()
            rest: list[PolicyEvent] = []
            with pytest.raises(ServerDown):
                rest.extend([event async for event in under_way])
            assert TextDelta("c:0 ") not in rest, "it was written again from its beginning"
        while policy.breaker.closed:
            await failing(policy)
        assert not await policy.ready()
        with server.running(tmp_path / "repository", [model.name], tmp_path / "log", prepared, ports):
            async with asyncio.timeout(20):
                while not policy.breaker.closed:
                    try:
                        await whole(policy, plain(), 1)
                    except ServerDown:
                        await asyncio.sleep(0.05)
            assert await policy.ready()
        await client.close()

    asyncio.run(work())


def test_a_server_that_cannot_start_shows_its_log(prepared: server.Prepared, tmp_path: Path) -> None:
    model = scripted(tmp_path / "repository", tmp_path / "m", b"w", slots=2)
    (tmp_path / "repository" / model.name / "1" / "model.py").write_text("raise RuntimeError('no such thing')")
    with (
        pytest.raises(PolicyError, match="no such thing"),
        server.running(tmp_path / "repository", [model.name], tmp_path / "log", prepared),
    ):
        pytest.fail("it started")


def test_without_preparation_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="llm-auction triton prepare"):
        server.locate(tmp_path)

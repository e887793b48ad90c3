"""`llm-auction serve`: puts a policy, a database and a state directory together and answers on a port.

A database without campaigns gets those of a catalogue file; without one the built-in world's ads, with bids drawn by
seed: the router itself knows no simulated world.
"""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechanism.errors import ConfigError

if TYPE_CHECKING:
    from serving.auction.encoding import Encoder
    from serving.campaigns.catalogue_file import Catalogue
    from serving.policies.protocol import AsyncPolicyBackend
    from serving.settings import ServeSettings

KEEP_ALIVE_S = 75
SWITCH_S = 0.0005
COLLECT_AFTER = (20_000, 20, 50)


def serve(
    model: Annotated[str, typer.Option(help="Model, version or folder; a name for --triton, --upstream.")] = "tiny",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8080,
    catalogue: Annotated[Path | None, typer.Option(help="Ads as JSON Lines; the built-in world's if left out.")] = None,
    demo: Annotated[bool, typer.Option("--demo/--no-demo", help="Import ads into a database without any.")] = True,
    state_dir: Annotated[Path, typer.Option(help="Folder of the secret, the queue and SQLite.")] = Path("build/serve"),
    database: Annotated[
        str, typer.Option(help="postgresql://... in production; SQLite if left out.", envvar="LLM_AUCTION_DATABASE")
    ] = "",
    log: Annotated[
        str,
        typer.Option(
            help="Where events go: a folder, or `kafka` (see LLM_AUCTION_KAFKA_SERVERS); in --state-dir if left out.",
            envvar="LLM_AUCTION_LOG",
        ),
    ] = "",
    ledger: Annotated[
        bool | None,
        typer.Option("--ledger/--no-ledger", help="Charge here; with Kafka `worker ledger` does, unless told here."),
    ] = None,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Let callers without an API key chat, and see their auctions.")
    ] = False,
    public_url: Annotated[str, typer.Option(help="What click links begin with, behind a proxy.")] = "",
    metrics: Annotated[
        str, typer.Option(help="host:port for /metrics; --port's if left out.", envvar="LLM_AUCTION_METRICS")
    ] = "",
    triton: Annotated[str, typer.Option(help="host:port of a Triton's gRPC, in place of a policy here.")] = "",
    digest: Annotated[str, typer.Option(help="With --triton: the weights' sha256, as `triton build` says.")] = "",
    upstream: Annotated[str, typer.Option(help="Base URL of an OpenAI-compatible server, in its place.")] = "",
    routes: Annotated[
        Path | None, typer.Option(help="Route file: versions with weights, followed while it changes; in their place.")
    ] = None,
    meaning: Annotated[bool, typer.Option("--encoder/--no-encoder", help="Find ads by meaning as well.")] = True,
    candidates: Annotated[int, typer.Option(help="Ads in one prompt.", min=1)] = 20,
    max_ads: Annotated[int, typer.Option(help="Most sponsored links in one answer.", min=1)] = 3,
    in_flight: Annotated[int, typer.Option(help="Answers under way at once, before 503.", min=1)] = 256,
    drain: Annotated[float, typer.Option(help="Seconds that answers under way get at the end.", min=0.1)] = 30.0,
    currency: Annotated[str, typer.Option(help="Currency of requests that name none.")] = "USD",
    seed: Annotated[int, typer.Option(help="Draws the bids of the built-in ads.")] = 0,
) -> None:
    """Answer chat completions with labelled sponsored links; chat page at the same address."""
    from serving.campaigns.catalogue_file import read_catalogue
    from serving.policies.route_file import read_routes
    from serving.settings import ServeSettings, signing_secret
    from streaming.addresses import KAFKA

    charges = log != KAFKA if ledger is None else ledger
    settings = ServeSettings(
        state_dir=state_dir,
        database=database,
        anonymous_chat=anonymous,
        public_url=public_url,
        metrics_address=metrics,
        log=log,
        ledger="process" if charges else "elsewhere",
        candidates=candidates,
        max_ads=max_ads,
        in_flight=in_flight,
        drain_s=drain,
        currency=currency,
    )
    secret = signing_secret(state_dir)
    ads = read_catalogue(catalogue or builtin_catalogue(state_dir, seed)) if catalogue or demo else None
    if ads is not None:
        settings = replace(settings, currency=ads.currency)
    if routes is not None:
        read_routes(routes)
    listener = listen(host, port)
    if triton and not digest:
        raise ConfigError("--digest", digest, "say which weights the Triton shall serve: `llm-auction triton build`")
    make: Callable[[], AsyncPolicyBackend]
    if sum(map(bool, (triton, upstream, routes))) > 1:
        raise ConfigError("--triton, --upstream, --routes", "more than one", "give one of them, or none")
    if routes is not None:
        make = routed(routes, settings)
    elif upstream:
        make = openai_compatible(upstream, model, in_flight)
    elif triton:
        make = lambda: remote(triton, model, digest)  # noqa: E731
    else:
        typer.echo(f"Loading {model} ...", err=True)
        local = in_process(model, settings)
        make = lambda: local  # noqa: E731
    shown = "localhost" if host in ("127.0.0.1", "0.0.0.0", "::") else host
    address = f"http://{shown}:{listener.getsockname()[1]}"
    run_router(make, Path(model).name, secret, settings, listener, address, ads, meaning)


def run_router(
    make: Callable[[], AsyncPolicyBackend],
    name: str,
    secret: bytes,
    settings: ServeSettings,
    listener: socket.socket,
    address: str,
    ads: Catalogue | None,
    meaning: bool = True,
) -> None:
    """Runs a router until SIGTERM or Ctrl+C, and then until the answers under way are written."""
    import uvicorn

    from serving.accounts.administrator import ensure_administrator
    from serving.campaigns.catalogue import import_catalogue
    from serving.http.app import create_app
    from serving.router import Router

    async def main() -> None:
        from datetime import UTC, datetime

        router = Router(make(), name, secret, settings, encoder() if meaning else None)
        now = datetime.now(UTC)
        if ads is not None:
            import_catalogue(ads, router.campaigns, now)
        key_file = ensure_administrator(router.accounts, settings.state_dir, now)
        known = f"; administrator's key in {key_file}" if key_file else ""
        typer.echo(f"{name} ({router.backend.digest[:12]}): chat at {address}{known}", err=True)
        typer.echo(f"OpenAI-compatible at {address}/v1, reports at /v1/reports; Ctrl+C stops.", err=True)
        config = uvicorn.Config(
            create_app(router),
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(settings.drain_s),
        )
        await uvicorn.Server(config).serve(sockets=[listener])

    # Threads that charge or encode must not keep the event loop from answering for the usual five milliseconds.
    sys.setswitchinterval(SWITCH_S)
    # An answer leaves no reference cycles: what is under way is not to be searched for them again and again.
    gc.set_threshold(*COLLECT_AFTER)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(main())
    except KeyboardInterrupt:  # uvicorn ends well and then repeats the signal
        return


def encoder() -> Encoder | None:
    """The frozen text encoder, None where it is not installed: then words alone find candidates."""
    try:
        from inference.encoder import shared_encoder
    except ModuleNotFoundError:
        return None
    return shared_encoder()


def in_process(model: str, settings: ServeSettings) -> AsyncPolicyBackend:
    """A policy in this process. Imports torch."""
    from serving.policies.protocol import InProcessPolicy
    from serving.policies.threaded import ThreadedPolicy
    from serving.policies.worker import PolicyWorker

    return ThreadedPolicy(PolicyWorker(InProcessPolicy.load(model), settings.waiting, settings.deadline_s))


def remote(url: str, model: str, digest: str) -> AsyncPolicyBackend:
    """A policy on a Triton; called on the event loop, which its client belongs to."""
    from serving.policies.triton.client import ModelRef, connect
    from serving.policies.triton.rollout import ServedPolicy

    return ServedPolicy(connect(url), ModelRef(model, digest))


def routed(path: Path, settings: ServeSettings) -> Callable[[], AsyncPolicyBackend]:
    """The versions of a route file, each on a Triton or in this process."""
    from serving.policies.route_file import Version
    from serving.policies.triton.wire import model_name
    from serving.policies.versioned import RoutedPolicy

    # transformers builds models under settings of the whole process: two at once would take each other's.
    loading = asyncio.Lock()

    async def open_version(version: Version) -> AsyncPolicyBackend:
        if version.server:
            from serving.policies.triton.client import ModelRef, TritonPolicy, connect

            model = ModelRef(model_name(version.digest), version.digest)
            return TritonPolicy(connect(version.server), model, own_client=True)
        async with loading:
            return await asyncio.to_thread(in_process, version.policy, settings)

    return lambda: RoutedPolicy(path, open_version)


def openai_compatible(url: str, model: str, in_flight: int) -> Callable[[], AsyncPolicyBackend]:
    """A policy behind `/v1/chat/completions` of another server. Raises ConfigError before anything is started."""
    from serving.policies.openai.policy import UpstreamPolicy, UpstreamSettings

    policy = UpstreamPolicy(UpstreamSettings(url, model, in_flight=in_flight))
    return lambda: policy


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def builtin_catalogue(state_dir: Path, seed: int) -> Path:
    """Writes the built-in world's ads to `state_dir`, each with a bid of 1 to 100 points drawn by `seed`."""
    from mechanism.prompt import MICROS_PER_POINT
    from serving.campaigns.catalogue_file import DEMO_PATH, CatalogueRow, write_catalogue
    from simulator.world import World

    draw = random.Random(seed)
    rows = [
        CatalogueRow(
            id=ad.id,
            title=ad.title,
            text=ad.text,
            advertiser=ad.advertiser,
            category=ad.category,
            landing_url=DEMO_PATH + ad.id,
            bid_micros=draw.randint(1, 100) * MICROS_PER_POINT,
            currency="USD",
        )
        for ad in World(profiles=0).ads
    ]
    path = state_dir / f"builtin-catalogue-{seed}.jsonl"
    write_catalogue(rows, path)
    return path


def listen(host: str, port: int) -> socket.socket:
    """The listening socket, taken before the slow loading so that a port in use is reported at once."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise ConfigError(f"--port {port}", host, f"{error.strerror}: choose another --port or --host") from error

"""`llm-auction serve`: assemble a router from a policy, a database and a state directory, and serve it on a port.

An empty database is filled from a catalogue file or, by default, with the built-in world's ads and random bids; the
router itself does not depend on the simulator.
"""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from cli.backends import in_process, openai_compatible, remote, routed
from cli.listening import listen, share
from cli.workers import IN_PROCESS, WorkerPlace, check_workers, prepare, supervise
from mechanism.errors import ConfigError
from serving.settings import BlockRule

if TYPE_CHECKING:
    from serving.auction.encoding import Encoder
    from serving.campaigns.catalogue import Catalogue
    from serving.policies.protocol import AsyncPolicyBackend
    from serving.settings import ServeSettings

ForwardedHeader: TypeAlias = Literal["x-forwarded-for", "forwarded"]
ASSISTANT = "assistant"
SWITCH_INTERVAL_S = 0.0005
"""How long a thread that charges or encodes may hold the interpreter; Python's default of 5 ms delays answers."""
GC_THRESHOLDS = (20_000, 20, 50)
"""Collect rarely: answers leave no reference cycles, and each collection would search all running answers."""

CANDIDATES, FEW_CANDIDATES = 20, 4
"""Ads in one prompt; the second of small models: with more, `assistant` shows unfitting ads and answers later."""


def serve(
    model: Annotated[
        str, typer.Option(help="Model name or folder; with --triton or --upstream the model's name there.")
    ] = ASSISTANT,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8080,
    catalogue: Annotated[Path | None, typer.Option(help="Ads as JSON Lines. Default: the built-in world's.")] = None,
    demo: Annotated[
        bool, typer.Option("--demo/--no-demo", help="Import the built-in ads into an empty database.")
    ] = True,
    state_dir: Annotated[Path, typer.Option(help="Folder of the secret, the click queue and SQLite.")] = Path(
        "build/serve"
    ),
    database: Annotated[
        str, typer.Option(help="postgresql://... in production. Default: SQLite.", envvar="LLM_AUCTION_DATABASE")
    ] = "",
    log: Annotated[
        str,
        typer.Option(
            help="The event log: a folder, or `kafka` (see LLM_AUCTION_KAFKA_SERVERS). Default: in --state-dir.",
            envvar="LLM_AUCTION_LOG",
        ),
    ] = "",
    ledger: Annotated[
        bool | None,
        typer.Option("--ledger/--no-ledger", help="Charge clicks beside this router. Default: yes; with Kafka no."),
    ] = None,
    lake: Annotated[
        str,
        typer.Option(
            help="Where `worker lake` writes, for erasure by /v1/erasures: a folder or s3://bucket/prefix.",
            envvar="LLM_AUCTION_LAKE",
        ),
    ] = "",
    retention_days: Annotated[float, typer.Option(help="Days that the log keeps its records.")] = 30.0,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Let callers without an API key chat and read auctions.")
    ] = False,
    public_url: Annotated[str, typer.Option(help="Base URL of click links, when behind a proxy.")] = "",
    trusted_proxies: Annotated[
        str,
        typer.Option(
            help="CIDR blocks of load balancers, separated by commas, that name the reader's address.",
            envvar="LLM_AUCTION_TRUSTED_PROXIES",
        ),
    ] = "",
    forwarded_header: Annotated[
        ForwardedHeader,
        typer.Option(help="The header that they write.", envvar="LLM_AUCTION_FORWARDED_HEADER"),
    ] = "x-forwarded-for",
    metrics: Annotated[
        str, typer.Option(help="host:port for /metrics. Default: on --port.", envvar="LLM_AUCTION_METRICS")
    ] = "",
    triton: Annotated[
        str, typer.Option(help="host:port of a Triton's gRPC, instead of a policy in this process.")
    ] = "",
    digest: Annotated[str, typer.Option(help="With --triton: the weights' sha256, as `triton build` prints it.")] = "",
    upstream: Annotated[
        str, typer.Option(help="Base URL of an OpenAI-compatible server, instead of a policy in this process.")
    ] = "",
    upstream_tags: Annotated[
        bool, typer.Option(help="With --upstream: it decodes by structural tags (vLLM, SGLang): no invented ads.")
    ] = False,
    upstream_opener: Annotated[
        str, typer.Option(help="With --upstream: the character that opens its model's markers, see its policy.json.")
    ] = "",
    routes: Annotated[
        Path | None,
        typer.Option(
            help="Route file: versions and their shares of the traffic, read again when it changes; instead of --model."
        ),
    ] = None,
    meaning: Annotated[
        bool, typer.Option("--encoder/--no-encoder", help="Retrieve ads by embeddings in addition to words.")
    ] = True,
    candidates: Annotated[
        int | None, typer.Option(help="Ads in one prompt. Default: 20, and 4 with the model assistant.", min=1)
    ] = None,
    max_ads: Annotated[int, typer.Option(help="Maximum number of sponsored links in an answer.", min=1)] = 3,
    in_flight: Annotated[
        int, typer.Option(help="Maximum number of answers under way; beyond it requests get 503.", min=1)
    ] = 256,
    drain: Annotated[
        float, typer.Option(help="Seconds that answers under way may take after SIGTERM.", min=0.1)
    ] = 30.0,
    currency: Annotated[str, typer.Option(help="Currency of requests without one.")] = "USD",
    highest_bid: Annotated[
        list[str] | None,
        typer.Option(
            help="Highest bid in a currency, shown to the policy as 100 points, such as USD=2.50. Repeatable.",
            envvar="LLM_AUCTION_HIGHEST_BID",
        ),
    ] = None,
    block_advertisers: Annotated[
        BlockRule,
        typer.Option(help="Which advertisers a campaign may keep out of its answers: rivals in its category, or none."),
    ] = "same-category",
    stop_ads_after: Annotated[
        float, typer.Option(help="Seconds without the ledger after which answers have no ads; 0: never.", min=0)
    ] = 900.0,
    relevance_floor: Annotated[
        float, typer.Option(help="Least cosine of an ad to the conversation; 0 admits every ad.", min=0, max=0.99)
    ] = 0.2,
    allow_topic: Annotated[
        list[str] | None, typer.Option(help="A sensitive topic that may have ads, such as politics. Repeatable.")
    ] = None,
    address_per_minute: Annotated[
        int, typer.Option(help="Requests of one address without a key; 0: no limit.", min=0)
    ] = 1_200,
    key_per_minute: Annotated[int, typer.Option(help="Requests of one key; 0: no limit.", min=0)] = 6_000,
    key_per_day: Annotated[int, typer.Option(help="Requests of one key in a day; 0: no limit.", min=0)] = 0,
    workers: Annotated[
        int, typer.Option(help="Router processes on --port, with a policy on another server.", min=1)
    ] = 1,
    connections: Annotated[int, typer.Option(help="Maximum number of open connections.", min=1)] = 2_000,
    head_timeout: Annotated[
        float, typer.Option(help="Seconds within which the head of a request must arrive.", min=0.1)
    ] = 10.0,
    body_timeout: Annotated[
        float, typer.Option(help="Seconds within which the body of a request must arrive.", min=0.1)
    ] = 30.0,
    share_records: Annotated[
        float | None,
        typer.Option(help="Seconds for which all routers find a record. Default: an hour if there may be more.", min=0),
    ] = None,
    stale_keys: Annotated[
        float, typer.Option(help="Seconds for which known keys are accepted without the database.", min=0)
    ] = 600.0,
    repeat_fade: Annotated[
        float, typer.Option(help="Factor on the bid of an ad that was shown without a click; 1: off.", min=0, max=1)
    ] = 0.7,
    max_characters: Annotated[
        int, typer.Option(help="Maximum length of a conversation, its system prompt included.", min=1)
    ] = 32_000,
    seed: Annotated[int, typer.Option(help="Seed of the built-in ads' bids.")] = 0,
) -> None:
    """Answer chat completions with labelled sponsored links; a chat page is at the same address.

    Raises:
        ConfigError: if options contradict each other or the port is in use.
        Exit: with the status of the workers, if there are any.
    """
    from serving.bid_scale import BidScale, parse_amounts
    from serving.campaigns.catalogue import read_catalogue
    from serving.policies.route_file import read_routes
    from serving.settings import ServeSettings, other_secrets, signing_secret
    from streaming.addresses import KAFKA

    if triton and not digest:
        raise ConfigError("--digest", digest, "give the weights' sha256, as `llm-auction triton build` prints it")
    if sum(map(bool, (triton, upstream, routes))) > 1:
        raise ConfigError("--triton, --upstream, --routes", "more than one", "give at most one of them")
    if workers > 1:
        check_workers(workers, metrics, bool(triton or upstream or routes))
    if lake and find_spec("deltalake") is None:
        raise ConfigError("--lake", lake, "erasing needs the lake's library: pip install 'llm-auction[stream]'")
    charges = log != KAFKA if ledger is None else ledger
    settings = ServeSettings(
        state_dir=state_dir,
        database=database,
        anonymous_chat=anonymous,
        public_url=public_url,
        metrics_address=metrics,
        trusted_proxies=tuple(filter(None, map(str.strip, trusted_proxies.split(",")))),
        forwarded_header=forwarded_header,
        log=log,
        ledger="process" if charges else "elsewhere",
        lake=lake,
        retention_days=retention_days,
        candidates=candidates or default_candidates(model, local=not (triton or upstream or routes)),
        max_ads=max_ads,
        in_flight=in_flight,
        drain_s=drain,
        currency=currency,
        allowed_topics=tuple(allow_topic or ()),
        relevance_floor=relevance_floor,
        stop_ads_after_s=stop_ads_after,
        block_advertisers=block_advertisers,
        bid_scale=BidScale(parse_amounts(highest_bid or [], "--highest-bid")),
        address_per_minute=address_per_minute,
        key_per_minute=key_per_minute,
        key_per_day=key_per_day,
        connections=connections,
        head_s=head_timeout,
        body_s=body_timeout,
        stale_keys_s=stale_keys,
        shared_records_s=share_records if share_records is not None else default_sharing(workers, database),
        repeat_fade=repeat_fade,
        max_characters=max_characters,
    )
    secrets = (signing_secret(state_dir), *other_secrets(state_dir))
    ads = read_catalogue(catalogue or builtin_catalogue(state_dir, seed)) if catalogue or demo else None
    if ads is not None:
        settings = replace(settings, currency=ads.currency)
    if routes is not None:
        folders = [version.name for version in read_routes(routes).versions if not version.server]
        if workers > 1 and folders:
            raise ConfigError(f"--routes {routes}", folders, f"{IN_PROCESS}: serve these versions on a Triton")
    place = WorkerPlace.of()
    if workers > 1 and place is None:
        from cli.exits import stop_event

        prepare(settings, secrets, ads)
        typer.echo(f"{workers} workers at http://{host}:{port}, metrics at {metrics}; Ctrl+C stops.", err=True)
        raise typer.Exit(supervise(workers, sys.argv[1:], host, port, settings, stop_event()))
    if place is not None:
        settings, ads = place.settings(settings), None
    listener = listen(host, port) if place is None else share(host, port)
    make: Callable[[], AsyncPolicyBackend]
    if routes is not None:
        make = routed(routes, settings)
    elif upstream:
        make = openai_compatible(upstream, model, in_flight, tags=upstream_tags, opener=upstream_opener or None)
    elif triton:
        make = lambda: remote(triton, model, digest)  # noqa: E731
    else:
        typer.echo(f"Loading {model} ...", err=True)
        local = in_process(model, settings)
        make = lambda: local  # noqa: E731
    shown = "localhost" if host in ("127.0.0.1", "0.0.0.0", "::") else host
    address = f"http://{shown}:{listener.getsockname()[1]}"
    run_router(make, Path(model).name, secrets, settings, listener, address, ads, meaning)


def run_router(
    make: Callable[[], AsyncPolicyBackend],
    name: str,
    secrets: Sequence[bytes],
    settings: ServeSettings,
    listener: socket.socket,
    address: str,
    ads: Catalogue | None,
    meaning: bool = True,
) -> None:
    """Run a router until SIGTERM or Ctrl+C and then until the answers under way are written.

    The first of the `secrets` signs, all verify.
    """
    from serving.accounts.keys import ensure_administrator
    from serving.campaigns.catalogue import import_catalogue
    from serving.http.server import server_of
    from serving.router import Router

    async def main() -> None:
        from datetime import UTC, datetime

        router = Router(make(), name, secrets[0], settings, encoder() if meaning else None, secrets[1:])
        now = datetime.now(UTC)
        if ads is not None:
            import_catalogue(ads, router.campaigns, now, settings.bid_scale)
        key_file = ensure_administrator(router.accounts, settings.state_dir, now)
        known = f"; administrator's key in {key_file}" if key_file else ""
        typer.echo(f"{name} ({router.backend.digest[:12]}): chat at {address}{known}", err=True)
        if key_file:
            command = f"llm-auction sign-in --url {address} --state-dir {settings.state_dir}"
            typer.echo(f"`{command}` prints an address that opens the console signed in.", err=True)
        typer.echo(f"OpenAI-compatible at {address}/v1, reports at /v1/reports; Ctrl+C stops.", err=True)
        await server_of(router).serve(sockets=[listener])

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(main())
    except KeyboardInterrupt:  # uvicorn shuts down gracefully and then raises the signal again
        return


def encoder() -> Encoder | None:
    """Return the frozen text encoder; None if it is not installed, so that ads are retrieved by words alone."""
    try:
        from inference.encoder import shared_encoder
    except ModuleNotFoundError:
        return None
    return shared_encoder()


def default_candidates(model: str, *, local: bool) -> int:
    """Return how many ads a prompt holds without `--candidates`; `local`: no other server writes answers."""
    return FEW_CANDIDATES if local and model == ASSISTANT else CANDIDATES


def default_sharing(workers: int, database: str) -> float:
    """Return for how many seconds records are shared without `--share-records`: if there may be another router."""
    return 3_600.0 if workers > 1 or database.startswith("postgres") else 0.0


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory; None, which means asyncio's, if uvloop is not installed."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def builtin_catalogue(state_dir: Path, seed: int) -> Path:
    """Write the built-in world's ads to a file in `state_dir`, each with a random bid of 1 to 100 points."""
    from mechanism.prompt import MICROS_PER_POINT
    from serving.campaigns.catalogue import DEMO_PATH, CatalogueRow, write_catalogue
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

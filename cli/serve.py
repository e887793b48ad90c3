"""`llm-auction serve`: puts a policy, a catalogue and a state directory together and answers on a port.

Without a catalogue file the built-in world's ads are written out with bids drawn by seed: the router itself knows no
simulated world.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Annotated

import typer

from mechanism.errors import ConfigError


def serve(
    model: Annotated[str, typer.Option(help="Base model, registered version or folder.")] = "tiny",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8080,
    catalogue: Annotated[Path | None, typer.Option(help="Ads as JSON Lines; the built-in world's if left out.")] = None,
    state_dir: Annotated[Path, typer.Option(help="Folder of the ledger and the signing secret.")] = Path("build/serve"),
    public_url: Annotated[str, typer.Option(help="What click links begin with, behind a proxy.")] = "",
    candidates: Annotated[int, typer.Option(help="Ads in one prompt.", min=1)] = 20,
    max_ads: Annotated[int, typer.Option(help="Most sponsored links in one answer.", min=1)] = 3,
    seed: Annotated[int, typer.Option(help="Draws the bids of the built-in ads.")] = 0,
) -> None:
    """Answer chat completions with labelled sponsored links; chat page at the same address."""
    from serving.catalogue import read_catalogue
    from serving.settings import ServeSettings, signing_secret

    settings = ServeSettings(state_dir=state_dir, public_url=public_url, candidates=candidates, max_ads=max_ads)
    secret = signing_secret(state_dir)
    ads = read_catalogue(catalogue or builtin_catalogue(state_dir, seed))
    listener = listen(host, port)

    typer.echo(f"Loading {model} ...", err=True)
    import uvicorn

    from inference.encoder import shared_encoder
    from serving.app import create_app
    from serving.policy import InProcessPolicy

    backend = InProcessPolicy.load(model)
    name = Path(model).name
    app = create_app(ads, backend, shared_encoder(), secret, name, settings)
    shown = "localhost" if host in ("127.0.0.1", "0.0.0.0", "::") else host
    typer.echo(f"{name} ({backend.digest[:12]}) with {len(ads)} ads: chat at http://{shown}:{port}", err=True)
    typer.echo(f"OpenAI-compatible at http://{shown}:{port}/v1, charges at /v1/ledger; Ctrl+C stops.", err=True)
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=10)
    uvicorn.Server(config).run(sockets=[listener])


def builtin_catalogue(state_dir: Path, seed: int) -> Path:
    """Writes the built-in world's ads to `state_dir`, each with a bid of 1 to 100 points drawn by `seed`."""
    from mechanism.prompt import MICROS_PER_POINT
    from serving.catalogue import DEMO_PATH, CatalogueRow, write_catalogue
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

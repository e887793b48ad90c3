"""Options that several commands share, so that each has one name, one environment variable and one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mechanism.errors import InputError

DEFAULT_REGISTRY = "build/runs"
DEFAULT_ROUTES = Path("build/serve/routes.json")

LogAddress = Annotated[
    str,
    typer.Option(
        "--log", envvar="LLM_AUCTION_LOG", help="The event log: a folder, or `kafka` (see LLM_AUCTION_KAFKA_SERVERS)."
    ),
]
Partitions = Annotated[
    int, typer.Option(min=1, help="Number of partitions of each topic; topics that have fewer get more.")
]
MemberOfWorkers = Annotated[
    str,
    typer.Option(
        "--member",
        envvar="LLM_AUCTION_MEMBER",
        help="I/N: this is worker I, from 0, of N that share the partitions (those whose number leaves I by N).",
    ),
]
LakeUrl = Annotated[
    str,
    typer.Option("--lake", envvar="LLM_AUCTION_LAKE", help="The lake's tables: a folder or s3://bucket/prefix."),
]
Window = Annotated[float, typer.Option(help="Seconds after an answer within which its clicks count.")]
RegistryUrl = Annotated[
    str,
    typer.Option(
        "--registry", envvar="LLM_AUCTION_REGISTRY", help="The model registry: a folder or URL that holds `models/`."
    ),
]
RoutesFile = Annotated[Path, typer.Option("--routes", envvar="LLM_AUCTION_ROUTES", help="The routers' route file.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Override a setting: key.path=value.")]
OutcomeFile = Annotated[
    str, typer.Option("--outcome", help="Write the result as JSON to this file; in a pod /dev/termination-log.")
]


def check_log(address: str, *, must_exist: bool) -> None:
    """Refuse an address that cannot be an event log, such as a file or a router's state directory.

    Raises:
        InputError: if the address cannot be an event log, or if `must_exist` and there is none.
    """
    from streaming.addresses import KAFKA

    remedy = f"name the folder of the routers' log (`log` in their --state-dir), or {KAFKA}"
    if address == KAFKA:
        return
    folder = Path(address)
    if address.lower() == KAFKA:
        raise InputError("--log", address, f"write it {KAFKA}, or ./{address} for a folder of that name")
    if folder.exists() and not folder.is_dir():
        raise InputError("--log", address, f"that is a file: {remedy}")
    if must_exist and not folder.is_dir():
        raise InputError("--log", address, f"no event log is there: {remedy}")
    if (folder / "log" / "log.db").is_file() and not (folder / "log.db").is_file():
        raise InputError("--log", address, f"that is a router's state directory: give {folder / 'log'}")

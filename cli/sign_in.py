"""`llm-auction sign-in`: print an address that opens the console signed in as an administrator, once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mechanism.errors import ConfigError


def sign_in(
    state_dir: Annotated[Path, typer.Option(help="The router's state directory.")] = Path("build/serve"),
    url: Annotated[str, typer.Option(help="The router's address.")] = "http://localhost:8080",
) -> None:
    """Print an address that opens the console signed in, once, within 24 hours; earlier ones are no longer valid.

    Raises:
        ConfigError: if no router has run in the state directory.
    """
    from datetime import UTC, datetime

    from serving.accounts.sign_in import sign_in_address

    if not state_dir.is_dir():
        raise ConfigError("--state-dir", str(state_dir), "name the state directory of a router that has run")
    typer.echo(sign_in_address(url.rstrip("/"), state_dir, datetime.now(UTC)))

"""`llm-auction rotate-secret`: replace the secret that links and keys are signed under; former ones still verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def rotate_secret(
    state_dir: Annotated[Path, typer.Option(help="The routers' state directory.")] = Path("build/serve"),
    forget: Annotated[
        bool, typer.Option("--forget", help="Replace nothing, and drop the former secrets: what they signed ends.")
    ] = False,
) -> None:
    """Replace the secret in a state directory; the router follows at its next start.

    Run it again with --forget once links of the former secret have expired and every API key has been used.
    """
    from serving.settings import rotate_secret as rotate

    former = rotate(state_dir, forget)
    if forget:
        typer.echo("the former secrets are dropped; restart the routers")
    else:
        typer.echo(f"a new secret signs, {former} former still verify; restart the routers")

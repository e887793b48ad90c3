"""`llm-auction models`: what is in the model registry, where each model came from, and whether its files are intact.

The registry itself is `trainers.registry`; this is its report in the terminal, or as JSON for programs.
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from trainers.registry import DEFAULT_URL, LATEST, ModelEntry, Registry

app = typer.Typer(add_completion=False, no_args_is_help=True, help="List, show and verify registered models.")

RegistryUrl = Annotated[
    str, typer.Option("--registry", help="Folder or URL that holds `models/`.", envvar="LLM_AUCTION_REGISTRY")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_models(registry: RegistryUrl = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the registered models, oldest first."""
    entries = Registry(registry).list()
    if as_json:
        typer.echo(json.dumps([entry.model_dump(mode="json") for entry in entries], ensure_ascii=False, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("version", "created", "base", "parent", "run", "epoch", "metrics")
    for entry in entries:
        table.add_row(*map(str, cells(entry)))
    Console().print(table)
    typer.echo(f"{len(entries)} models in {registry}")


@app.command()
def show(
    version: Annotated[str, typer.Argument(help="A version, or latest.")] = LATEST,
    registry: RegistryUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show one model's entry: lineage, digests, metrics, gates."""
    entry = Registry(registry).get(version)
    if as_json:
        typer.echo(json.dumps(entry.model_dump(mode="json"), ensure_ascii=False, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("field", "value", show_header=False)
    for field, value in entry.model_dump(mode="json").items():
        rows = value.items() if isinstance(value, dict) else [("", value)]
        for name, inner in rows:
            table.add_row(f"{field}.{name}" if name else field, shown(inner))
    Console().print(table)


@app.command()
def verify(
    versions: Annotated[list[str] | None, typer.Argument(help="Versions, or latest; all if none is given.")] = None,
    registry: RegistryUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Compare every file of the models with its recorded digest; exit status 1 if any is damaged or missing."""
    models = Registry(registry)
    problems = {
        version: list(models.verify(version)) for version in versions or [entry.version for entry in models.list()]
    }
    if as_json:
        typer.echo(json.dumps(problems, ensure_ascii=False, indent=2))
    else:
        for version, found in problems.items():
            typer.echo(f"{version}: {'; '.join(found) or 'intact'}")
    if any(problems.values()):
        raise typer.Exit(1)


def cells(entry: ModelEntry) -> tuple[str, ...]:
    """An entry as a row of the table; of its metrics the single figures."""
    single = {name: value for name, value in entry.metrics.items() if not isinstance(value, dict)}
    figures = ", ".join(f"{name} {shown(value)}" for name, value in single.items())
    return (
        entry.version,
        f"{entry.created:%Y-%m-%d %H:%M}Z",
        entry.base,
        shown(entry.parent),
        shown(entry.run),
        shown(entry.epoch),
        figures,
    )


def shown(value: object) -> str:
    """A value as people read it: figures to four places, nothing for None, JSON for what is nested."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

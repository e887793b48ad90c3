"""`llm-auction models`: list, show, verify and register the models of `trainers.artifacts.registry`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cli.options import DEFAULT_REGISTRY, RegistryUrl
from trainers.artifacts.registry import LATEST, ModelEntry, Registry

app = typer.Typer(add_completion=False, no_args_is_help=True, help="List, show, verify and register models.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_models(registry: RegistryUrl = DEFAULT_REGISTRY, as_json: AsJson = False) -> None:
    """List the registered models, oldest first."""
    entries = Registry(registry).list()
    if as_json:
        typer.echo(json.dumps([entry.model_dump(mode="json") for entry in entries], ensure_ascii=False, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("version", "created", "base", "parent", "run", "epoch", "metrics")
    for entry in entries:
        table.add_row(*map(str, table_row(entry)))
    Console().print(table)
    typer.echo(f"{len(entries)} models in {registry}")


@app.command()
def register(
    model: Annotated[str, typer.Argument(help="A model's name, such as tiny, or a folder in Hugging Face layout.")],
    registry: RegistryUrl = DEFAULT_REGISTRY,
    version: Annotated[str | None, typer.Option(help="Its version. Default: the next of v0001, v0002, ...")] = None,
    notes: Annotated[str, typer.Option(help="A remark, kept in the entry.")] = "",
) -> None:
    """Register a model that was not trained by a run here, such as the first one to serve."""
    folder = model
    if not Path(model).is_dir():
        from inference.models import resolve  # imports torch, which the other commands do not need

        folder = resolve(model)
    entry = Registry(registry).register(folder, base=model, version=version, notes=notes)
    typer.echo(f"{entry.version} (weights sha256 {entry.digest}) in {registry}")


@app.command()
def show(
    version: Annotated[str, typer.Argument(help="A version, or latest.")] = LATEST,
    registry: RegistryUrl = DEFAULT_REGISTRY,
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
            table.add_row(f"{field}.{name}" if name else field, format_value(inner))
    Console().print(table)


@app.command()
def verify(
    versions: Annotated[list[str] | None, typer.Argument(help="Versions, or latest; all if none is given.")] = None,
    registry: RegistryUrl = DEFAULT_REGISTRY,
    as_json: AsJson = False,
) -> None:
    """Compare every file of the models with its recorded digest.

    Raises:
        typer.Exit: with status 1 if a file is damaged or missing.
    """
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


def table_row(entry: ModelEntry) -> tuple[str, ...]:
    """Return an entry as a row of the table, with those of its metrics that are single figures."""
    single = {name: value for name, value in entry.metrics.items() if not isinstance(value, dict)}
    figures = ", ".join(f"{name} {format_value(value)}" for name, value in single.items())
    return (
        entry.version,
        f"{entry.created:%Y-%m-%d %H:%M}Z",
        entry.base,
        format_value(entry.parent),
        format_value(entry.run),
        format_value(entry.epoch),
        figures,
    )


def format_value(value: object) -> str:
    """Format a value: four significant digits, an empty text for None, JSON for nested values."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

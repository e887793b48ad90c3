"""`llm-auction models`: what is in the model registry, where each model came from, and whether its files are intact.

The registry itself is `trainers.artifacts.registry`; this is its report in the terminal, or as JSON for programs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mechanism.errors import InputError
from trainers.artifacts.registry import DEFAULT_URL, LATEST, ModelEntry, Registry

app = typer.Typer(add_completion=False, no_args_is_help=True, help="List, show, verify and register models.")

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
def register(
    model: Annotated[str, typer.Argument(help="A model's name, such as tiny, or a folder in Hugging Face layout.")],
    registry: RegistryUrl = DEFAULT_URL,
    version: Annotated[
        str | None, typer.Option(help="Its name there; the next of v0001, v0002, ... if left out.")
    ] = None,
    notes: Annotated[str, typer.Option(help="What else is to be known of it.")] = "",
) -> None:
    """Register a model that no run here has trained: what serves first, so that it can be retrained from its log."""
    folder = model
    if not Path(model).is_dir():
        from inference.models import resolve  # torch, which the other commands do without

        folder, gguf = resolve(model)
        if gguf:
            remedy = "a registry holds folders in Hugging Face layout: train from it, or save it as one"
            raise InputError("MODEL", model, remedy)
    entry = Registry(registry).register(folder, base=model, version=version, notes=notes)
    typer.echo(f"{entry.version} (weights sha256 {entry.digest}) in {registry}")


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

"""`llm-auction lake`: upkeep of the lake's tables, and taking over the shards of earlier releases."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.options import LakeUrl

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Maintain the lake's tables.")


@app.command()
def maintain(
    lake: LakeUrl,
    days: Annotated[int, typer.Option(help="Days after which rows are deleted.")] = 400,
    reader_days: Annotated[int, typer.Option(help="Days after which the reader's part is removed.")] = 90,
) -> None:
    """Merge small files, apply retention and erasures, and remove files that no version in use needs."""
    from streaming.lake.maintenance import Maintenance
    from streaming.lake.maintenance import maintain as maintain_tables
    from streaming.lake.store import Lake

    done = maintain_tables(Lake(lake), Maintenance(days=days, reader_days=reader_days))
    for name, count in done.to_dict().items():
        typer.echo(f"{name.replace('_', ' ')}: {count}")


@app.command("import")
def import_(
    lake: LakeUrl,
    shards: Annotated[str, typer.Option(help="Folder or URL that `worker feedback` of an earlier release wrote.")],
) -> None:
    """Take over the shards of an earlier release; a second call changes nothing."""
    from streaming.lake.import_shards import import_shards
    from streaming.lake.store import Lake

    written = import_shards(shards, Lake(lake), lambda line: typer.echo(line, err=True))
    typer.echo(f"answers written: {written}")


@app.command()
def audit(lake: LakeUrl) -> None:
    """Print who erased how many answers, and when."""
    from streaming.lake.erasures import read_audit
    from streaming.lake.store import Lake

    for line in read_audit(Lake(lake)):
        typer.echo(f"{line['at'].isoformat(timespec='seconds')}  {line['by']:8}  {line['answers']:8}  {line['who']}")

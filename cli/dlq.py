"""`llm-auction dlq`: what no worker could take, where it stood and why; and the way back to its topic."""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated

import typer

from cli.worker import LogAddress, check_log
from mechanism.errors import InputError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="List dead letters, and bring them back.")


@app.command("list")
def list_letters(
    log: LogAddress,
    topic: Annotated[str, typer.Option(help="Of this topic only.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List the letters that wait, without what is in them."""
    import msgspec

    from streaming.addresses import open_log
    from streaming.topics import EVENT_TOPICS
    from streaming.workers.letters import letters

    check_log(log, there=True)
    opened, found = open_log(log), Counter[str]()
    for name in [known(topic, "--topic")] if topic else EVENT_TOPICS:
        for letter, told in letters(opened, name):
            found[name] += 1
            if as_json:
                typer.echo(json.dumps({"letter": letter.offset, **msgspec.to_builtins(told)}, ensure_ascii=False))
            else:
                typer.echo(f"{told.topic} {told.partition}:{told.offset} {told.timestamp.isoformat()} {told.error}")
    if not as_json:
        typer.echo(", ".join(f"{count} of {name}" for name, count in found.items()) or "no dead letters")


@app.command()
def replay(
    topic: Annotated[str, typer.Argument(help="The topic that they were taken from.")],
    log: LogAddress,
    most: Annotated[int | None, typer.Option(min=1, help="At most so many, the oldest first.")] = None,
) -> None:
    """Put letters back to their topic. What still is no event is kept; what its worker refuses again comes back."""
    from streaming.addresses import open_log
    from streaming.workers.letters import replay as put_back

    check_log(log, there=True)
    done = put_back(open_log(log), known(topic, "TOPIC"), most)
    typer.echo(f"{done.sent} put back to {topic}, {done.kept} kept")


def known(topic: str, place: str) -> str:
    """A topic of events. Raises InputError for another name."""
    from streaming.topics import EVENT_TOPICS

    if topic not in EVENT_TOPICS:
        raise InputError(place, topic, f"topics are {', '.join(EVENT_TOPICS)}")
    return topic

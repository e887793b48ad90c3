"""`llm-auction dlq`: list the records that no worker could process, with their origin and error, and replay them."""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated

import typer

from cli.options import LogAddress, check_log
from mechanism.errors import InputError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="List dead letters and replay them.")


@app.command("list")
def list_letters(
    log: LogAddress,
    topic: Annotated[str, typer.Option(help="Only letters of this topic.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """List the dead letters, without their contents."""
    import msgspec

    from streaming.addresses import open_log
    from streaming.topics import EVENT_TOPICS
    from streaming.workers.letters import letters

    check_log(log, must_exist=True)
    opened, found = open_log(log), Counter[str]()
    for name in [known_topic(topic, "--topic")] if topic else EVENT_TOPICS:
        for letter, origin in letters(opened, name):
            found[name] += 1
            if as_json:
                typer.echo(json.dumps({"letter": letter.offset, **msgspec.to_builtins(origin)}, ensure_ascii=False))
            else:
                typer.echo(
                    f"{origin.topic} {origin.partition}:{origin.offset} {origin.timestamp.isoformat()} {origin.error}"
                )
    if not as_json:
        typer.echo(", ".join(f"{count} of {name}" for name, count in found.items()) or "no dead letters")


@app.command()
def replay(
    topic: Annotated[str, typer.Argument(help="The topic that the letters come from.")],
    log: LogAddress,
    most: Annotated[int | None, typer.Option(min=1, help="Replay at most this many, oldest first.")] = None,
) -> None:
    """Append dead letters to their topic again.

    Letters that still cannot be decoded are kept; those that a worker refuses again become dead letters again.
    """
    from streaming.addresses import open_log
    from streaming.workers import letters

    check_log(log, must_exist=True)
    done = letters.replay(open_log(log), known_topic(topic, "TOPIC"), most)
    typer.echo(f"{done.sent} replayed to {topic}, {done.kept} kept")


def known_topic(topic: str, place: str) -> str:
    """Return the topic.

    Raises:
        InputError: if it is not a topic of events.
    """
    from streaming.topics import EVENT_TOPICS

    if topic not in EVENT_TOPICS:
        raise InputError(place, topic, f"topics are {', '.join(EVENT_TOPICS)}")
    return topic

"""`llm-auction dlq`: list, show, replay and discard the records that no worker could process."""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated

import typer

from cli.options import LogAddress, check_log
from mechanism.errors import InputError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="List, show, replay and discard dead letters.")


Topic = Annotated[str, typer.Argument(help="The topic that the letters come from.")]


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
                place = f"{origin.topic} {origin.partition}:{origin.offset}"
                typer.echo(f"{letter.offset} from {place} {origin.timestamp.isoformat()} {origin.error}")
    if not as_json:
        typer.echo(", ".join(f"{count} of {name}" for name, count in found.items()) or "no dead letters")


@app.command()
def show(
    topic: Topic, letter: Annotated[int, typer.Argument(help="The letter's number, from `list`.")], log: LogAddress
) -> None:
    """Show a dead letter with its origin and its fields, without personal data and without fields that are unknown."""
    import msgspec

    from streaming.addresses import open_log
    from streaming.dead_letters import redacted
    from streaming.workers.letters import find

    check_log(log, must_exist=True)
    record, origin = find(open_log(log), known_topic(topic, "TOPIC"), letter)
    shown = {"letter": letter, **msgspec.to_builtins(origin), "event": redacted(record, origin.topic)}
    typer.echo(json.dumps(shown, ensure_ascii=False, indent=2))


@app.command()
def replay(
    topic: Topic,
    log: LogAddress,
    letters: Annotated[list[int] | None, typer.Argument(help="Numbers from `list`; none: all letters.")] = None,
    most: Annotated[int | None, typer.Option(min=1, help="Replay at most this many, oldest first.")] = None,
) -> None:
    """Append dead letters to their topic again.

    Letters that still cannot be decoded are kept; those that a worker refuses again become dead letters again.
    """
    from streaming.addresses import open_log
    from streaming.workers.letters import replay as replay_letters

    check_log(log, must_exist=True)
    done = replay_letters(open_log(log), known_topic(topic, "TOPIC"), letters or (), most)
    typer.echo(f"{done.sent} replayed to {topic}, {done.kept} kept")


@app.command()
def discard(
    topic: Topic,
    letters: Annotated[list[int], typer.Argument(help="Numbers from `list`.")],
    log: LogAddress,
) -> None:
    """Drop dead letters for good; their records leave the log when the topic's retention has passed."""
    from streaming.addresses import open_log
    from streaming.workers.letters import discard as discard_letters

    check_log(log, must_exist=True)
    typer.echo(f"{discard_letters(open_log(log), known_topic(topic, 'TOPIC'), letters)} discarded")


def known_topic(topic: str, place: str) -> str:
    """Return the topic.

    Raises:
        InputError: if it is not a topic of events.
    """
    from streaming.topics import EVENT_TOPICS

    if topic not in EVENT_TOPICS:
        raise InputError(place, topic, f"topics are {', '.join(EVENT_TOPICS)}")
    return topic

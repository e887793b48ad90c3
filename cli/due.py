"""`llm-auction due`: looks at the log's shards and says whether a retraining is due, as JSON.

For the operator's RetrainPolicy, which asks it in a Job of its own. `llm-auction retrain` looks and trains.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer


def due(
    shards: Annotated[str, typer.Option(envvar="LLM_AUCTION_SHARDS", help="The log's shards: a folder or URL.")],
    serving: Annotated[str, typer.Option(help="The version that serves and wrote the log.")],
    registry: Annotated[str, typer.Option(envvar="LLM_AUCTION_REGISTRY", help="Holds `models/`.")] = "build/runs",
    triggers: Annotated[str, typer.Option(help="Triggers as JSON; what is left out has its default.")] = "{}",
    since: Annotated[str, typer.Option(help="When the last retraining began, ISO 8601; empty: there was none.")] = "",
    outcome: Annotated[str, typer.Option(help="File for the JSON; /dev/termination-log in a pod. Empty: print.")] = "",
) -> None:
    """Say whether a retraining is due, and what it waits for."""
    from pydantic import ValidationError

    from mechanism.errors import ConfigError
    from streaming.shards import ShardReader
    from trainers.artifacts.registry import Registry
    from trainers.config import RetrainConfig, TriggerConfig
    from trainers.retraining import due
    from trainers.retraining.observation import observe_since

    try:
        config = RetrainConfig(triggers=TriggerConfig.model_validate_json(triggers))
        last = datetime.fromisoformat(since) if since else None
    except ValidationError as error:
        raise ConfigError("--triggers", triggers, str(error)) from error
    except ValueError as error:
        raise ConfigError("--since", since, "give a moment such as 2026-11-25T12:00:00+00:00") from error
    if last is not None and last.tzinfo is None:
        raise ConfigError("--since", since, "say in which time zone, such as +00:00")
    entry = Registry(registry).get(serving)
    observed = observe_since(ShardReader(shards), entry, last or entry.log_until, last or entry.log_until, config)
    told = due(observed, config.triggers, datetime.now(UTC))
    watermark = observed.watermark.isoformat() if observed.watermark else None
    text = json.dumps({"new": observed.new, "watermark": watermark, **told.to_dict()}, ensure_ascii=False)
    if outcome:
        Path(outcome).write_text(text, encoding="utf-8")
    else:
        typer.echo(text)

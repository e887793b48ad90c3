"""`llm-auction worker`: the processes that turn the event log into judgements, tables and spend.

Each runs until SIGTERM or Ctrl+C, then finishes its batch. Several workers of a kind share the partitions by their
`--member`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.exits import stop_event
from cli.options import LakeUrl, LogAddress, MemberOfWorkers, Partitions, check_log
from mechanism.errors import ConfigError, InputError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from judge.grades import Judge
    from streaming.log import EventLog
    from streaming.topics import Topic
    from streaming.workers.task import Task

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Run a worker on the event log.")

MetricsPort = Annotated[int, typer.Option(help="Serve Prometheus metrics on this port; 0: no metrics.")]
RetentionDays = Annotated[float, typer.Option(help="Days that created topics keep their records.")]
UntilIdle = Annotated[bool, typer.Option("--until-idle", help="Stop at the end of the log.")]


@app.command()
def judge(
    log: LogAddress,
    endpoint: Annotated[
        str, typer.Option(help="OpenAI-compatible address of a judge model; empty: judge by rules.")
    ] = "",
    model: Annotated[str, typer.Option(help="The endpoint's model.")] = "",
    key_env: Annotated[str, typer.Option(help="Environment variable with the endpoint's key; empty: no key.")] = "",
    sample: Annotated[float, typer.Option(help="Share of answers that the endpoint judges.")] = 1.0,
    daily_budget: Annotated[
        str, typer.Option(help="Most to spend at the endpoint in a day, as 12.50; empty: no limit.")
    ] = "",
    prices: Annotated[str, typer.Option(help="Its prices per million input and output tokens, as 0.15,0.60.")] = "0,0",
    cache: Annotated[str, typer.Option(help="Folder for accepted replies; empty: none.")] = "",
    until_idle: UntilIdle = False,
    member: MemberOfWorkers = "0/1",
    partitions: Partitions = 3,
    retention_days: RetentionDays = 30.0,
    metrics_port: MetricsPort = 0,
) -> None:
    """Grade every answer."""
    from streaming.workers.judge import JudgeTask

    def task(opened: EventLog, registry: CollectorRegistry) -> Task:
        grader = _judge(endpoint, model, key_env, sample, daily_budget, prices, cache, registry)
        return JudgeTask(opened, grader, registry=registry)

    run_worker(task, log, member, partitions, retention_days, metrics_port, until_idle=until_idle)


@app.command()
def lake(
    log: LogAddress,
    lake: LakeUrl,
    commit: Annotated[float, typer.Option(help="Seconds between two commits of a table.")] = 1.0,
    commit_rows: Annotated[int, typer.Option(help="Rows after which it commits earlier.")] = 5_000,
    maintain_every: Annotated[
        float, typer.Option(min=0, help="Seconds between two passes of `lake maintain`; 0: leave it to that command.")
    ] = 3_600.0,
    days: Annotated[int, typer.Option(help="Days after which rows are deleted.")] = 400,
    reader_days: Annotated[int, typer.Option(help="Days after which the reader's part is removed.")] = 90,
    until_idle: UntilIdle = False,
    member: MemberOfWorkers = "0/1",
    partitions: Partitions = 3,
    retention_days: RetentionDays = 30.0,
    metrics_port: MetricsPort = 0,
) -> None:
    """Write every event into the lake's tables, once. Member 0 also maintains them."""
    from contextlib import nullcontext

    from streaming.lake.maintenance import Maintenance
    from streaming.lake.store import Lake
    from streaming.log import Member
    from streaming.workers.lake import LakeSettings, LakeTask
    from streaming.workers.upkeep import Upkeep

    settings = LakeSettings(commit_s=commit, commit_rows=commit_rows)
    maintenance = Maintenance(days=days, reader_days=reader_days)
    maintains = maintain_every > 0 and Member.parse(member).index == 0
    with Upkeep(Lake(lake), maintenance, maintain_every) if maintains else nullcontext():
        run_worker(
            lambda events, registry: LakeTask(events, lake, settings, registry=registry),
            log,
            member,
            partitions,
            retention_days,
            metrics_port,
            until_idle=until_idle,
        )


@app.command()
def ledger(
    log: LogAddress,
    database: Annotated[
        str, typer.Option(envvar="LLM_AUCTION_DATABASE", help="The routers' database, as postgresql://...")
    ],
    gathered: Annotated[float, typer.Option(help="Seconds for which charges are collected in a transaction.")] = 0.2,
    until_idle: UntilIdle = False,
    member: MemberOfWorkers = "0/1",
    partitions: Partitions = 3,
    retention_days: RetentionDays = 30.0,
    metrics_port: MetricsPort = 0,
) -> None:
    """Charge clicks, impressions and participations, and count auctions: the only writer of spend.

    Raises:
        InputError: if `database` is an SQLite file that does not exist.
    """
    from serving.database.engine import Database
    from serving.database.migrations import migrate
    from serving.ledger.worker import LedgerSettings, LedgerTask

    settings = LedgerSettings(gathered_s=gathered)
    file = database.partition("sqlite:///")[2]
    if file and not Path(file).is_file():
        raise InputError("--database", database, "the file does not exist: give the routers' own database")
    migrate(database)
    opened = Database(database, pool_size=2)
    try:
        run_worker(
            lambda log, registry: LedgerTask(log, opened, settings, registry=registry),
            log,
            member,
            partitions,
            retention_days,
            metrics_port,
            until_idle=until_idle,
        )
    finally:
        opened.close()


def run_worker(
    task: Callable[[EventLog, CollectorRegistry], Task],
    address: str,
    member: str,
    partitions: int,
    retention_days: float,
    metrics_port: int,
    *,
    until_idle: bool = False,
) -> None:
    """Create the missing topics, then run a task's worker until SIGTERM, Ctrl+C or (`until_idle`) the log's end.

    `member` is its share of the partitions, as I/N (ConfigError if it is not).

    Raises:
        InputError: if `address` cannot be an event log, or `metrics_port` is in use.
    """
    from datetime import timedelta

    import structlog
    from prometheus_client import CollectorRegistry, start_http_server

    from streaming.addresses import open_log
    from streaming.log import Member
    from streaming.topics import all_topics
    from streaming.workers.loop import Worker
    from streaming.workers.metrics import WorkerMetrics

    stop = stop_event()
    registry = CollectorRegistry()
    check_log(address, must_exist=until_idle)
    owned = Member.parse(member)
    log, events = structlog.get_logger(__name__), open_log(address)
    if not create_topics(events, all_topics(partitions, timedelta(days=retention_days)), stop):
        return
    worker = Worker(task(events, registry), events, owned, metrics=WorkerMetrics(registry))
    if metrics_port:
        try:
            start_http_server(metrics_port, registry=registry)
        except OSError as error:
            raise InputError("--metrics-port", metrics_port, f"{error.strerror}: give a free port, or 0") from error
    log.info("worker.started", log=address, member=member)
    worker.run(stop, until_idle=until_idle)
    log.info("worker.ended", log=address)


def create_topics(log: EventLog, topics: Sequence[Topic], stop: threading.Event) -> bool:
    """Create the missing topics, waiting while the log is unavailable; return False if `stop` came first."""
    import structlog

    from streaming.log import LogUnavailable
    from streaming.workers.loop import PAUSES_S

    failures = 0
    while not stop.is_set():
        try:
            log.create(topics)
            return True
        except LogUnavailable as error:
            structlog.get_logger(__name__).warning("worker.log_unavailable", reason=str(error)[:200])
            stop.wait(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
            failures += 1
    return False


def _judge(
    endpoint: str,
    model: str,
    key_env: str,
    sample: float,
    daily_budget: str,
    prices: str,
    cache: str,
    registry: CollectorRegistry,
) -> Judge:
    if not endpoint:
        from judge.rules import RuleJudge

        return RuleJudge()
    from judge.client import EndpointSettings
    from judge.cost import Prices
    from judge.endpoint import EndpointJudge, EndpointJudgeSettings

    # few attempts and short waits: a batch holds up its partitions until the endpoint has answered
    connection = EndpointSettings(
        endpoint, model, key_env or None, attempts=2, timeout=20.0, longest_backoff=5.0, concurrency=8
    )
    read, _, written = prices.partition(",")
    budget = parse_money("--daily-budget", daily_budget) if daily_budget else None
    cost = Prices(parse_money("--prices", read), parse_money("--prices", written))
    return EndpointJudge(EndpointJudgeSettings(connection, sample, budget, cost, cache), registry=registry)


def parse_money(place: str, money: str) -> int:
    """Return an amount written as 12.50 in micros.

    Raises:
        ConfigError: if it is negative, not a number, or has more than six decimals.
    """
    from decimal import Decimal, InvalidOperation

    try:
        amount = Decimal(money) * 1_000_000
        if amount.is_finite() and amount >= 0 and amount == amount.to_integral_value():
            return int(amount)
    except InvalidOperation:
        pass
    raise ConfigError(place, money, "give an amount such as 12.50, with at most six decimals")

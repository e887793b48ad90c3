"""`llm-auction worker`: the processes that turn the event log into judgements, shards and spend.

Each runs until SIGTERM or Ctrl-C, then finishes its batch and leaves its group. Several of a kind share the partitions.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mechanism.errors import ConfigError, InputError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from judge.grades import Judge
    from streaming.log import EventLog
    from streaming.topics import Topic
    from streaming.workers.task import Task

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Run a worker on the event log.")

LogAddress = Annotated[
    str, typer.Option("--log", envvar="LLM_AUCTION_LOG", help="A folder, or `kafka` (see LLM_AUCTION_KAFKA_SERVERS).")
]
Shards = Annotated[str, typer.Option(envvar="LLM_AUCTION_SHARDS", help="Where the shards are: a folder or URL.")]
MetricsPort = Annotated[int, typer.Option(help="Serve Prometheus metrics on this port; 0: nowhere.")]
Partitions = Annotated[int, typer.Option(help="Partitions of topics that are not there yet.")]
RetentionDays = Annotated[float, typer.Option(help="How long new topics keep their records.")]
UntilIdle = Annotated[bool, typer.Option("--until-idle", help="Stop when the log was read to its end.")]


@app.command()
def judge(
    log: LogAddress,
    window: Annotated[float, typer.Option(help="Seconds after the answer within which a click counts.")] = 1_800.0,
    settle: Annotated[float, typer.Option(help="Seconds after the answer of the first judgement.")] = 1.0,
    lateness: Annotated[float, typer.Option(help="Seconds that clicks may arrive after the window.")] = 600.0,
    idle: Annotated[float, typer.Option(help="Seconds after which a quiet partition follows the clock.")] = 5.0,
    endpoint: Annotated[str, typer.Option(help="OpenAI-compatible address of a judge; empty: judge by rules.")] = "",
    model: Annotated[str, typer.Option(help="The endpoint's model.")] = "",
    key_env: Annotated[str, typer.Option(help="Variable with the endpoint's key; empty: no key.")] = "",
    sample: Annotated[float, typer.Option(help="Share of answers that the endpoint is asked about.")] = 1.0,
    daily_budget: Annotated[
        str, typer.Option(help="Most money a day for the endpoint, as 12.50; empty: no limit.")
    ] = "",
    prices: Annotated[str, typer.Option(help="Its prices per million tokens, read,written, as 0.15,0.60.")] = "0,0",
    cache: Annotated[str, typer.Option(help="Folder of accepted replies; empty: none.")] = "",
    partitions: Partitions = 3,
    retention_days: RetentionDays = 30.0,
    metrics_port: MetricsPort = 0,
) -> None:
    """Join interactions with their clicks and judge them."""
    from streaming.workers.join import Attribution
    from streaming.workers.judge import JudgeSettings, JudgeTask

    settings = JudgeSettings(Attribution(window, settle, lateness), idle)

    def task(opened: EventLog, registry: CollectorRegistry) -> Task:
        grader = _judge(endpoint, model, key_env, sample, daily_budget, prices, cache, registry)
        return JudgeTask(opened, grader, settings, registry=registry)

    work(task, log, partitions, retention_days, metrics_port)


@app.command()
def feedback(
    log: LogAddress,
    shards: Shards,
    flush: Annotated[float, typer.Option(help="Seconds after which rows are written.")] = 1.0,
    until_idle: UntilIdle = False,
    partitions: Partitions = 3,
    retention_days: RetentionDays = 30.0,
    metrics_port: MetricsPort = 0,
) -> None:
    """Write judged interactions as Parquet shards, and carry out erasures in them."""
    from streaming.workers.feedback import FeedbackSettings, FeedbackTask

    settings = FeedbackSettings(flush_s=flush)
    work(
        lambda _, registry: FeedbackTask(shards, settings, registry=registry),
        log,
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
    gathered: Annotated[float, typer.Option(help="Seconds within which charges share a transaction.")] = 0.2,
    until_idle: UntilIdle = False,
    partitions: Partitions = 3,
    retention_days: RetentionDays = 30.0,
    metrics_port: MetricsPort = 0,
) -> None:
    """Charge clicks, impressions and participations, and count auctions: the only writer of spend."""
    from serving.database.engine import Database
    from serving.database.migrations import migrate
    from serving.ledger.worker import LedgerSettings, LedgerTask

    settings = LedgerSettings(gathered_s=gathered)
    file = database.partition("sqlite:///")[2]
    if file and not Path(file).is_file():
        raise InputError("--database", database, "there is no such file: name the routers' own database")
    migrate(database)
    opened = Database(database, pool_size=2)
    try:
        work(
            lambda log, registry: LedgerTask(log, opened, settings, registry=registry),
            log,
            partitions,
            retention_days,
            metrics_port,
            until_idle=until_idle,
        )
    finally:
        opened.close()


def work(
    task: Callable[[EventLog, CollectorRegistry], Task],
    address: str,
    partitions: int,
    retention_days: float,
    metrics_port: int,
    *,
    until_idle: bool = False,
) -> None:
    """Runs a task's worker until the process is told to stop, its topics created where they are not there."""
    from datetime import timedelta

    import structlog
    from prometheus_client import CollectorRegistry, start_http_server

    from streaming.addresses import open_log
    from streaming.topics import all_topics
    from streaming.workers.loop import Worker
    from streaming.workers.metrics import WorkerMetrics

    stop = stopped()
    registry = CollectorRegistry()
    check_log(address, there=until_idle)
    log = open_log(address)
    said = structlog.get_logger(__name__)
    if not ready(log, all_topics(partitions, timedelta(days=retention_days)), stop):
        return
    worker = Worker(task(log, registry), log, metrics=WorkerMetrics(registry))
    if metrics_port:
        try:
            start_http_server(metrics_port, registry=registry)
        except OSError as error:
            raise InputError("--metrics-port", metrics_port, f"{error.strerror}: give a free port, or 0") from error
    said.info("worker.started", log=address)
    worker.run(stop, until_idle=until_idle)
    said.info("worker.ended", log=address)


def check_log(address: str, *, there: bool) -> None:
    """Refuses an address that cannot be the event log that is meant; `there`: also one where nothing is yet.

    Raises InputError.
    """
    from streaming.addresses import KAFKA
    from streaming.topics import INTERACTIONS

    remedy = f"name the folder of the routers' log (`log` in their --state-dir), or {KAFKA}"
    if address == KAFKA:
        return
    folder = Path(address)
    if address.lower() == KAFKA:
        raise InputError("--log", address, f"write it {KAFKA}, or ./{address} for a folder of that name")
    if folder.exists() and not folder.is_dir():
        raise InputError("--log", address, f"that is a file: {remedy}")
    if there and not folder.is_dir():
        raise InputError("--log", address, f"no event log is there: {remedy}")
    if (folder / "log" / INTERACTIONS).is_dir() and not (folder / INTERACTIONS).is_dir():
        raise InputError("--log", address, f"that is a router's state directory: give {folder / 'log'}")


def ready(log: EventLog, topics: Sequence[Topic], stop: threading.Event) -> bool:
    """Creates the topics that are not there, waiting for a log that is away; False where `stop` came first. Raises
    InputError where one is there with other partitions."""
    import structlog

    from streaming.log import LogUnavailable
    from streaming.workers.loop import PAUSES_S

    failures = 0
    while not stop.is_set():
        try:
            log.create(topics)
            return True
        except LogUnavailable as error:
            structlog.get_logger(__name__).warning("waits for the log", reason=str(error)[:200])
            stop.wait(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
            failures += 1
    return False


def stopped() -> threading.Event:
    """Set by SIGTERM and Ctrl-C."""
    stop = threading.Event()

    def told(number: int, frame: Any) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told)
    return stop


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

    # Few tries and short waits: while an endpoint is asked, the partitions wait.
    asked = EndpointSettings(
        endpoint, model, key_env or None, attempts=2, timeout=20.0, longest_backoff=5.0, concurrency=8
    )
    read, _, written = prices.partition(",")
    budget = micros("--daily-budget", daily_budget) if daily_budget else None
    cost = Prices(micros("--prices", read), micros("--prices", written))
    return EndpointJudge(EndpointJudgeSettings(asked, sample, budget, cost, cache), registry=registry)


def micros(place: str, money: str) -> int:
    """An amount as it is written, 12.50, in micros. Raises ConfigError."""
    from decimal import Decimal, InvalidOperation

    try:
        amount = Decimal(money) * 1_000_000
        if amount.is_finite() and amount >= 0 and amount == amount.to_integral_value():
            return int(amount)
    except InvalidOperation:
        pass
    raise ConfigError(place, money, "give an amount like 12.50, of six decimals at most")

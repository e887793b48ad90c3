"""The whole loop on one machine, as `llm-auction run` keeps it: a router, its workers, users, retraining, promotion.

Every part is a process of its own that holds nothing which is not on disk: the loop can be stopped at any time and goes
on from there. This process watches them, guards what was promoted, and shows what came of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from cli.local.supervisor import Children, Program
from mechanism.errors import AuctionError

if TYPE_CHECKING:
    from serving.canary.deployment import Deployment
    from serving.canary.guard import GuardSettings
    from serving.policies.route_file import Version

log = structlog.get_logger(__name__)

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
LOOK_S = 1.0
NAME = "llm-auction"
"""What the served model is called, whichever version answers."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the loop keeps what it knows, all below one folder but the registry."""

    root: Path
    registry: str

    @property
    def routes(self) -> Path:
        return self.root / "routes.json"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    @property
    def output(self) -> Path:
        return self.root / "output"


def serving_programs(places: Places, port: int, rate: float) -> list[Program]:
    """The router, the workers and the users, in the order in which they stop: nobody asks a router that goes, and what
    it wrote is still judged."""
    log_at = ["--log", str(places.log)]
    ask = ["--url", f"http://127.0.0.1:{port}", "--rate", f"{rate:g}", "--state", str(places.root / "users.json")]
    answer = ["--model", NAME, "--routes", str(places.routes), "--port", str(port), "--state-dir", str(places.root)]
    return [
        Program("users", ["users", *ask], ONE_THREAD, nice=5),
        Program("router", ["serve", *answer, *log_at, "--anonymous"], ONE_THREAD, ends_within_s=60.0),
        Program("judge", ["worker", "judge", *log_at, "--window", "600", "--lateness", "60"], ONE_THREAD),
        Program("feedback", ["worker", "feedback", *log_at, "--shards", str(places.shards)], ONE_THREAD),
    ]


def retraining_program(places: Places) -> Program:
    """Trains from the shards whenever that is due, and registers what came of it with its gates' decision. It yields to
    the answers."""
    words = ["--shards", str(places.shards), "--registry", places.registry, "--routes", str(places.routes)]
    return Program("retrain", ["retrain", "--watch", *words, "--work", str(places.root / "retraining")], nice=10)


def registered(base: str, registry: str) -> None:
    """Registers the base model under its name, so that it can be retrained from its own log and gone back to; one that
    is no folder in Hugging Face layout cannot be."""
    from inference.models import resolve
    from trainers.artifacts.registry import Registry

    where, gguf = resolve(base)
    models = Registry(registry)
    if gguf or not (Path(where) / "config.json").is_file():
        return
    if Path(base).name not in {entry.version for entry in models.list()}:
        models.register(where, base=base, version=Path(base).name, notes="the base model, as it is shipped")


def first_version(base: str) -> Version:
    """The base model as a version of the route file. Imports torch."""
    from inference.models import resolve
    from serving.policies.protocol import InProcessPolicy
    from serving.policies.route_file import Version
    from serving.policies.weights import file_sha256, folder_digest

    where, gguf = resolve(base)
    if gguf:
        return Version(base, 100, base, file_sha256(Path(where) / gguf))
    if Path(where).is_dir():
        return Version(Path(base).name, 100, base, folder_digest(Path(where)))
    return Version(Path(base).name, 100, base, InProcessPolicy.load(base).digest)


class Loop:
    """The running loop. `children` are its processes."""

    def __init__(
        self, places: Places, deployment: Deployment, guard: GuardSettings, click_window_s: float = 60.0
    ) -> None:
        from mechanism.objective import Penalty
        from serving.canary.monitor import CanaryMonitor
        from serving.canary.samples import AnswerSamples, SampleSettings

        self.places = places
        self.deployment = deployment
        self.children = Children(places.output)
        self.samples = AnswerSamples(SampleSettings(click_window_s=click_window_s), Penalty())
        self.monitor = CanaryMonitor(deployment, self.samples, guard)

    def run(self, stop: threading.Event, show: Callable[[Loop], None]) -> None:
        """Until `stop`: looks after the processes and the version on probation, promotes what passed its gates."""
        from cli.guard import promote_next
        from serving.canary.monitor import LogFeed
        from streaming.addresses import open_log
        from streaming.topics import all_topics
        from trainers.artifacts.registry import Registry

        events, models = open_log(str(self.places.log)), Registry(self.places.registry)
        events.create(all_topics())
        with LogFeed(events, self.samples) as feed:
            while not stop.is_set():
                try:
                    feed.poll(LOOK_S)
                    self.children.watch()
                    self.monitor.check()
                    promote_next(models, self.deployment)
                except AuctionError as error:
                    log.error("loop", reason=str(error))
                    stop.wait(LOOK_S)
                show(self)

"""The loop that `llm-auction run` keeps on one machine: router, workers, users, retraining and promotion.

Every part is a process that keeps its state on disk, so that the loop can be stopped at any time and resumed. This
process restarts them, judges the version on probation and promotes models that passed their gates.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from cli.local.supervisor import Program, Supervisor
from cli.serve import CANDIDATES, FEW_CANDIDATES
from mechanism.errors import AuctionError

if TYPE_CHECKING:
    from serving.canary.guard import GuardSettings
    from serving.canary.promotion_and_rollback import Deployment
    from serving.policies.route_file import Version

log = structlog.get_logger(__name__)

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
POLL_S = 1.0
READ_S = 5.0
"""Seconds between two reads of the lake."""
CLICK_WINDOW_S = 600.0
"""The attribution window of the loop's retrainings."""
UNLIMITED = ("--address-per-minute", "0")
"""All readers of the loop share this machine's address."""
MODEL_NAME = "llm-auction"
"""Name under which the router serves its policy, whichever version answers."""


@dataclass(frozen=True, slots=True)
class LoopPaths:
    """Where the loop keeps its state: everything below `root` but the registry."""

    root: Path
    registry: str

    @property
    def routes(self) -> Path:
        """The route file."""
        return self.root / "routes.json"

    @property
    def log(self) -> Path:
        """The event log's folder."""
        return self.root / "log"

    @property
    def lake(self) -> Path:
        """The folder of the lake's tables."""
        return self.root / "lake"

    @property
    def output(self) -> Path:
        """Folder of the child processes' log files."""
        return self.root / "output"


@dataclass(frozen=True, slots=True)
class Profile:
    """What suits a model: its simulated users, its prompts, its retraining, and how the router runs it.

    `questions` and `rate` (a second) of the users; `offers` in a prompt; `retraining` policy; `environment` of the
    router.
    """

    questions: str
    rate: float
    offers: int
    retraining: str
    environment: Mapping[str, str]


def profile_of(base: str, rate: float | None) -> Profile:
    """Return the profile of a model: `tiny` knows its world's templates only, and one core answers many a second.

    A larger model reads the four nearest offers: with more it shows unfitting ones, and answers later.
    """
    if base == "tiny":
        return Profile("templates", rate or 2.0, CANDIDATES, "tiny", ONE_THREAD)
    return Profile("everyday", rate or 0.1, FEW_CANDIDATES, "smollm2", {})


def serving_programs(paths: LoopPaths, port: int, profile: Profile) -> list[Program]:
    """Return the users, the router and the workers in the order in which they must stop.

    The users stop before the router that they ask; the workers stop last, so that they process every answer.
    """
    log_at = ["--log", str(paths.log)]
    ask = ["--url", f"http://127.0.0.1:{port}", "--rate", f"{profile.rate:g}", "--questions", profile.questions]
    ask += ["--state", str(paths.root / "users.json")]
    answer = ["--model", MODEL_NAME, "--routes", str(paths.routes), "--port", str(port), "--state-dir", str(paths.root)]
    answer += ["--candidates", str(profile.offers), "--anonymous", *UNLIMITED]
    answer += ["--lake", str(paths.lake)]
    return [
        Program("users", ["users", *ask], ONE_THREAD, nice=5),
        Program("router", ["serve", *answer, *log_at], profile.environment, stop_timeout_s=60.0),
        Program("judge", ["worker", "judge", *log_at], ONE_THREAD),
        Program("lake", ["worker", "lake", *log_at, "--lake", str(paths.lake)], ONE_THREAD),
    ]


def retraining_program(paths: LoopPaths, profile: Profile) -> Program:
    """Return the process that retrains from the lake when that is due, at a lower priority than the answers."""
    # simulated users click within seconds
    arguments = ["--policy", profile.retraining, "--set", f"log.window_s={CLICK_WINDOW_S:g}"]
    arguments += ["--lake", str(paths.lake), "--registry", paths.registry, "--routes", str(paths.routes)]
    return Program("retrain", ["retrain", "--watch", *arguments, "--work", str(paths.root / "retraining")], nice=10)


def register_base(base: str, registry: str) -> None:
    """Register the base model under its name, so that it can be retrained and rolled back to.

    Does nothing for a model that is registered already, or that has no folder here.
    """
    from inference.models import resolve
    from trainers.artifacts.registry import Registry

    folder = Path(resolve(base))
    models = Registry(registry)
    if not folder.is_dir():
        return
    if Path(base).name not in {entry.version for entry in models.list()}:
        models.register(folder, base=base, version=Path(base).name, notes="the base model, as it is shipped")


def base_version(base: str) -> Version:
    """Return the base model as a version for the route file; imports torch."""
    from inference.models import resolve
    from serving.policies.model import ModelPolicy, folder_digest
    from serving.policies.route_file import Version

    folder = Path(resolve(base))
    if folder.is_dir():
        return Version(Path(base).name, 100, base, folder_digest(folder))
    return Version(Path(base).name, 100, base, ModelPolicy.load(base).digest)


class Loop:
    """The running loop; `supervisor` holds its processes."""

    def __init__(
        self, paths: LoopPaths, deployment: Deployment, guard: GuardSettings, click_window_s: float = 60.0
    ) -> None:
        from mechanism.objective import Penalty
        from serving.canary.lake_cohorts import LakeCohorts
        from serving.canary.monitor import CanaryMonitor

        self.paths = paths
        self.deployment = deployment
        self.supervisor = Supervisor(paths.output)
        self.cohorts = LakeCohorts(str(paths.lake), click_window_s, Penalty())
        self.monitor = CanaryMonitor(deployment, self.cohorts, guard)

    def run(self, stop: threading.Event, show: Callable[[Loop], None]) -> None:
        """Supervise the processes, judge the version on probation and promote what passed its gates until `stop`."""
        from cli.guard import promote_next
        from trainers.artifacts.registry import Registry

        models, read_at = Registry(self.paths.registry), 0.0
        while not stop.wait(POLL_S):
            try:
                self.supervisor.restart_exited()
                if time.monotonic() >= read_at:
                    self.cohorts.refresh()
                    read_at = time.monotonic() + READ_S
                self.monitor.check()
                promote_next(models, self.deployment)
            except AuctionError as error:
                log.error("loop.step_failed", reason=str(error))
            show(self)

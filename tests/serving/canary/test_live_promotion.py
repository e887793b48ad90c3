"""A router under load changes its version: no request fails, and the guard decides by the lake."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mechanism.canary.limits import Limits
from mechanism.objective import Penalty
from mechanism.types import Context
from serving.canary.guard import GuardSettings
from serving.canary.lake_cohorts import LakeCohorts
from serving.canary.monitor import CanaryMonitor
from serving.canary.promotion_and_rollback import Deployment
from serving.policies.in_process import ThreadedPolicy
from serving.policies.protocol import AsyncPolicyBackend
from serving.policies.route_file import Version
from serving.policies.versioned import RoutedPolicy, RouteLimits
from streaming.workers.lake import LakeSettings, LakeTask
from streaming.workers.loop import Worker

QUICK = RouteLimits(trial_s=5, probe_s=2, retry_s=0.05)
SECONDS = {"good": 0.0, "better": 0.0, "slow": 0.6}
"""Seconds that each version takes for an answer."""


def version(name: str) -> Version:
    return Version(name, 0, f"models/{name}", hashlib.sha256(name.encode()).hexdigest())


def opener(scripted: Callable[..., Any]) -> Callable[[Version], Any]:
    """Opens versions that write their names, show an ad and take their seconds."""

    async def opened(wanted: Version) -> AsyncPolicyBackend:
        def script(context: Context) -> Iterator[str]:
            time.sleep(SECONDS[wanted.name] if context.candidates else 0.0)
            yield f"{wanted.name} shows "
            yield from (f"@{c.ad.title}@[{c.ad.id}]" for c in context.candidates[:1])
            yield "."

        policy = scripted()
        policy.script, policy.digest = script, wanted.digest
        return ThreadedPolicy(policy, 64, 30.0)

    return opened


def test_versions_change_under_load_and_a_slow_one_is_rolled_back(
    tmp_path: Path, router: Callable[..., Any], scripted: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    deployment = Deployment(tmp_path / "routes.json")
    deployment.start(version("good"), "test", "")
    backend = RoutedPolicy(deployment.path, opener(scripted), QUICK)
    cohorts = LakeCohorts(str(tmp_path / "lake"), 0.001, Penalty())
    settings = GuardSettings(Limits(min_answers=30, fast_s=0.3), patience_answers=45)
    monitor = CanaryMonitor(deployment, cohorts, settings)
    statuses: list[int] = []
    texts: list[str] = []
    stop = threading.Event()
    with router(tmp_path, None, backend=backend, routes_s=0.05) as running:

        def ask() -> None:
            while not stop.is_set():
                answer = running.post()
                statuses.append(answer.status_code)
                texts.append(answer.json()["choices"][0]["message"]["content"].split()[0] if answer.is_success else "")

        def decided() -> bool:
            time.sleep(0.5)
            cohorts.refresh()
            monitor.check(datetime.now(UTC) + timedelta(minutes=1))  # the minute under way is ripe
            return deployment.probation() is None

        lake = LakeTask(running.router.log, str(tmp_path / "lake"), LakeSettings(commit_s=0.2))
        worker = Worker(lake, running.router.log, poll_s=0.1)
        threads = [threading.Thread(target=ask), threading.Thread(target=ask)]
        threads.append(threading.Thread(target=worker.run, args=(stop,)))
        for thread in threads:
            thread.start()
        wait_until(lambda: len(texts) > 45, 120)
        deployment.promote(version("better"), "test", "")
        wait_until(decided, 150)
        deployment.promote(version("slow"), "test", "")
        wait_until(decided, 150)
        seen = len(texts)
        wait_until(lambda: texts[seen:].count("better") > 3, 60)
        stop.set()
        for thread in threads:
            thread.join(30)
    assert set(statuses) == {200}
    assert set(texts) == {"good", "better", "slow"}
    changes = [(change.kind, change.version, change.by) for change in deployment.history()]
    assert changes == [
        ("start", "good", "test"),
        ("promote", "better", "test"),
        ("keep", "better", "guard"),
        ("promote", "slow", "test"),
        ("rollback", "slow", "guard"),
    ]
    assert "took too long" in deployment.history()[-1].why
    serving = deployment.serving()
    assert serving is not None
    assert serving.name == "better"

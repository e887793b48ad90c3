"""A benchmark: a thousand jobs at once. From an event to the status that follows from it, and what the operator needs.

Measured from outside: a watch sees a job made, or one of its Jobs fail, and then the status that says so. Nodes and
pods exist in the API only (kwok). Run as `python -m benchmarks.operators.scale`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from benchmarks.operators.jobs import NAMESPACE, Jobs, cluster, manifest, patiently
from benchmarks.operators.operating import operator
from operators.irpojob.observe import JOB_LABEL
from operators.resources.base import GROUP, VERSION

OUT = Path("build/bench/operator-scale.json")


class Seen:
    """Moments (by the monotonic clock) at which watches told of events and of the statuses that follow from them."""

    def __init__(self, api: client.ApiClient) -> None:
        self.made: dict[str, float] = {}
        self.shown: dict[str, float] = {}
        self.failed: dict[str, float] = {}
        self.noticed: dict[str, float] = {}
        self.phases: dict[str, str] = {}
        self._ended = threading.Event()
        objects: Any = client.CustomObjectsApi(api)
        batch: Any = client.BatchV1Api(api)
        place = (GROUP, VERSION, NAMESPACE, "irpojobs")
        self._follow(lambda w: w.stream(objects.list_namespaced_custom_object, *place, timeout_seconds=60), self._job)
        labels = {"label_selector": JOB_LABEL, "timeout_seconds": 60}
        self._follow(lambda w: w.stream(batch.list_namespaced_job, NAMESPACE, **labels), self._child)

    def _follow(self, stream: Callable[[watch.Watch], Any], told: Callable[[dict[str, Any]], None]) -> None:
        def follow() -> None:
            while not self._ended.is_set():
                with suppress(ApiException, OSError, HTTPError):
                    for event in stream(watch.Watch()):
                        told(event)

        threading.Thread(target=follow, daemon=True).start()

    def _job(self, event: dict[str, Any]) -> None:
        now, item = time.monotonic(), event["object"]
        name, status = item["metadata"]["name"], item.get("status") or {}
        self.made.setdefault(name, now)
        self.phases[name] = status.get("phase", "")
        if status.get("phase"):
            self.shown.setdefault(name, now)
        if status.get("restarts"):
            self.noticed.setdefault(name, now)

    def _child(self, event: dict[str, Any]) -> None:
        now, item = time.monotonic(), event["raw_object"]
        conditions = (item.get("status") or {}).get("conditions") or ()
        if any(one["type"] == "Failed" and one["status"] == "True" for one in conditions):
            self.failed.setdefault(item["metadata"]["labels"][JOB_LABEL], now)

    def close(self) -> None:
        """Ends the watches."""
        self._ended.set()


class Load:
    """CPU seconds and memory of the operator's process over a while."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.most_mb = 0.0
        self._begun, self._spent = time.monotonic(), self._cpu()

    def _cpu(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def look(self) -> None:
        """Notes the memory that is used now."""
        self.most_mb = max(self.most_mb, self._process.memory_info().rss / 2**20)

    def spent(self) -> dict[str, float]:
        """CPU seconds since the last call, and how many cores that is."""
        now, spent = time.monotonic(), self._cpu()
        used, over = spent - self._spent, max(now - self._begun, 1e-9)
        self._begun, self._spent = now, spent
        return {"cpu_s": round(used, 2), "cores": round(used / over, 3)}


def percentile(values: list[float], percent: float) -> float | None:
    """Nearest rank; None of nothing."""
    if not values:
        return None
    return round(sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)], 3)


def wait_for(holds: Callable[[], bool], load: Load, seconds: float) -> bool:
    """Whether something came to hold within so many seconds."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        load.look()
        time.sleep(0.5)
    return True


def main() -> None:
    """Runs the benchmark and writes its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=10.0, help="jobs made in a second")
    parser.add_argument("--failures", type=int, default=200, help="pods that are deleted, five in a second")
    parser.add_argument("--seconds", type=float, default=30.0, help="for how long nothing happens, to measure that")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    with (
        cluster(max(2, asked.jobs // 100 + 1)) as (plane, api),
        tempfile.TemporaryDirectory() as folder,
        operator(api, plane.kubeconfig, NAMESPACE, Path(folder)) as running,
    ):
        jobs = Jobs(api)
        core: Any = client.CoreV1Api(api)
        seen, load = Seen(api), Load(running.process.pid)
        jobs.create(manifest("first", "24h"))
        wait_for(lambda: "first" in seen.shown, load, 120)
        load.spent()
        next_at = time.monotonic()
        for number in range(asked.jobs - 1):
            jobs.create(manifest(f"job-{number:04d}", "24h", maxRestarts=9, backoffSeconds=5))
            next_at += 1 / asked.rate
            time.sleep(max(0.0, next_at - time.monotonic()))
            load.look()
        all_shown = wait_for(lambda: len(seen.shown) == asked.jobs, load, 600)
        making = load.spent()
        all_run = wait_for(lambda: list(seen.phases.values()).count("Running") == asked.jobs, load, 1200)
        load.spent()
        time.sleep(asked.seconds)
        idle = load.spent()
        load.spent()
        pods = patiently(lambda: core.list_namespaced_pod(NAMESPACE, label_selector=JOB_LABEL)).items
        chosen = random.Random(1).sample(pods, min(asked.failures, len(pods)))
        for pod in chosen:
            patiently(lambda pod=pod: core.delete_namespaced_pod(pod.metadata.name, NAMESPACE), 404)  # type: ignore[misc]
            time.sleep(0.2)
            load.look()
        wait_for(lambda: len(seen.noticed) >= len(chosen), load, 600)
        failing = load.spent()
        seen.close()
    made = [seen.shown[name] - seen.made[name] for name in seen.shown if name in seen.made]
    lost = [max(0.0, seen.noticed[name] - seen.failed[name]) for name in seen.noticed if name in seen.failed]
    figures = {
        "jobs": asked.jobs,
        "jobs_a_second": asked.rate,
        "all_have_a_status": all_shown,
        "all_came_to_run": all_run,
        "made_to_status_s": {str(p): percentile(made, p) for p in (50, 95, 99)},
        "failures": len(lost),
        "failed_to_status_s": {str(p): percentile(lost, p) for p in (50, 95, 99)},
        "operator": {"making": making, "idle": idle, "failing": failing},
        "operator_memory_mb": round(load.most_mb),
        "machine": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": [round(one, 1) for one in os.getloadavg()],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()

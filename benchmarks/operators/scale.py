"""`python -m benchmarks.operators.scale`: the operator's latency, CPU time and memory with a thousand IRPOJobs.

Latency is measured from outside: from the watch event of a created job, or of a failed Job, to the event of the status
that reports it. Nodes and pods exist only in the API (kwok). Figures go to build/bench/operator-scale.json.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from benchmarks.figures import machine_name, percentile, write_figures
from benchmarks.operators.jobs import NAMESPACE, Jobs, cluster, manifest, retrying
from benchmarks.operators.operating import operator
from operators.irpojob.observe import JOB_LABEL
from operators.resources.base import GROUP, VERSION

OUT = Path("build/bench/operator-scale.json")


class Observer:
    """Times, by the monotonic clock, of the watch events of jobs and of the statuses that report them.

    created    when a job appeared
    reported   when its first status appeared
    failed     when one of its Jobs failed
    restarted  when its status reported a restart
    """

    def __init__(self, api: client.ApiClient) -> None:
        self.created: dict[str, float] = {}
        self.reported: dict[str, float] = {}
        self.failed: dict[str, float] = {}
        self.restarted: dict[str, float] = {}
        self.phases: dict[str, str] = {}
        self._ended = threading.Event()
        objects: Any = client.CustomObjectsApi(api)
        batch: Any = client.BatchV1Api(api)
        place = (GROUP, VERSION, NAMESPACE, "irpojobs")
        self._follow(lambda w: w.stream(objects.list_namespaced_custom_object, *place, timeout_seconds=60), self._job)
        labels = {"label_selector": JOB_LABEL, "timeout_seconds": 60}
        self._follow(lambda w: w.stream(batch.list_namespaced_job, NAMESPACE, **labels), self._child)

    def _follow(self, stream: Callable[[watch.Watch], Any], handle: Callable[[dict[str, Any]], None]) -> None:
        def follow() -> None:
            while not self._ended.is_set():
                with suppress(ApiException, OSError, HTTPError):
                    for event in stream(watch.Watch()):
                        handle(event)

        threading.Thread(target=follow, daemon=True).start()

    def _job(self, event: dict[str, Any]) -> None:
        now, item = time.monotonic(), event["object"]
        name, status = item["metadata"]["name"], item.get("status") or {}
        self.created.setdefault(name, now)
        self.phases[name] = status.get("phase", "")
        if status.get("phase"):
            self.reported.setdefault(name, now)
        if status.get("restarts"):
            self.restarted.setdefault(name, now)

    def _child(self, event: dict[str, Any]) -> None:
        now, item = time.monotonic(), event["raw_object"]
        conditions = (item.get("status") or {}).get("conditions") or ()
        if any(one["type"] == "Failed" and one["status"] == "True" for one in conditions):
            self.failed.setdefault(item["metadata"]["labels"][JOB_LABEL], now)

    def close(self) -> None:
        """End the watches."""
        self._ended.set()


class Load:
    """CPU seconds and memory of a process."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.max_mb = 0.0
        self._begun, self._spent = time.monotonic(), self._cpu()

    def _cpu(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def sample_memory(self) -> None:
        """Update the maximum memory."""
        self.max_mb = max(self.max_mb, self._process.memory_info().rss / 2**20)

    def spent(self) -> dict[str, float]:
        """Return the CPU seconds since the last call, and their share of a core."""
        now, spent = time.monotonic(), self._cpu()
        used, over = spent - self._spent, max(now - self._begun, 1e-9)
        self._begun, self._spent = now, spent
        return {"cpu_s": round(used, 2), "cores": round(used / over, 3)}


def _serves(process: psutil.Process, url: str) -> bool:
    """Return whether a process is the API server of a URL."""
    command = process.cmdline() if process.name() == "kube-apiserver" else []
    return f"--secure-port={url.rpartition(':')[2]}" in command


def wait_for(holds: Callable[[], bool], load: Load, seconds: float) -> bool:
    """Wait until `holds()`; return False if it does not within `seconds`."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        load.sample_memory()
        time.sleep(0.5)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operators.scale", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=10.0, help="jobs created in a second")
    parser.add_argument("--failures", type=int, default=200, help="pods to delete, five in a second")
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of the idle part")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    with (
        cluster(max(2, given.jobs // 100 + 1)) as (plane, api),
        tempfile.TemporaryDirectory() as folder,
        operator(api, plane.kubeconfig, NAMESPACE, Path(folder)) as running,
    ):
        jobs = Jobs(api)
        core: Any = client.CoreV1Api(api)
        observer, load = Observer(api), Load(running.process.pid)
        [server] = [one for one in psutil.process_iter() if _serves(one, plane.url)]
        api_server = Load(server.pid)
        jobs.create(manifest("first", "24h"))
        wait_for(lambda: "first" in observer.reported, load, 120)
        load.spent()
        next_at = time.monotonic()
        for number in range(given.jobs - 1):
            jobs.create(manifest(f"job-{number:04d}", "24h", maxRestarts=9, backoffSeconds=5))
            next_at += 1 / given.rate
            time.sleep(max(0.0, next_at - time.monotonic()))
            load.sample_memory()
        all_shown = wait_for(lambda: len(observer.reported) == given.jobs, load, 600)
        making, server_making = load.spent(), api_server.spent()
        all_run = wait_for(lambda: list(observer.phases.values()).count("Running") == given.jobs, load, 1200)
        load.spent(), api_server.spent()
        time.sleep(given.seconds)
        idle, server_idle = load.spent(), api_server.spent()
        load.spent()
        pods = retrying(lambda: core.list_namespaced_pod(NAMESPACE, label_selector=JOB_LABEL)).items
        chosen = random.Random(1).sample(pods, min(given.failures, len(pods)))
        for pod in chosen:
            retrying(partial(core.delete_namespaced_pod, pod.metadata.name, NAMESPACE), 404)
            time.sleep(0.2)
            load.sample_memory()
        wait_for(lambda: len(observer.restarted) >= len(chosen), load, 600)
        failing = load.spent()
        observer.close()
    made = [observer.reported[name] - observer.created[name] for name in observer.reported if name in observer.created]
    lost = [
        max(0.0, observer.restarted[name] - observer.failed[name])
        for name in observer.restarted
        if name in observer.failed
    ]
    figures = {
        "jobs": given.jobs,
        "jobs_a_second": given.rate,
        "all_have_a_status": all_shown,
        "all_came_to_run": all_run,
        "made_to_status_s": _percentiles(made),
        "failures": len(lost),
        "failed_to_status_s": _percentiles(lost),
        "operator": {"making": making, "idle": idle, "failing": failing},
        "api_server": {"making": server_making, "idle": server_idle},
        "operator_memory_mb": round(load.max_mb),
        "machine": machine_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": [round(one, 1) for one in os.getloadavg()],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_figures(given.out, figures)
    print(given.out.read_text(encoding="utf-8"), end="")


def _percentiles(seconds: list[float]) -> dict[str, float | None]:
    found = {str(p): percentile(seconds, p) for p in (50, 95, 99)}
    return {name: None if value is None else round(value, 3) for name, value in found.items()}


if __name__ == "__main__":
    main()

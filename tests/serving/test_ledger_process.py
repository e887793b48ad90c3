"""The ledger process beside a router: charges are reported and booked once, even if one of the two is killed."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from serving.answering.result import AnswerResult
from serving.database.engine import Database
from serving.ledger.background import LedgerProcess
from serving.reports.reports import Query, report
from streaming.topics import CLICKS

DYING_ROUTER = """
import os, sys, time
from serving.ledger.background import LedgerProcess
ledger = LedgerProcess(sys.argv[1], sys.argv[2], lambda *_: None)
ledger.start()
while ledger.pid is None:
    time.sleep(0.01)
print(ledger.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def charged(router: Any) -> float:
    found = [line for line in router.router.metrics.render().decode().splitlines() if "revenue_micros_total{" in line]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def test_a_killed_process_is_restarted_and_every_click_is_charged_once(
    start: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    router = start("Try {A1}. Or {A2}. Or {A3}.", ledger="process")
    ledger = router.router.ledger
    assert isinstance(ledger, LedgerProcess)
    ads = router.ask()["ads"]
    for number, ad in enumerate(ads):
        assert router.click(ad["click_url"]).status_code == 302
        if number < 2:
            wait_until(lambda: ledger.pid is not None)
            before = ledger.pid
            os.kill(before, signal.SIGKILL)
            wait_until(lambda before=before: ledger.pid != before)
    wait_until(lambda: router.router.uncharged() == 0, 30)
    assert router.revenue() == {"EUR": 600_000}
    assert charged(router) <= 600_000  # charges that a killed process could not report are in the ledger


def test_charges_and_log_events_reach_the_router(start: Callable[..., Any], wait_until: Callable[..., None]) -> None:
    router = start("Try {A2}.", ledger="process")
    (ad,) = router.ask()["ads"]
    router.click(ad["click_url"])
    wait_until(lambda: charged(router) == 200_000, 30)
    with structlog.testing.capture_logs() as logs:
        producer = router.router.log.producer()
        producer.append(CLICKS, b"x", b"no event").result(10)
        wait_until(lambda: any(entry["event"] == "worker.dead_letter" for entry in list(logs)), 30)
    wait_until(lambda: router.router.uncharged() == 0)


def test_a_stop_books_queued_clicks(router: Callable[..., Any], scripted: Callable[..., Any], tmp_path: Path) -> None:
    with router(tmp_path, scripted("Try {A2}."), ledger="process") as running:
        (ad,) = running.ask()["ads"]
        running.click(ad["click_url"])
        url = running.settings.database_url
    database = Database(url)
    assert [line.revenue_micros for line in report(database, Query())] == [200_000]
    database.close()


def test_the_process_ends_when_its_router_was_killed(tmp_path: Path, wait_until: Callable[..., None]) -> None:
    command = [
        sys.executable,
        "-c",
        DYING_ROUTER,
        str(tmp_path / "log"),
        f"sqlite:///{tmp_path / 'd.sqlite3'}",
    ]
    died = subprocess.run(command, capture_output=True, text=True, check=False)
    pid = int(died.stdout)
    wait_until(lambda: not alive(pid), 30)


def test_an_answer_leaves_nothing_to_the_garbage_collector(
    start: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    router = start("Try {A2}. Or {A3}.")
    router.ask()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            router.ask()
        wait_until(lambda: not any(isinstance(thing, AnswerResult) for thing in gc.get_objects()))
    finally:
        gc.enable()

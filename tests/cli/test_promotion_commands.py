"""`promote`, `rollback` and `guard` on a real registry, a real lake and a route file."""

from __future__ import annotations

import itertools
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from benchmarks.streaming.event_samples import click, interaction
from cli.guard import monitor, promote_next
from cli.main import app
from inference.models import resolve
from mechanism.canary.limits import Limits
from serving.canary.guard import GuardSettings
from serving.canary.promotion_and_rollback import Deployment
from serving.policies.model import folder_digest
from serving.policies.route_file import Version, read_routes
from streaming.events import AnyEvent, Interaction
from tests.streaming.lake_tables import append
from trainers.artifacts.registry import Registry

TINY = Path(resolve("tiny"))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    found = Registry(tmp_path / "runs")
    found.register(TINY, base="tiny", gates={"promote": True})
    found.register(TINY, base="tiny", gates={"promote": False})
    found.register(TINY, base="tiny")
    return found


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    made = Deployment(tmp_path / "routes.json")
    made.start(Version("tiny", 100, "tiny", folder_digest(TINY)), "test", "")
    return made


def call(deployment: Deployment, registry: Registry, *words: str) -> Result:
    where = ["--routes", str(deployment.path)]
    return CliRunner().invoke(app, [*words, *where, *(["--registry", registry.url] if words[0] == "promote" else [])])


def test_promote_and_rollback_are_one_command_each(deployment: Deployment, registry: Registry) -> None:
    result = call(deployment, registry, "promote", "v0001", "--why", "better", "--by", "ada")
    assert result.exit_code == 0, result.output
    assert "v0001 100%" in result.output
    routed = read_routes(deployment.path).versions[0]
    assert (routed.digest, Path(routed.policy).name) == (folder_digest(TINY), "v0001")
    result = call(deployment, registry, "rollback", "--why", "worse", "--by", "ada")
    assert "tiny 100%" in result.output
    listed = call(deployment, registry, "rollback", "--history").output
    assert "(by ada) better" in listed
    assert "(by ada) worse" in listed


@pytest.mark.parametrize(
    ("version", "message"), [("v0002", "did not pass"), ("v0003", "no gate"), ("v0009", "known are")]
)
def test_a_model_that_did_not_pass_its_gates_needs_force(
    deployment: Deployment, registry: Registry, version: str, message: str
) -> None:
    result = call(deployment, registry, "promote", version)
    assert result.exit_code == 2
    assert message in result.output
    if version != "v0009":
        assert call(deployment, registry, "promote", version, "--force").exit_code == 0


def test_a_damaged_model_is_not_promoted(deployment: Deployment, registry: Registry) -> None:
    weights = next((Path(registry.url) / "models" / "v0001").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    result = call(deployment, registry, "promote", "v0001")
    assert result.exit_code == 1
    assert "sha256" in result.output
    assert [v.name for v in deployment.versions()] == ["tiny"]


def test_the_newest_model_that_passed_is_promoted_once(deployment: Deployment, registry: Registry) -> None:
    change = promote_next(registry, deployment)
    assert change is not None
    assert change.version == "v0001"
    assert promote_next(registry, deployment) is None  # on probation
    deployment.rollback("guard", "worse")
    assert promote_next(registry, deployment) is None  # it was promoted before


NUMBERS = itertools.count()


def served(digest: str, at: datetime, **changes: Any) -> Interaction:
    return msgspec.structs.replace(interaction(next(NUMBERS), at), model_digest=digest, **changes)


def write(lake: str, digest: str, begin: datetime, seconds: float, clicked: int) -> None:
    """Write answers from `begin` on, a millisecond apart, of which `clicked` in ten are clicked at once."""
    events: list[AnyEvent] = []
    for number in range(900):
        at = begin + timedelta(milliseconds=number)
        event = served(digest, at, answer_s=seconds)
        events.append(event)
        if number % 10 < clicked:
            events.append(click(event, "A0", 0.01))
    append(lake, *events, watermark=datetime.now(UTC))


@pytest.mark.parametrize("share", [50, 100])
@pytest.mark.parametrize(("seconds", "clicked", "kept"), [(0.2, 5, True), (2.0, 5, False), (0.2, 0, False)])
def test_the_guard_keeps_or_rolls_back_by_the_lake(
    tmp_path: Path, deployment: Deployment, seconds: float, clicked: int, kept: bool, share: int
) -> None:
    lake = str(tmp_path / "lake")
    promoted = datetime.now(UTC) - timedelta(minutes=5)
    write(lake, folder_digest(TINY), promoted - timedelta(minutes=2 * (share == 100)), 0.2, 5)
    Deployment(deployment.path, lambda: promoted).promote(Version("v1", 100, "elsewhere", "ab" * 32), "test", "", share)
    write(lake, "ab" * 32, promoted, seconds, clicked)
    stop = threading.Event()
    settings = GuardSettings(Limits(min_answers=50), patience_answers=900)
    watching = threading.Thread(target=monitor, args=(lake, deployment, settings, 0.05, stop), daemon=True)
    watching.start()
    end = datetime.now(UTC) + timedelta(seconds=30)
    while deployment.probation() is not None and datetime.now(UTC) < end:
        stop.wait(0.05)
    stop.set()
    watching.join(20)
    serving = deployment.serving()
    assert serving is not None
    assert serving.name == ("v1" if kept else "tiny")
    assert deployment.history()[-1].by == "guard"

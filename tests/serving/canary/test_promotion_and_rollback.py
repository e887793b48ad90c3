"""Promotion and rollback: what is routed afterwards, and what the history records."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechanism.errors import InputError
from serving.canary.promotion_and_rollback import Deployment
from serving.policies.route_file import Version, read_routes


def version(name: str) -> Version:
    return Version(name, 0, f"/models/{name}", f"{len(name):x}" * 32 + "ab" * 16)


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    made = Deployment(tmp_path / "serve" / "routes.json")
    made.start(version("tiny"), "test", "the first")
    return made


def weights(deployment: Deployment) -> dict[str, int]:
    return {v.name: v.weight for v in read_routes(deployment.path).versions}


def test_a_promoted_version_serves_and_the_previous_one_stays_loaded(deployment: Deployment) -> None:
    deployment.promote(version("v0001"), "test", "")
    assert weights(deployment) == {"v0001": 100, "tiny": 0}
    deployment.promote(version("v0002"), "test", "")
    assert weights(deployment) == {"v0002": 100, "v0001": 0}


def test_a_canary_share_grows_until_it_is_kept(deployment: Deployment) -> None:
    deployment.promote(version("v0001"), "test", "", share=10)
    assert weights(deployment) == {"v0001": 10, "tiny": 90}
    serving = deployment.serving()
    assert serving is not None
    assert serving.name == "tiny"
    deployment.promote(version("v0001"), "test", "", share=40)
    assert weights(deployment) == {"v0001": 40, "tiny": 60}
    deployment.keep("guard", "nothing against it")
    assert weights(deployment) == {"v0001": 100, "tiny": 0}
    assert deployment.probation() is None


def test_each_rollback_goes_one_version_back(deployment: Deployment) -> None:
    for name in ("v0001", "v0002"):
        deployment.promote(version(name), "test", "")
    deployment.rollback("test", "slow")
    assert weights(deployment) == {"v0001": 100}
    deployment.rollback("test", "worse")
    assert weights(deployment) == {"tiny": 100}
    with pytest.raises(InputError, match="no earlier version"):
        deployment.rollback("test", "")


def test_a_canary_is_rolled_back_to_the_serving_version(deployment: Deployment) -> None:
    deployment.promote(version("v0001"), "test", "")
    deployment.promote(version("v0002"), "test", "", share=20)
    deployment.rollback("guard", "errors")
    assert weights(deployment) == {"v0001": 100}
    deployment.promote(version("v0002"), "test", "repaired")
    deployment.rollback("guard", "again")
    assert weights(deployment) == {"v0001": 100}


def test_the_history_records_who_when_and_why(deployment: Deployment) -> None:
    deployment.promote(version("v0001"), "gates", "all passed")
    deployment.rollback("guard", "p95 of 3 s")
    recorded = [(change.kind, change.version, change.by, change.why) for change in deployment.history()]
    assert recorded == [
        ("start", "tiny", "test", "the first"),
        ("promote", "v0001", "gates", "all passed"),
        ("rollback", "v0001", "guard", "p95 of 3 s"),
    ]
    moments = [change.at for change in deployment.history()]
    assert moments == sorted(moments)
    assert read_routes(deployment.path).generation == 3


def test_a_refused_change_changes_nothing(deployment: Deployment) -> None:
    before = deployment.path.read_bytes()
    with pytest.raises(InputError, match="already"):
        deployment.promote(version("tiny"), "test", "")
    with pytest.raises(InputError, match="1 to 100"):
        deployment.promote(version("v1"), "test", "", share=0)
    with pytest.raises(InputError, match="another model"):
        deployment.promote(Version("tiny", 0, "elsewhere", "ab" * 32), "test", "")
    with pytest.raises(InputError, match="probation"):
        deployment.keep("test", "")
    with pytest.raises(InputError, match="routed already"):
        deployment.start(version("v1"), "test", "")
    assert deployment.path.read_bytes() == before
    assert len(deployment.history()) == 1


def test_the_change_after_a_kill_starts_from_the_route_file(deployment: Deployment) -> None:
    deployment.promote(version("v0001"), "test", "")
    before = deployment.path.read_bytes()
    deployment.promote(version("v0002"), "test", "")
    deployment.path.write_bytes(before)  # as if the process had ended before it replaced the file
    assert deployment.probation() is None
    deployment.rollback("test", "")
    assert weights(deployment) == {"tiny": 100}


def test_an_incomplete_last_line_is_ignored(deployment: Deployment) -> None:
    with deployment.history_path.open("ab") as file:
        file.write(b'{"at": "2026-')
    assert len(deployment.history()) == 1
    deployment.promote(version("v0001"), "test", "")
    assert [change.version for change in deployment.history()] == ["tiny", "v0001"]


def test_a_damaged_line_is_named(deployment: Deployment) -> None:
    deployment.history_path.write_bytes(b"nonsense\n" + deployment.history_path.read_bytes())
    with pytest.raises(InputError, match=r"history.jsonl:1"):
        deployment.history()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(["promote", "rollback", "keep"]), st.integers(1, 100)), max_size=12))
def test_any_sequence_of_changes_routes_all_traffic(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[str, int]]
) -> None:
    deployment = Deployment(tmp_path_factory.mktemp("serve") / "routes.json")
    deployment.start(version("tiny"), "test", "")
    for number, (kind, share) in enumerate(asked):
        try:
            if kind == "promote":
                deployment.promote(version(f"v{number}"), "test", "", share)
            elif kind == "keep":
                deployment.keep("test", "")
            else:
                deployment.rollback("test", "")
        except InputError:
            continue
        assert sum(weights(deployment).values()) == 100
        assert len(weights(deployment)) <= 2

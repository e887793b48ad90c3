"""`llm-auction evaluate` takes one run of IRPO and at most one of each other kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.evaluate import compared
from mechanism.errors import ConfigError
from trainers.artifacts.run_directory import RunDirectory
from trainers.config import parse_config
from trainers.irpo.session import Session

OURS, ORACLE, WINNERS = "reward.source=learned", "reward.source=oracle", "optimisation.objective=winners"


@pytest.mark.parametrize("kinds", [(OURS, OURS), (ORACLE, WINNERS), (OURS, WINNERS, WINNERS)])
def test_other_sets_of_runs_are_refused_before_anything_is_played(kinds: tuple[str, ...], tmp_path: Path) -> None:
    sessions = [
        Session(parse_config("name: small", "test", [kind]), RunDirectory(tmp_path / str(k)))
        for k, kind in enumerate(kinds)
    ]
    with pytest.raises(ConfigError, match="one run of IRPO"):
        compared(sessions)

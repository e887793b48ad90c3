"""Helm for the tests of the charts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.operators.charts.helm import Helm
from tests.support.cluster import tools
from tests.support.cluster.control_plane import ControlPlane


@pytest.fixture(scope="session")
def program() -> Path:
    """Return the helm program."""
    try:
        return tools.locate("helm")
    except tools.ToolsMissing as error:
        pytest.skip(str(error))


@pytest.fixture
def helm(program: Path, tmp_path: Path) -> Helm:
    """Return Helm without a cluster."""
    return Helm(program, tmp_path)


@pytest.fixture
def installing(program: Path, tmp_path: Path, own_control_plane: ControlPlane) -> Helm:
    """Return Helm as the administrator of an API server."""
    return Helm(program, tmp_path, own_control_plane.kubeconfig)

"""`python -m tests.support.cluster up`: the printed line reaches the cluster, and nothing of it remains afterwards."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client, config

from tests.support.cluster import tools
from tests.support.cluster.guard import members

from .conftest import eventually

pytestmark = pytest.mark.cluster


@pytest.fixture
def up() -> Iterator[subprocess.Popen[str]]:
    """Run the command with one simulated node."""
    try:
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"):
            tools.locate(name)
    except tools.ToolsMissing as error:
        pytest.skip(str(error))
    command = [sys.executable, "-m", "tests.support.cluster", "up", "--kwok", "1", "--gpus", "4"]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        yield process
        process.kill()
        process.wait()


def test_the_printed_line_gives_access_to_a_cluster_that_ends_with_the_command(up: subprocess.Popen[str]) -> None:
    assert up.stdout is not None
    line = next(line for line in up.stdout if line.startswith("export "))
    match = re.fullmatch(r"export KUBECONFIG=(\S+) PATH=(\S+):\$PATH\n", line)
    assert match is not None
    assert (Path(match[2]) / "kubectl").is_file()
    with config.new_client_from_config(match[1]) as api:
        [node] = client.CoreV1Api(api).list_node().items
    assert node.status.allocatable["nvidia.com/gpu"] == "4"

    up.terminate()

    assert up.wait(timeout=60) == 0
    folder = Path(match[1]).parent
    eventually("nothing is left", lambda: not folder.exists() and not any(members(folder)))

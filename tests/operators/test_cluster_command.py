"""`llm-auction cluster up` as a person meets it: a line to paste, a cluster behind it, nothing afterwards."""

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


@pytest.fixture
def up() -> Iterator[subprocess.Popen[str]]:
    """The command, with one node of kwok's."""
    try:
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"):
            tools.locate(name)
    except tools.ToolsMissing as error:
        pytest.skip(str(error))
    command = [sys.executable, "-c", "from cli.main import app; app()", "cluster", "up", "--kwok", "1", "--gpus", "4"]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        yield process
        process.kill()
        process.wait()


def test_the_printed_line_leads_to_a_cluster_that_goes_with_the_command(up: subprocess.Popen[str]) -> None:
    assert up.stdout is not None
    line = next(line for line in up.stdout if line.startswith("export "))
    told = re.fullmatch(r"export KUBECONFIG=(\S+) PATH=(\S+):\$PATH\n", line)
    assert told is not None
    assert (Path(told[2]) / "kubectl").is_file()
    with config.new_client_from_config(told[1]) as api:
        [node] = client.CoreV1Api(api).list_node().items
    assert node.status.allocatable["nvidia.com/gpu"] == "4"

    up.terminate()

    assert up.wait(timeout=60) == 0
    folder = Path(told[1]).parent
    eventually("nothing is left", lambda: not folder.exists() and not any(members(folder)))

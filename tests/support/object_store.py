"""An S3 server for tests: what is kept in an object store is kept in one that is spoken to over HTTP."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import s3fs

START_S = 60.0


@dataclass(frozen=True)
class ObjectStore:
    """A running server; `environment` is what a client needs to reach it."""

    port: int

    @property
    def environment(self) -> dict[str, str]:
        """For processes of this machine."""
        return self.reached_at("127.0.0.1")

    def reached_at(self, host: str) -> dict[str, str]:
        """For those to whom this machine is `host`."""
        return {
            "AWS_ENDPOINT_URL": f"http://{host}:{self.port}",
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def bucket(self) -> str:
        """URL of a new, empty bucket."""
        name = f"auction-{uuid.uuid4().hex[:12]}"
        s3fs.S3FileSystem().mkdir(name)
        return f"s3://{name}"


@contextmanager
def object_store(host: str = "127.0.0.1") -> Iterator[ObjectStore]:
    """A server that listens at `host`; the environment of this process leads to it meanwhile."""
    with socket.create_server((host, 0)) as free:
        found = ObjectStore(free.getsockname()[1])
    command = [sys.executable, "-m", "moto.server", "-H", host, "-p", str(found.port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + START_S
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{found.port}/moto-api/", timeout=5).close()
                    break
                except OSError:
                    assert process.poll() is None, "the S3 server ended"
                    assert time.monotonic() < end, "the S3 server does not answer"
                    time.sleep(0.1)
            with pytest.MonkeyPatch.context() as patch:
                s3fs.S3FileSystem.clear_instance_cache()  # they keep the address and credentials that they began with
                for name, value in found.environment.items():
                    patch.setenv(name, value)
                yield found
        finally:
            process.kill()

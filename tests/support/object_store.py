"""A local S3 server (moto) for tests of object stores over HTTP."""

from __future__ import annotations

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

from tests.support.ports import free_ports

START_S = 60.0


@dataclass(frozen=True)
class ObjectStore:
    """A running server."""

    port: int

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for clients on this machine."""
        return self.reached_at("127.0.0.1")

    def reached_at(self, host: str) -> dict[str, str]:
        """Return the environment variables for clients that reach this machine as `host`."""
        return {
            "AWS_ENDPOINT_URL": f"http://{host}:{self.port}",
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def bucket(self) -> str:
        """Create an empty bucket and return its URL."""
        name = f"auction-{uuid.uuid4().hex[:12]}"
        s3fs.S3FileSystem().mkdir(name)
        return f"s3://{name}"


@contextmanager
def object_store(host: str = "127.0.0.1") -> Iterator[ObjectStore]:
    """Run a server on `host`; meanwhile the environment of this process points to it."""
    store = ObjectStore(free_ports(1, host)[0])
    command = [sys.executable, "-m", "moto.server", "-H", host, "-p", str(store.port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + START_S
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{store.port}/moto-api/", timeout=5).close()
                    break
                except OSError:
                    assert process.poll() is None, "the S3 server ended"
                    assert time.monotonic() < end, "the S3 server does not answer"
                    time.sleep(0.1)
            with pytest.MonkeyPatch.context() as patch:
                s3fs.S3FileSystem.clear_instance_cache()  # cached instances keep their address and credentials
                for name, value in store.environment.items():
                    patch.setenv(name, value)
                yield store
        finally:
            process.kill()

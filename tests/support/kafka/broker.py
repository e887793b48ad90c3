"""Private Apache Kafka brokers in a temporary folder, for tests and drills, which can be killed and restarted.

Each process is broker and controller (KRaft). They listen on this machine only, in plaintext and with TLS and SCRAM.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from streaming.kafka.settings import KafkaSettings
from tests.support.kafka.java import (
    STORE_PASSWORD,
    BrokerFailed,
    BrokerMissing,
    certificate,
    classpath,
    java,
    run,
)
from tests.support.ports import free_ports

START_S = 240
USER, PASSWORD = "tester", "only-for-tests-on-this-machine"
_QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")


class _Ports(NamedTuple):
    clear: int
    secure: int
    controller: int


class KafkaBroker:
    """One broker, or `count` that form a cluster: started by entering the context, removed by leaving it.

    Restarts keep ports and data.
    """

    def __init__(self, count: int = 1, *, heap: str = "512m") -> None:
        self._heap = heap
        self._java = java()
        self._classpath = classpath()
        self._certificate = certificate(self._java)
        self.folder = Path(tempfile.mkdtemp(prefix="llm-auction-kafka-"))
        ports = free_ports(3 * count)
        self._ports = [_Ports(*ports[3 * i : 3 * i + 3]) for i in range(count)]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * count
        try:
            for i in range(count):
                self._configure(i)
        except BaseException:
            self.remove()
            raise

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()

    def settings(self, **changes: str | float) -> KafkaSettings:
        """Return the settings of a plaintext connection."""
        servers = ",".join(f"127.0.0.1:{ports.clear}" for ports in self._ports)
        return KafkaSettings(**{"servers": servers, **changes})  # type: ignore[arg-type]

    def secure(self, **changes: str | float) -> KafkaSettings:
        """Return the settings of a connection with TLS and SCRAM-SHA-512."""
        values = {
            "servers": ",".join(f"127.0.0.1:{ports.secure}" for ports in self._ports),
            "protocol": "SASL_SSL",
            "user": USER,
            "password": PASSWORD,
            "ca_file": str(self._certificate / "ca.pem"),
        } | changes
        return KafkaSettings(**values)  # type: ignore[arg-type]

    def start(self) -> None:
        """Start the brokers that do not run, and wait until they accept connections.

        Raises:
            BrokerFailed: if they do not within START_S.
        """
        for i, process in enumerate(self._processes):
            if process is None:
                self._processes[i] = self._spawn(i)
        end = time.monotonic() + START_S
        for i, process in enumerate(self._processes):
            assert process is not None
            # a broker opens its listeners last, so a connection means that it is ready
            while not all(_listens(port) for port in (self._ports[i].clear, self._ports[i].secure)):
                if process.poll() is not None or time.monotonic() > end:
                    raise BrokerFailed(f"broker {i} did not start: {self._log(i)}")
                time.sleep(0.1)

    def kill(self, number: int = 0) -> None:
        """Kill one broker; `start` restarts it with its data."""
        process, self._processes[number] = self._processes[number], None
        if process is not None:
            process.kill()
            process.wait()

    def remove(self) -> None:
        """Kill the brokers that run, and remove their folder."""
        for i in range(len(self._processes)):
            self.kill(i)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _folder(self, number: int) -> Path:
        return self.folder / str(number)

    def _spawn(self, number: int) -> subprocess.Popen[bytes]:
        folder = self._folder(number)
        command = [*self._command(f"-Xmx{self._heap}"), "kafka.Kafka", str(folder / "server.properties")]
        with (folder / "log").open("ab") as log:
            return subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _command(self, *options: str) -> list[str]:
        return [str(self._java), *options, *_QUICK, "-cp", self._classpath]

    def _configure(self, number: int) -> None:
        folder, ports, count = self._folder(number), self._ports[number], len(self._ports)
        clear, secure = f"CLEAR://127.0.0.1:{ports.clear}", f"SECURE://127.0.0.1:{ports.secure}"
        settings = {
            "process.roles": "broker,controller",
            "node.id": number,
            "controller.quorum.voters": ",".join(f"{i}@127.0.0.1:{p.controller}" for i, p in enumerate(self._ports)),
            "controller.listener.names": "CONTROLLER",
            "listeners": f"{clear},{secure},CONTROLLER://127.0.0.1:{ports.controller}",
            "advertised.listeners": f"{clear},{secure}",
            "listener.security.protocol.map": "CLEAR:PLAINTEXT,SECURE:SASL_SSL,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "CLEAR",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.secure.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "ssl.keystore.location": self._certificate / "keys.p12",
            "ssl.keystore.type": "PKCS12",
            "ssl.keystore.password": STORE_PASSWORD,
            "log.dirs": folder / "data",
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": count,
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.replication.factor": count,
            "transaction.state.log.min.isr": 1,
            "log.cleaner.dedupe.buffer.size": 16 << 20,
            "num.network.threads": 2,
            "num.io.threads": 2,
        }
        folder.mkdir()
        config = folder / "server.properties"
        config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()), encoding="utf-8")
        scram = f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]"
        arguments = ["--cluster-id", "AAAAAAAAAAAAAAAAAAAAAQ", "--config", str(config), "--add-scram", scram]
        run("format", [*self._command("-Xmx128m"), "kafka.tools.StorageTool", "format", *arguments])

    def _log(self, number: int) -> str:
        return (self._folder(number) / "log").read_text("utf-8", errors="replace")[-1_500:]


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    try:
        print(f"Apache Kafka: {len(classpath().split(os.pathsep))} jars, certificate in {certificate(java())}")
    except (BrokerMissing, BrokerFailed) as error:
        sys.exit(str(error))

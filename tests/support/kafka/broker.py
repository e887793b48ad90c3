"""A private Apache Kafka broker in a temporary folder, for tests and drills, which can be killed and restarted.

It runs from the published jars, which Maven downloads into its own cache. One process is broker and controller (KRaft).
It listens on this machine only, in plaintext and with TLS and SCRAM.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from mechanism.errors import AuctionError
from streaming.kafka.settings import KafkaSettings
from tests.support.ports import free_ports

REMEDY = (
    "Kafka needs Java 17 and Maven: `apt-get install openjdk-17-jre-headless maven` (Debian, Ubuntu) or "
    "`brew install openjdk@17 maven`"
)
POM = Path(__file__).with_name("pom.xml")
CACHE = Path(__file__).parents[3] / "build" / "kafka"
START_S = 90
FETCH_S = 900
USER, PASSWORD = "tester", "only-for-tests-on-this-machine"
STORE_PASSWORD = "changeit"
_QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")


class BrokerMissing(AuctionError):
    """Java or Maven is missing on this machine; the message says how to install them."""


class BrokerFailed(AuctionError):
    """The broker or its download failed; the message contains the end of the log."""


class KafkaBroker:
    """One broker, started by entering its context, removed by leaving it; restarts keep its ports and data."""

    def __init__(self, *, heap: str = "512m") -> None:
        self._heap = heap
        self._java = java()
        self._classpath = classpath()
        self.folder = Path(tempfile.mkdtemp(prefix="llm-auction-kafka-"))
        self._certificate = certificate(self._java)
        self._ports = free_ports(3)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._configure()
            self._tool("format", "kafka.tools.StorageTool", *self._format_arguments())
        except BaseException:
            self.remove()
            raise

    def __enter__(self) -> KafkaBroker:
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
        return KafkaSettings(servers=f"127.0.0.1:{self._ports[0]}", **{"session_s": 6.0, **changes})  # type: ignore[arg-type]

    def secure(self, **changes: str | float) -> KafkaSettings:
        """Return the settings of a connection with TLS and SCRAM-SHA-512."""
        values = {
            "servers": f"127.0.0.1:{self._ports[1]}",
            "protocol": "SASL_SSL",
            "user": USER,
            "password": PASSWORD,
            "ca_file": str(self._certificate / "ca.pem"),
            "session_s": 6.0,
        } | changes
        return KafkaSettings(**values)  # type: ignore[arg-type]

    def start(self) -> None:
        """Start the broker and wait until it accepts connections.

        Raises:
            BrokerFailed: if it does not within START_S.
        """
        command = [*self._command(f"-Xmx{self._heap}"), "kafka.Kafka", str(self.folder / "server.properties")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + START_S
        # the broker opens its listeners last, so a connection means that it is ready
        while not all(_listens(port) for port in self._ports[:2]):
            if self._process.poll() is not None or time.monotonic() > end:
                raise BrokerFailed(f"the broker did not start: {self._log()}")
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill the broker; `start` restarts it with its data."""
        self._end(signal.SIGKILL)

    def remove(self) -> None:
        """Kill the broker, if it runs, and remove its folder."""
        self._end(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def _command(self, *options: str) -> list[str]:
        return [str(self._java), *options, *_QUICK, "-cp", self._classpath]

    def _configure(self) -> None:
        clear, secure, controller = self._ports
        settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"CLEAR://127.0.0.1:{clear},SECURE://127.0.0.1:{secure},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"CLEAR://127.0.0.1:{clear},SECURE://127.0.0.1:{secure}",
            "listener.security.protocol.map": "CLEAR:PLAINTEXT,SECURE:SASL_SSL,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "CLEAR",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.secure.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "ssl.keystore.location": self._certificate / "keys.p12",
            "ssl.keystore.type": "PKCS12",
            "ssl.keystore.password": STORE_PASSWORD,
            "log.dirs": self.folder / "data",
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            # no delays: there is one broker, and tests are short
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1_000,
            "log.cleaner.dedupe.buffer.size": 16 << 20,
            "num.network.threads": 2,
            "num.io.threads": 2,
        }
        lines = "".join(f"{name}={value}\n" for name, value in settings.items())
        (self.folder / "server.properties").write_text(lines, encoding="utf-8")

    def _format_arguments(self) -> list[str]:
        cluster = "AAAAAAAAAAAAAAAAAAAAAQ"
        scram = f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]"
        config = str(self.folder / "server.properties")
        return ["format", "--standalone", "--cluster-id", cluster, "--config", config, "--add-scram", scram]

    def _tool(self, doing: str, *arguments: str) -> None:
        _run(doing, [*self._command("-Xmx128m"), *arguments])

    def _log(self) -> str:
        return (self.folder / "log").read_text("utf-8", errors="replace")[-1_500:]


def java() -> Path:
    """Return the Java program.

    Raises:
        BrokerMissing: if there is none, or it is older than 17.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which(str(Path(home, "bin", "java"))) if home else shutil.which("java")
    if found is None:
        raise BrokerMissing(REMEDY)
    program = Path(found).resolve()
    output = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', output)
    if version is None or int(version[1]) < 17:
        raise BrokerMissing(f"{found} is {output.splitlines()[0] if output else 'unknown'}. {REMEDY}")
    return program


def classpath() -> str:
    """Return the broker's class path; the first call downloads the jars.

    Raises:
        BrokerMissing: if Maven is not installed.
    """
    known = CACHE / f"classpath-{hashlib.sha256(POM.read_bytes()).hexdigest()[:16]}"
    if known.exists() and all(Path(jar).exists() for jar in known.read_text("utf-8").split(os.pathsep)):
        return known.read_text("utf-8")
    maven = shutil.which("mvn")
    if maven is None:
        raise BrokerMissing(REMEDY)
    CACHE.mkdir(parents=True, exist_ok=True)
    draft = known.with_name(f"{known.name}.{os.getpid()}")
    goal = ["dependency:build-classpath", "-DincludeScope=runtime", f"-Dmdep.outputFile={draft}"]
    _run("mvn", [maven, "-B", "-q", "-f", str(POM), *goal], timeout_s=FETCH_S)
    draft.replace(known)
    return known.read_text("utf-8")


def certificate(program: Path) -> Path:
    """Return a folder with a self-signed certificate (keys.p12, ca.pem); the first call creates it with keytool."""
    folder = CACHE / "certificate"
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=CACHE))
    tool = str(program.with_name("keytool"))
    access = ["-keystore", str(draft / "keys.p12"), "-storetype", "PKCS12", "-storepass", STORE_PASSWORD]
    name = ["-dname", "CN=localhost", "-ext", "san=ip:127.0.0.1,dns:localhost", "-ext", "bc=ca:true"]
    strength = ["-keyalg", "EC", "-groupname", "secp256r1", "-validity", "3650"]
    _run("keytool", [tool, "-genkeypair", *access, "-alias", "broker", *name, *strength])
    _run("keytool", [tool, "-exportcert", "-rfc", *access, "-alias", "broker", "-file", str(draft / "ca.pem")])
    with suppress(OSError):  # another process has created it meanwhile
        draft.rename(folder)
    return folder


def _run(doing: str, command: list[str], timeout_s: float = 120) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    if done.returncode != 0:
        raise BrokerFailed(f"{doing} failed: {(done.stdout + done.stderr)[-1_500:]}")


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

"""Java, the published jars of Apache Kafka and a certificate: what a broker on this machine needs.

Maven downloads the jars into its own cache.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from mechanism.errors import AuctionError

REMEDY = (
    "Kafka needs Java 17 and Maven: `apt-get install openjdk-17-jre-headless maven` (Debian, Ubuntu) or "
    "`brew install openjdk@17 maven`"
)
POM = Path(__file__).with_name("pom.xml")
CACHE = Path(__file__).parents[3] / "build" / "kafka"
FETCH_S = 900
STORE_PASSWORD = "changeit"


class BrokerMissing(AuctionError):
    """Java or Maven is missing on this machine; the message says how to install them."""


class BrokerFailed(AuctionError):
    """The broker or its download failed; the message contains the end of the log."""


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
    run("mvn", [maven, "-B", "-q", "-f", str(POM), *goal], timeout_s=FETCH_S)
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
    run("keytool", [tool, "-genkeypair", *access, "-alias", "broker", *name, *strength])
    run("keytool", [tool, "-exportcert", "-rfc", *access, "-alias", "broker", "-file", str(draft / "ca.pem")])
    with suppress(OSError):  # another process has created it meanwhile
        draft.rename(folder)
    return folder


def run(doing: str, command: list[str], timeout_s: float = 120) -> None:
    """Run a program to its end (BrokerFailed if it fails)."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    if done.returncode != 0:
        raise BrokerFailed(f"{doing} failed: {(done.stdout + done.stderr)[-1_500:]}")

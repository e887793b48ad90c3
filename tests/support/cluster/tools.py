"""The programs of a cluster, built once from pinned Go modules (gomod/) into a cache outside the repository.

A program in the cache is complete: it is built under another name and then renamed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mechanism.errors import AuctionError, InputError

MODULES = Path(__file__).with_name("gomod")
PLACE = "LLM_AUCTION_CLUSTER_TOOLS"
"""Environment variable: the folder that holds the programs, one folder below it for each set of versions."""
REMEDY = "`make cluster-tools` builds the programs of a cluster (once; about 11 CPU minutes)"
SCRATCH = ".compiled"
"""Folder of compiled packages that the builds share: gigabytes, removed when all programs are built."""
HEARTBEAT_S = 15.0


class ToolsMissing(AuctionError):
    """Something that a cluster needs is missing on this machine; the message says how to get it."""


class BuildFailed(AuctionError):
    """A program could not be built; the message contains the end of the Go compiler's output."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One program: its Go package, and the module in gomod/ that builds it."""

    package: str
    module: str = "kubernetes"

    @property
    def name(self) -> str:
        """The program's file name."""
        return self.package.rsplit("/", 1)[-1]


TOOLS = {
    tool.name: tool
    for tool in (
        # those that most tests need first
        Tool("./cmd/etcd"),
        Tool("k8s.io/kubernetes/cmd/kube-apiserver"),
        Tool("k8s.io/kubernetes/cmd/kubectl"),
        Tool("k8s.io/kubernetes/cmd/kube-controller-manager"),
        Tool("k8s.io/kubernetes/cmd/kube-scheduler"),
        Tool("sigs.k8s.io/kwok/cmd/kwok", "kwok"),
        Tool("k8s.io/kubernetes/cmd/kubelet"),
        Tool("k8s.io/kubernetes/cmd/kube-proxy"),
        Tool("./cmd/coredns"),
        Tool("./cmd/pause"),
        Tool("helm.sh/helm/v4/cmd/helm", "helm"),
    )
}


def version(module: str) -> str:
    """Return the version (`v1.35.4`) at which a Go module is pinned.

    Raises:
        KeyError: if no program is built from it.
    """
    for file in sorted(MODULES.glob("*/go.mod")):
        if found := re.search(rf"^(?:require)?\s+{re.escape(module)} (v\S+)$", file.read_text("utf-8"), re.MULTILINE):
            return found[1]
    raise KeyError(module)


def folder() -> Path:
    """Return the folder of the programs; its name changes with their sources and build options.

    Raises:
        InputError: if PLACE is not an absolute path.
    """
    configured = os.environ.get(PLACE)
    root = Path(configured) if configured else _cache() / "llm-auction" / "cluster-tools"
    if not root.is_absolute():
        raise InputError(PLACE, str(root), "give an absolute path")
    digest = hashlib.sha256("".join(_flags(tool) for tool in TOOLS.values()).encode())
    for file in sorted(path for path in MODULES.rglob("*") if path.is_file()):
        digest.update(file.relative_to(MODULES).as_posix().encode() + b"\0" + file.read_bytes())
    return root / f"kubernetes-{version('k8s.io/kubernetes')}-{digest.hexdigest()[:12]}"


def locate(name: str) -> Path:
    """Return the path of a program.

    Raises:
        ToolsMissing: if it has not been built.
    """
    program = folder() / TOOLS[name].name
    if not program.is_file():
        raise ToolsMissing(f"{name} is not in {program.parent}: {REMEDY}")
    return program


def prepare(names: Sequence[str] = (), report: Callable[[str], None] = print) -> Path:
    """Build the missing programs (of all, or of those named), and return their folder.

    Progress goes to `report`. Without a suitable Go this raises ToolsMissing, and BuildFailed if the compiler or a
    download fails.
    """
    place = folder()
    wanted = [TOOLS[name] for name in names or TOOLS]
    if all((place / tool.name).is_file() for tool in wanted):
        return place
    go = _go()
    place.mkdir(parents=True, exist_ok=True)
    with _exclusive(place / ".lock", report):
        missing = [tool for tool in wanted if not (place / tool.name).is_file()]
        for number, tool in enumerate(missing, 1):
            _build(go, tool, place, f"{tool.name} ({number} of {len(missing)})", report)
        if all((place / tool.name).is_file() for tool in TOOLS.values()):
            shutil.rmtree(place / SCRATCH, ignore_errors=True)
    return place


def _build(go: str, tool: Tool, place: Path, title: str, report: Callable[[str], None]) -> None:
    draft = place / f".{tool.name}.draft"
    command = [go, "build", "-v", "-mod=readonly", "-trimpath", "-ldflags", _flags(tool), "-o", str(draft)]
    # static programs need no C compiler, and the pause program runs in an otherwise empty image
    environment = {"GOCACHE": str(place / SCRATCH)} | os.environ | {"CGO_ENABLED": "0", "GOFLAGS": ""}
    report(f"{title}: building")
    begun = time.monotonic()
    compiled, lines = 0, deque[str](maxlen=15)
    done = threading.Event()

    def report_progress() -> None:
        while not done.wait(HEARTBEAT_S):
            report(f"{title}: {compiled} packages compiled, {time.monotonic() - begun:.0f} s")

    threading.Thread(target=report_progress, daemon=True).start()
    with subprocess.Popen(
        [*command, tool.package],
        cwd=MODULES / tool.module,
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                lines.append(line)
                compiled += not line.startswith("go: ")
            if process.wait():
                raise BuildFailed(f"{tool.name}: `go build` failed: {''.join(lines)}")
        finally:
            done.set()
            process.kill()
    draft.replace(place / tool.name)
    report(f"{title}: built in {time.monotonic() - begun:.0f} s, {(place / tool.name).stat().st_size / 1e6:.0f} MB")


def _flags(tool: Tool) -> str:
    """Return the linker's flags: no debugging tables, and the version that the program reports."""
    if tool.module != "kubernetes":
        package = {"helm": "helm.sh/helm/v4/internal/version.version", "kwok": "sigs.k8s.io/kwok/pkg/consts.Version"}
        module = {"helm": "helm.sh/helm/v4", "kwok": "sigs.k8s.io/kwok"}
        return f"-s -w -X {package[tool.module]}={version(module[tool.module])}"
    number = version("k8s.io/kubernetes")
    major, minor, _ = number.removeprefix("v").split(".", 2)
    values = {"gitVersion": number, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return "-s -w " + " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in values.items())


def _go() -> str:
    """Return the Go compiler.

    Raises:
        ToolsMissing: if there is none, or it is too old for a module.
    """
    needed = max(
        (re.findall(r"^go (\S+)$", file.read_text("utf-8"), re.MULTILINE)[0] for file in MODULES.glob("*/go.mod")),
        key=_numbers,
    )
    remedy = (
        f"install Go {needed} or newer: `apt-get install golang-go` where the distribution's is new enough, else as "
        "go.dev/doc/install says"
    )
    go = shutil.which("go")
    if go is None:
        raise ToolsMissing(f"there is no `go` on the PATH to build the programs of a cluster: {remedy}")
    # run in a module's folder, where a Go that downloads toolchains reports the one that it would use
    version_command = subprocess.run(
        [go, "env", "GOVERSION"], cwd=MODULES / "kwok", capture_output=True, text=True, check=False, timeout=300
    )
    found = version_command.stdout.strip().removeprefix("go")
    if version_command.returncode or _numbers(found) < _numbers(needed):
        raise ToolsMissing(f"{go} is {found or version_command.stderr.strip()}: {remedy}")
    return go


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _cache() -> Path:
    configured = os.environ.get("XDG_CACHE_HOME", "")
    return Path(configured) if configured and Path(configured).is_absolute() else Path.home() / ".cache"


@contextmanager
def _exclusive(lock: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Make a second build of the same programs wait; the lock is released when its process ends, in whatever way."""
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another process is building the same programs: waiting for it")
            fcntl.flock(held, fcntl.LOCK_EX)
        yield

"""Namespaces for a node: its own network, mounts and processes, isolated from the rest of this machine.

Kubelet, containerd and kube-proxy expect to control a whole machine: bridges, packet filters, mounts, /run and kernel
settings. Here they control namespaces, which disappear with the first process in them. A pair of virtual interfaces
connects the namespaces with this machine only.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tests.support.cluster import tools
from tests.support.cluster.control_plane import Network
from tests.support.cluster.guard import CGROUPS
from tests.support.cluster.processes import ClusterFailed, Processes

PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
}
"""The system programs that a node needs, and the Debian package of each."""
CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
CNI_PACKAGE = "containernetworking-plugins"
RANGE = ipaddress.ip_network("198.18.0.0/15")
"""Addresses reserved for tests of network equipment (RFC 2544), which no real machine has."""
START_S = 60.0
SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

# kubelet sets these for the whole machine unless it finds them set, which the sandbox simulates
KERNEL_SETTINGS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}
SETUP = """\
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /var/log /var/lib/cni
mount --bind "$1/var-log" /var/log
mount -t tmpfs -o mode=755 tmpfs /var/lib/cni
for file in "$1"/kernel/*; do
    mount --bind "$file" "/proc/sys/$(basename "$file" | tr . /)"
done
ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
# traffic between pods on the bridge must pass the packet filter to reach services
if [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]; then
    echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables
fi
touch "$1/ready"
exec "$2"
"""


def program(name: str) -> str:
    """Return the path of a system program.

    Raises:
        ToolsMissing: if it is not installed.
    """
    found = shutil.which(name, path=SEARCHED)
    if found is None:
        raise tools.ToolsMissing(f"a node needs `{name}`: {_install([PACKAGES[name]])}")
    return found


def cni_folder() -> Path:
    """Return the folder of the network plugins.

    Raises:
        ToolsMissing: if they are not installed.
    """
    for folder in CNI_FOLDERS:
        if (folder / "bridge").is_file():
            return folder
    raise tools.ToolsMissing(f"a node needs the network plugin `bridge`: {_install([CNI_PACKAGE])}")


def check() -> None:
    """Check that this machine can run a node.

    Raises:
        ToolsMissing: with everything that is missing, and the command that installs it.
    """
    if sys.platform != "linux":
        raise tools.ToolsMissing(
            f"a node that runs pods needs Linux, and this is {sys.platform}; kwok's nodes run anywhere"
        )
    if os.geteuid() != 0:
        raise tools.ToolsMissing(
            "a node that runs pods needs root (sudo), for namespaces and mounts; kwok's nodes do not"
        )
    missing = {package for name, package in PACKAGES.items() if shutil.which(name, path=SEARCHED) is None}
    if not any((folder / "bridge").is_file() for folder in CNI_FOLDERS):
        missing.add(CNI_PACKAGE)
    if missing:
        raise tools.ToolsMissing(f"a node lacks {', '.join(sorted(missing))}: {_install(sorted(missing))}")


def enter_sandbox(processes: Processes) -> Network:
    """Create the namespaces for a cluster, in which its programs start from now on, and return their network."""
    check()
    folder = processes.folder
    (folder / "var-log").mkdir()
    (folder / "kernel").mkdir()
    for name, value in KERNEL_SETTINGS.items():
        if Path("/proc/sys", name).exists():
            (folder / "kernel" / name.replace("/", ".")).write_text(f"{value}\n", encoding="ascii")
    for hierarchy in _hierarchies():
        (hierarchy / folder.name).mkdir(exist_ok=True)
    namespaces = ["--net", "--mount", "--pid"]
    # the first process is the pause program, which only reaps orphaned processes
    outer = processes.start(
        "sandbox",
        [
            program("unshare"),
            *namespaces,
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            SETUP,
            "sh",
            str(folder),
            tools.locate("pause"),
        ],
    )
    processes.wait_until("sandbox of the node", (folder / "ready").exists, START_S)
    [first] = psutil.Process(outer.pid).children()
    processes.enter = (program("nsenter"), f"--target={first.pid}", *namespaces, "--")
    return _connect(processes, first.pid)


def _connect(processes: Processes, inside: int) -> Network:
    """Connect the sandbox's network to the machine's by a pair of interfaces with unused addresses.

    Raises:
        ClusterFailed: if no addresses are left, or a command fails.
    """
    ip = program("ip")
    for number in range(128):
        link = ipaddress.ip_network((int(RANGE[0]) + 4 * number, 30))
        services = ipaddress.ip_network((int(RANGE[0]) + 256 * (128 + number), 24))
        pods = ipaddress.ip_network((int(RANGE[0]) + 256 * (256 + number), 24))
        name, here, there = f"llm-auction-{number}", str(link[1]), str(link[2])
        try:
            # the interface's name reserves the addresses: of two clusters that try, one is refused
            processes.run(
                [ip, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(inside)], enter=False
            )
        except ClusterFailed as error:
            if "File exists" in str(error):
                continue
            raise
        processes.run([ip, "addr", "add", f"{here}/30", "dev", name], enter=False)
        processes.run([ip, "link", "set", name, "up"], enter=False)
        processes.run([ip, "addr", "add", f"{there}/30", "dev", "eth0"])
        processes.run([ip, "link", "set", "eth0", "up"])
        processes.run([ip, "route", "add", "default", "via", here])
        for inner in (services, pods):
            processes.run([ip, "route", "add", str(inner), "via", there], enter=False)
        return Network(there, (6443, 2379, 2380), str(services), str(pods), here)
    raise ClusterFailed("128 clusters with a node already run on this machine")


def _hierarchies() -> Sequence[Path]:
    """Return the roots of this machine's control groups: several of version 1, or the one of version 2."""
    if (CGROUPS / "cgroup.controllers").exists():
        for controller in ("cpu", "cpuset", "memory", "pids"):
            with suppress(OSError):  # kubelet reports the ones that are missing
                (CGROUPS / "cgroup.subtree_control").write_text(f"+{controller}", encoding="ascii")
        return [CGROUPS]
    return [path for path in CGROUPS.iterdir() if (path / "tasks").exists()]


def _install(packages: Sequence[str]) -> str:
    return f"`apt-get install --no-install-recommends {' '.join(packages)}` (Debian, Ubuntu)"

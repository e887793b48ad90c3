"""A cluster with one node that runs real pods: control plane, containerd, kubelet, kube-proxy and cluster DNS.

Images are not pulled. `HOST_IMAGE` is empty: this machine's programs, this Python with its packages and the checkout
are mounted read-only into every container. `name_image` gives that image further names. A node without those mounts
runs images that `load` imports, as any other cluster does.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from tests.support.cluster import image, sandbox, tools
from tests.support.cluster.certificates import MASTERS
from tests.support.cluster.control_plane import ControlPlane, ready_nodes
from tests.support.cluster.processes import ClusterFailed, Processes

NAME = "node-1"
PAUSE_IMAGE = "llm-auction.io/pause:1"
HOST_IMAGE = "llm-auction.io/this-machine:1"
ROOT = Path(__file__).parents[3]
SOCKET = "/run/containerd/containerd.sock"
START_S = 180.0
LOAD_S = 1200.0
"""For gigabytes that are written twice: as they are, and unpacked."""
CAP_SYS_RESOURCE = 24


class Node:
    """The cluster, started by entering its context, stopped and removed by leaving it.

    node_grace_s  seconds without a heartbeat of the kubelet after which the node is NotReady
    host_mounts   whether containers see this machine's programs, which hide those of their image
    """

    def __init__(self, *, node_grace_s: int = 20, host_mounts: bool = True) -> None:
        programs = ("kubelet", "kube-proxy", "coredns", "pause")
        self._host_paths = _host_paths() if host_mounts else []
        self._programs = {name: tools.locate(name) for name in programs}
        sandbox.check()
        processes = Processes()
        try:
            network = sandbox.enter_sandbox(processes)
            self.plane = ControlPlane(controllers=True, node_grace_s=node_grace_s, network=network, processes=processes)
        except BaseException:
            processes.close()
            raise

    def __enter__(self) -> Node:
        try:
            self.start()
        except BaseException:
            self.plane.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.plane.close()

    def start(self) -> None:
        """Start everything and return when the node is Ready."""
        self.plane.start()
        self._start_containerd()
        folder = self.plane.folder
        image.write(folder / "pause.tar", image.pause(self._programs["pause"]), [PAUSE_IMAGE], entrypoint=["/pause"])
        self._import(folder / "pause.tar")
        self.name_image(HOST_IMAGE)
        self._start_dns()
        self._start_proxy()
        self.start_kubelet()
        self.plane.processes.wait_until("node that is Ready", self.ready, START_S)

    def start_kubelet(self) -> None:
        """Start the kubelet; after a kill it finds the running pods again."""
        folder, authority = self.plane.folder, self.plane.authority
        access = authority.kubeconfig(
            folder / "kubelet.kubeconfig", self.plane.url, f"system:node:{NAME}", ["system:nodes"]
        )
        config = folder / "kubelet.yaml"
        config.write_text(yaml.safe_dump(self._kubelet_config()), encoding="utf-8")
        self.plane.processes.start(
            "kubelet",
            [
                self._programs["kubelet"],
                f"--config={config}",
                f"--kubeconfig={access}",
                f"--root-dir={folder / 'kubelet'}",
                f"--hostname-override={NAME}",
                f"--node-ip={self.plane.network.address}",
            ],
        )

    def kill_kubelet(self) -> None:
        """Kill the kubelet: the pods keep running without being reported, as on a disconnected node."""
        self.plane.processes.kill("kubelet")

    def ready(self) -> bool:
        """Return whether the node reports that it is Ready."""
        return ready_nodes(self.plane) == {NAME}

    def name_image(self, *names: str) -> None:
        """Register the image of this machine under full names (`llm-auction.io/trainer:1`)."""
        path = f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        # the checkout is on the Python path even if it is not installed in this environment
        environment = {"PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "HOME": "/tmp"}
        tar = self.plane.folder / "this-machine.tar"
        image.write(tar, image.skeleton(), names, environment=environment)
        self._import(tar)

    def load(self, layout: Path, *names: str) -> None:
        """Import built images of a layout of `make images`."""
        folder = self.plane.folder / "images"
        image.select(layout, names, folder)
        archive = (
            'tar --create --dereference --directory "$1" . | "$2" --address="$3" --namespace=k8s.io images import -'
        )
        command: list[str | Path] = ["sh", "-c", archive, "sh", folder, sandbox.program("ctr"), SOCKET]
        self.plane.processes.run(command, seconds=LOAD_S)
        shutil.rmtree(folder)

    def _import(self, tar: Path) -> None:
        self.plane.processes.run(
            [sandbox.program("ctr"), f"--address={SOCKET}", "--namespace=k8s.io", "images", "import", tar]
        )

    def _start_containerd(self) -> None:
        folder, processes = self.plane.folder, self.plane.processes
        spec = json.loads(processes.run([sandbox.program("ctr"), "oci", "spec"]))
        spec["mounts"] += [
            {"destination": path, "source": path, "type": "bind", "options": ["rbind", "ro"]}
            for path in self._host_paths
        ]
        (folder / "container.json").write_text(json.dumps(spec), encoding="utf-8")
        (folder / "cni").mkdir()
        (folder / "cni" / "10-bridge.conflist").write_text(json.dumps(self._cni_config()), encoding="utf-8")
        config = folder / "containerd.toml"
        config.write_text(
            CONTAINERD.format(
                folder=folder,
                socket=SOCKET,
                pause=PAUSE_IMAGE,
                cni=sandbox.cni_folder(),
                runc=sandbox.program("runc"),
                restrict=str(not _may_lower_oom_score()).lower(),
            ),
            encoding="utf-8",
        )
        processes.start("containerd", [sandbox.program("containerd"), f"--config={config}"])
        version = [sandbox.program("ctr"), f"--address={SOCKET}", "version"]

        def answers() -> bool:
            try:
                processes.run(version)
            except ClusterFailed:
                return False
            return True

        processes.wait_until("containerd that answers", answers, START_S)

    def _start_dns(self) -> None:
        folder = self.plane.folder
        access = self.plane.authority.kubeconfig(folder / "coredns.kubeconfig", self.plane.url, "coredns", [MASTERS])
        (folder / "Corefile").write_text(
            f"cluster.local in-addr.arpa {{\n  bind {self.plane.network.address}\n  errors\n"
            f"  kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {access}\n  }}\n}}\n",
            encoding="utf-8",
        )
        self.plane.processes.start("coredns", [self._programs["coredns"], "-conf", folder / "Corefile"])

    def _start_proxy(self) -> None:
        folder = self.plane.folder
        access = self.plane.authority.kubeconfig(
            folder / "kube-proxy.kubeconfig", self.plane.url, "system:kube-proxy", ["system:node-proxier"]
        )
        config = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clientConnection": {"kubeconfig": str(access)},
            "clusterCIDR": self.plane.network.pods,
            "hostnameOverride": NAME,
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            # settings of the whole machine, which cannot be changed in a namespace
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        (folder / "kube-proxy.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        self.plane.processes.start(
            "kube-proxy", [self._programs["kube-proxy"], f"--config={folder / 'kube-proxy.yaml'}"]
        )

    def _kubelet_config(self) -> dict[str, Any]:
        folder, address = self.plane.folder, self.plane.network.address
        certificate = self.plane.authority.server("kubelet", [address, NAME])
        resolver = folder / "resolv.conf"
        resolver.write_text(f"nameserver {address}\n", encoding="ascii")
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": address,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.plane.authority.pair.certificate)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(certificate.certificate),
            "tlsPrivateKeyFile": str(certificate.key),
            "containerRuntimeEndpoint": f"unix://{SOCKET}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{folder.name}",
            "kubeletCgroups": f"/{folder.name}/kubelet",
            "failCgroupV1": False,
            "enforceNodeAllocatable": ["none"],
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "clusterDNS": [address],
            "clusterDomain": "cluster.local",
            "resolvConf": str(resolver),
            "volumePluginDir": str(folder / "volume-plugins"),
            "nodeStatusUpdateFrequency": "2s",
            "nodeLeaseDurationSeconds": 10,
            "syncFrequency": "10s",
            # the disk may be nearly full of other data, and as nothing is pulled there is nothing to remove
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "enableDebugFlagsHandler": False,
        }

    def _cni_config(self) -> dict[str, Any]:
        ranges = [[{"subnet": self.plane.network.pods}]]
        bridge = {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/ipam"},
        }
        return {
            "cniVersion": "1.0.0",
            "name": "llm-auction",
            "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}],
        }


CONTAINERD = """\
version = 2
root = "{folder}/containerd"
state = "/run/containerd"
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = {restrict}
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni}"
conf_dir = "{folder}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
base_runtime_spec = "{folder}/container.json"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = false
"""


def _host_paths() -> list[str]:
    """Return the paths that are mounted into containers: system programs, this Python, its packages, the checkout.

    No path lies inside another one.
    """
    system = (Path("/usr"), Path("/etc/alternatives"), Path("/etc/ld.so.cache"))
    wanted = {*system, Path(sys.base_prefix), Path(sys.prefix), ROOT}
    there = {path.resolve() for path in wanted if path.exists()}
    return sorted(str(path) for path in there if not any(other in path.parents for other in there))


def _may_lower_oom_score() -> bool:
    """Return whether this process may protect others from the out-of-memory killer, as Kubernetes does."""
    status = Path("/proc/self/status").read_text("ascii")
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> CAP_SYS_RESOURCE & 1)

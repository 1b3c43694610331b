"""A server of the fabric as a node of the cluster: containerd, kubelet and kube-proxy, as an operator would set it up.

Nothing of this project is put there: the agent, its plugin and its configuration come with the DaemonSet.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from containerlab.archives import Image
from containerlab.driver import DEBIAN_PLUGINS
from containerlab.faults import kill, revive
from containerlab.lab import Lab
from containerlab.pods import CONF_DIR, RUNTIME, scratch
from containerlab.runtime import Runtime, Sandbox
from tests.fabric import ADDRESSES, IPV6
from tests.kube.binaries import program
from tests.kube.control_plane import LOST_NODE_S, ControlPlane
from tests.kube.images import PORT
from tests.kube.plugins import PLUGINS as CNI_PLUGINS
from tests.kube.web import answer

PLUGINS = Path("/var/lib/cni/bin")
"""Instead of /opt/cni/bin, which the lab's servers share with this machine."""
MANIFESTS = Path("/etc/kubernetes/manifests")
"""Pods that the kubelet runs without being told by the API server."""
STATE = Path("/var/lib/routed")
_GROUPS = Path("/sys/fs/cgroup")


class Worker:
    """One node of the cluster; `boot` starts what runs on it beside pods."""

    def __init__(self, lab: Lab, name: str, control: ControlPlane) -> None:
        self.lab, self.name = lab, name
        self._control = control
        self._folder = scratch(lab.name) / name
        self._daemons: dict[str, subprocess.Popen[Any]] = {}
        self._runtime: Runtime | None = None

    @property
    def runtime(self) -> Runtime:
        """The server's containerd."""
        assert self._runtime is not None, f"{self.name} has not been booted"
        return self._runtime

    def boot(self, images: Sequence[Image], *, fresh: bool = True) -> None:
        """Start the runtime, the kubelet and the proxy; not `fresh` after a reboot, with what the disk remembers."""
        node = self.lab.node(self.name)
        node.run(["mount", "--make-rshared", "/"])  # as systemd has it
        for folder in (CONF_DIR, MANIFESTS, PLUGINS):
            node.path(folder).mkdir(parents=True, exist_ok=True)
        for plugin in (DEBIAN_PLUGINS / "loopback", CNI_PLUGINS.program("portmap")):  # as the kubelet's package does
            shutil.copy(plugin, node.path(PLUGINS))
        entering = ("nsenter", "-t", str(node.pid), "--mount", "--uts", "--ipc", "--net", "--pid")
        self._runtime = Runtime.start(
            self._folder / RUNTIME, cni_bin=PLUGINS, cni_conf=CONF_DIR, prefix=entering, fresh=fresh
        )
        if fresh:
            for image in images:
                self.runtime.import_image(image)
        for group in _GROUPS.glob("*/"):
            if group.name != "unified":
                (group / self.runtime.cgroup.strip("/")).mkdir(exist_ok=True)
        self.start("kubelet")
        self.start("kube-proxy")

    def start(self, name: str) -> None:
        """Start the kubelet or the proxy."""
        user, groups = {
            "kubelet": (f"system:node:{self.name}", ["system:nodes"]),
            "kube-proxy": ("system:kube-proxy", []),
        }[name]
        kubeconfig = self._control.kubeconfig(
            self._control.client_for(user, groups), self._folder / f"{name}.kubeconfig"
        )
        document = {"kubelet": self._kubelet, "kube-proxy": self._proxy}[name](kubeconfig)
        config = self._folder / f"{name}.json"
        config.write_text(json.dumps(document))
        arguments = [f"--config={config}", f"--hostname-override={self.name}"]
        if name == "kubelet":
            labels = f"routed.dev/rack=r{self.name[1]}"
            address = f"--node-ip={ADDRESSES[self.name]},{IPV6[self.name]}"
            arguments += [f"--kubeconfig={kubeconfig}", address, f"--node-labels={labels}"]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._daemons[name] = self.lab.node(self.name).popen(
                [program(name), *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def sandbox(self, name: str) -> Sandbox:
        """Return the sandbox of the pod of that name that runs; LookupError when none does."""
        found = [one.id for one in self.runtime.pods() if one.name == name and one.ready]
        if not found:
            raise LookupError(f"{self.name}: {name} does not run")
        return self.runtime.inspect(found[0])

    def answering(self, name: str) -> Sandbox | None:
        """Return the sandbox of the pod of that name once its web server answers the node."""
        try:
            found = self.sandbox(name)
        except LookupError:
            return None
        said = answer(self.lab.node(self.name).netns_path, str(found.addresses[0]), PORT)
        return found if said == name else None

    def agent_pid(self) -> int | None:
        """Return the process id of the agent, as the server counts."""
        found = self.lab.node(self.name).run(["pgrep", "--full", "routed agent"], check=False).stdout
        return int(found) if found else None

    def kill_agent(self) -> int:
        """Kill the agent, with all that is in its container; the kubelet will start it again. Returns who it was."""
        pid = self.agent_pid()
        assert pid is not None, "no agent runs"
        self.lab.node(self.name).run(["kill", "-9", str(pid)])
        return pid

    def lose_power(self) -> None:
        """End everything at once; the disk keeps what is on it."""
        kill(self.lab, self.name)
        self._end()
        self.runtime.power_off()

    def reboot(self) -> None:
        """Come back after `lose_power`, with the disk of before."""
        state = self._state()
        revive(self.lab, self.name)
        self.lab.wait_ready()
        node = self.lab.node(self.name)
        subprocess.run(["tar", "-x", "-C", node.path(STATE)], input=state, check=True)
        self.boot((), fresh=False)

    def _state(self) -> bytes:
        """Return what the agent keeps on the server's disk, which in a lab is memory."""
        command = ["tar", "-c", "-C", str(self.lab.node(self.name).path(STATE)), "."]
        return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout

    def close(self) -> None:
        """End everything and leave nothing: pods get no DEL."""
        self._end()
        if self._runtime is not None:
            self._runtime.close()

    def _end(self) -> None:
        for daemon in self._daemons.values():
            daemon.kill()
            daemon.wait()
        self._daemons.clear()

    def log(self, name: str, characters: int = 6000) -> str:
        """Return the end of a daemon's log."""
        return (self._folder / f"{name}.log").read_text(errors="replace")[-characters:]

    def _kubelet(self, _kubeconfig: Path) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": False},
                "x509": {"clientCAFile": str(self._control.authority.certificate)},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.runtime.cgroup,
            "containerRuntimeEndpoint": self.runtime.endpoint,
            "enforceNodeAllocatable": [],
            "evictionHard": {"memory.available": "1Mi"},
            "failCgroupV1": False,  # the machine has what it has
            "failSwapOn": False,
            "imageGCHighThresholdPercent": 100,
            "localStorageCapacityIsolation": False,
            "makeIPTablesUtilChains": False,
            "nodeLeaseDurationSeconds": int(LOST_NODE_S),
            "nodeStatusUpdateFrequency": "2s",
            "oomScoreAdj": 0,  # less needs CAP_SYS_RESOURCE
            "registryPullQPS": 0,
            "resolvConf": "",
            "staticPodPath": str(MANIFESTS),
        }

    def _proxy(self, kubeconfig: Path) -> dict[str, Any]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            "mode": "nftables",
            # A pod's packet for a Service comes by the server, its answer has to come back the same way.
            "nftables": {"masqueradeAll": True, "minSyncPeriod": "0s"},
        }

"""Pods on a server of a lab, attached by the plugin under test: as a kubelet makes them, with a real container runtime.

Owns the runtime's folder (under the lab's scratch folder, the same path inside the node and outside) and the network
configuration in the node's own /etc/cni. `PlainPods` does without a runtime, for machines where containerd cannot run.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Protocol, Self
from uuid import uuid4

from containerlab.driver import DEBIAN_PLUGINS, Plugin
from containerlab.lab import Lab
from containerlab.node import Node
from containerlab.probe import Place
from containerlab.runtime import Runtime, clean

ROOT = Path(__file__).parents[1]
SHIM = ROOT / "build" / "routed-cni"
CONFLIST = ROOT / "deploy" / "cni" / "10-routed.conflist"
CONF_DIR = Path("/etc/cni/net.d")
NAMESPACE = "demo"
RUNTIME = "rt"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that runs."""

    id: str
    server: str
    place: Place

    @property
    def name(self) -> str:
        """Its name, without the namespace."""
        return self.place.name

    @property
    def addresses(self) -> tuple[IPv4Address | IPv6Address, ...]:
        """Its addresses, as the runtime told them."""
        return self.place.addresses


class Pods(Protocol):
    """The pods of one server. Thread-safe: pods may come and go all at once."""

    def run(self, name: str) -> Pod:
        """Start a pod; raises what the runtime or the plugin said."""

    def delete(self, pod: Pod) -> None:
        """Stop a pod, which detaches it, and forget it."""

    def left(self) -> list[str]:
        """Return what is left of pods in the runtime's own books."""


class RuntimePods:
    """Pods through containerd's CRI, one containerd per server."""

    def __init__(self, node: Node, runtime: Runtime) -> None:
        self._node, self._runtime = node, runtime

    @classmethod
    def start(cls, lab: Lab, server: str) -> Self:
        """Start containerd in a server; RuntimeFailedError or OSError when it cannot run."""
        node, folder = lab.node(server), scratch(lab.name) / server
        plugins = _plugins(folder)
        conf = node.path(CONF_DIR)
        conf.mkdir(parents=True, exist_ok=True)
        shutil.copy(CONFLIST, conf)
        runtime = Runtime.start(folder / RUNTIME, cni_bin=plugins, cni_conf=CONF_DIR, prefix=_entering(node))
        return cls(node, runtime)

    def run(self, name: str) -> Pod:
        """Start a pod; RuntimeFailedError with the plugin's words."""
        sandbox = self._runtime.run_pod(NAMESPACE, name, str(uuid4()))
        place = Place(name, self._node.path(sandbox.netns), sandbox.addresses)
        return Pod(sandbox.id, self._node.name, place)

    def delete(self, pod: Pod) -> None:
        """Stop and remove a pod; RuntimeFailedError."""
        self._runtime.stop_pod(pod.id)
        self._runtime.remove_pod(pod.id)

    def left(self) -> list[str]:
        """Return the records of pods."""
        return [f"pod {pod.namespace}/{pod.name}" for pod in self._runtime.pods()]


class PlainPods:
    """Pods that are nothing but a network namespace, attached by calling the plugin as a runtime's library does."""

    def __init__(self, lab: Lab, server: str) -> None:
        self._node = lab.node(server)
        network = json.loads(CONFLIST.read_text())
        conf = {"cniVersion": network["cniVersion"], "name": network["name"], **network["plugins"][0]}
        self._plugin = Plugin(SHIM, conf, prefix=_entering(self._node))

    def run(self, name: str) -> Pod:
        """Start a pod; CniError."""
        self._node.run(["ip", "netns", "add", name])
        netns, container = Path("/run/netns", name), uuid4().hex
        args = {"K8S_POD_NAMESPACE": NAMESPACE, "K8S_POD_NAME": name, "K8S_POD_UID": str(uuid4())}
        result = self._plugin.add(container, netns, args=args)
        place = Place(name, self._node.path(netns), tuple(address.ip for address in result.addresses))
        return Pod(container, self._node.name, place)

    def delete(self, pod: Pod) -> None:
        """Detach a pod and remove its network namespace; CniError."""
        self._plugin.delete(pod.id, Path("/run/netns", pod.name))
        self._node.run(["ip", "netns", "delete", pod.name])

    def left(self) -> list[str]:
        """Return the network namespaces."""
        return [f"netns {path.name}" for path in self._node.path("/run/netns").glob("*")]


def scratch(lab: str) -> Path:
    """Return the folder of a lab's runtimes: short, as Unix sockets need it, and visible in its nodes."""
    return Path(tempfile.gettempdir(), f"routed-lab-{lab}")


def clean_up(lab: str) -> None:
    """Remove what the runtimes of a lab left, its nodes being down: control groups, files."""
    for folder in scratch(lab).glob(f"*/{RUNTIME}"):
        clean(folder)
    if scratch(lab).is_dir():
        shutil.rmtree(scratch(lab))


def _plugins(folder: Path) -> Path:
    """Make a folder with the plugins of the network configuration."""
    plugins = folder / "bin"
    plugins.mkdir(mode=0o700, parents=True)
    (plugins / "loopback").symlink_to(DEBIAN_PLUGINS / "loopback")
    for plugin in json.loads(CONFLIST.read_text())["plugins"]:
        (plugins / plugin["type"]).symlink_to(SHIM)
    return plugins


def _entering(node: Node) -> tuple[str, ...]:
    return ("nsenter", "-t", str(node.pid), "--mount", "--uts", "--ipc", "--net", "--pid")

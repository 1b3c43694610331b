"""A whole cluster on the fabric: the control plane on s22, nodes on the other servers, the project's own DaemonSet.

All of it is real but the images, which are made here. Whoever tests with it sees what kubectl sees, and what the ToRs do.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from containerlab.lab import Lab
from containerlab.pods import clean_up
from containerlab.probe import Place
from tests.fabric import ADDRESSES, eventually
from tests.kube.binaries import program
from tests.kube.control_plane import ControlPlane
from tests.kube.images import agent, workload
from tests.kube.objects import NAMESPACE, Object, agent_image, installation
from tests.kube.worker import Worker
from tests.servers import Server

CONTROL = "s22"
WORKERS = ("s11", "s12", "s21")
PODS = "/api/v1/pods"


class Cluster:
    """The cluster; `running` starts one."""

    def __init__(self, lab: Lab, control: ControlPlane) -> None:
        self.lab, self.control = lab, control
        self.admin = control.admin
        self.workers = {name: Worker(lab, name, control) for name in WORKERS}
        self.servers = {name: Server(lab, name) for name in WORKERS}
        self._kubeconfig = control.kubeconfig(self.admin, control.folder / "admin.kubeconfig")

    @classmethod
    @contextlib.contextmanager
    def running(cls, folder: Path) -> Iterator[Cluster]:
        """A cluster without agents, so that no node is ready; nothing is left of it."""
        name = f"kube-{os.getpid()}"
        address = IPv4Address(ADDRESSES[CONTROL])
        with contextlib.ExitStack() as stack:
            stack.callback(clean_up, name)
            lab = stack.enter_context(Lab.up(name=name))
            lab.wait_ready()
            control = ControlPlane(folder, address, netns=lab.node(CONTROL).netns_path)
            stack.enter_context(control)
            control.start_controllers()
            cluster = cls(lab, control)
            for worker in cluster.workers.values():
                stack.callback(worker.close)
                worker.boot(cluster.images)
            yield cluster

    @property
    def images(self) -> list[Any]:
        """What nodes have without pulling it."""
        return [workload(), agent(agent_image())]

    def install(self) -> None:
        """Install the project as docs/install.md says."""
        for one in installation():
            self.admin.apply(one).granted()

    def kubectl(self, *words: str) -> str:
        """Return what kubectl prints; CommandError."""
        node = self.lab.node(CONTROL)
        return node.run([program("kubectl"), f"--kubeconfig={self._kubeconfig}", *words], timeout=120).stdout

    def pods(self, label: str, node: str | None = None) -> list[Object]:
        """Return the pods of a label, of one node if that is named, that are not about to go."""
        items = self.admin.get(f"{PODS}?labelSelector={label}").granted()["items"]
        return [
            pod
            for pod in items
            if node in {None, pod["spec"].get("nodeName")} and "deletionTimestamp" not in pod["metadata"]
        ]

    def place(self, pod: Object) -> Place:
        """Return a pod that runs as an end of traffic."""
        worker = self.workers[pod["spec"]["nodeName"]]
        uid = pod["metadata"]["uid"]
        (sandbox,) = (one.id for one in worker.runtime.pods() if one.uid == uid and one.ready)
        found = worker.runtime.inspect(sandbox)
        return Place(pod["metadata"]["name"], self.lab.node(worker.name).path(found.netns), found.addresses)


def ready(one: Object) -> bool:
    """Tell whether a node or a pod is ready."""
    conditions = one.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

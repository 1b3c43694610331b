"""A whole cluster on the fabric: the control plane on s22, nodes on the other servers, the project's own DaemonSet.

All of it is real but the images, which are made here. A test sees what kubectl shows, and what the ToRs do.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from http.client import HTTPException
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import Any

from containerlab.agents import Agent
from containerlab.archives import Image
from containerlab.lab import Lab
from containerlab.pods import clean_up
from containerlab.probe import Place
from containerlab.runtime import Sandbox
from tests.fabric import ADDRESSES as SERVERS
from tests.fabric import eventually
from tests.kube.binaries import program
from tests.kube.control_plane import ControlPlane
from tests.kube.images import agent, workload
from tests.kube.installation import IMAGE, NEXT_IMAGE, renew, write
from tests.kube.installed import ADDRESSES, RACKS
from tests.kube.objects import Object
from tests.kube.pages import HERE, INSTALL, OPERATIONS, commands, script
from tests.kube.testimony import testimony
from tests.kube.worker import PLUGINS, Worker
from tests.manifests import DEPLOY
from tests.servers import Server, each

CONTROL = "s22"
WORKERS = ("s11", "s12", "s21")
DEFINITIONS = {"deploy/crds": str(DEPLOY / "crds")}
"""How the pages name them, seen from the top of the repository."""
ROUTED = Path(sys.executable).with_name("routed")
_PATIENCE_S = 180.0
NODES = "/api/v1/nodes"
AGENTS = "app.kubernetes.io/component=agent"
PODS = "/api/v1/pods"


class Cluster:
    """The cluster; `running` starts one."""

    def __init__(self, lab: Lab, control: ControlPlane) -> None:
        self.lab, self.control = lab, control
        self.admin = control.admin
        self.workers = {name: Worker(lab, name, control) for name in WORKERS}
        self.servers = {name: Server(lab, name) for name in WORKERS}
        self._kubeconfig = control.kubeconfig(self.admin, control.folder / "admin.kubeconfig")
        self._installation = write(control.folder / "kustomize")

    @classmethod
    @contextlib.contextmanager
    def running(cls, folder: Path) -> Iterator[Cluster]:
        """A cluster without agents, so that no node is ready; nothing is left of it."""
        name = f"kube-{os.getpid()}"
        address = IPv4Address(SERVERS[CONTROL])
        with contextlib.ExitStack() as stack:
            stack.callback(clean_up, name)
            lab = stack.enter_context(Lab.up(name=name))
            node = lab.node(CONTROL)
            eventually(lambda: f" {address}/" in node.run(["ip", "address"]).stdout, f"the address of {CONTROL}")
            control = ControlPlane(folder, address, netns=node.netns_path)
            stack.enter_context(control)
            control.start_controllers()
            lab.wait_ready()  # meanwhile it has become so
            cluster = cls(lab, control)
            for worker in cluster.workers.values():
                stack.callback(worker.close)
            each(lambda worker: worker.boot(cluster.images), cluster.workers.values())
            yield cluster

    @property
    def images(self) -> list[Image]:
        """What nodes have without pulling it."""
        return [workload(), agent(IMAGE), agent(NEXT_IMAGE)]

    def install(self) -> None:
        """Install the project with kustomize."""
        self.follow("3b. With kustomize", INSTALL, FOLDER=str(self._installation), **DEFINITIONS)

    def next_installation(self) -> dict[str, str]:
        """Name the next image in the copy, bring in what was patched; return what pages call all of it."""
        renew(self._installation, NEXT_IMAGE, self.admin.get(RACKS).granted()["items"])
        return {"FOLDER": str(self._installation), **DEFINITIONS}

    def exported(self, node: str) -> str:
        """Return what the agent on a node exports, as an audit asks for it from outside."""
        path = f"{program('kubectl').parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "KUBECONFIG": str(self._kubeconfig)}
        return self.lab.node(CONTROL).run([DEPLOY / "audit/routed-export", node], env=environment).stdout

    def uninstall(self, nodes: Iterable[str]) -> None:
        """Remove the project, and what remains of it on these nodes."""
        self.follow("Uninstall", INSTALL, FOLDER=str(self._installation), **DEFINITIONS)
        for name in nodes:
            self._type_on(name, script(INSTALL, "Uninstall").replace("/opt/cni/bin", str(PLUGINS)))

    def kubectl(self, *words: str) -> str:
        """Return what kubectl prints; CommandError."""
        command = [str(program("kubectl")), f"--kubeconfig={self._kubeconfig}", *words]
        return self.lab.node(CONTROL).run(command, timeout=_PATIENCE_S).stdout

    def follow(self, heading: str, page: Path = OPERATIONS, **names: str) -> list[str]:
        """Do what a section of a page says, its words in capitals replaced; return what every command printed."""
        printed = []
        for prompt, command in commands(page, heading):
            line = re.sub("|".join(names), lambda found: names[found[0]], command) if names else command
            with self._explained():
                printed.append(self._type(line) if prompt == HERE else self._type_on(names[prompt], line))
        return printed

    def _type(self, line: str) -> str:
        name, *words = line.split()
        if name == "kubectl":
            return self.kubectl(*words)
        assert name == "routed", line
        return self.lab.node(CONTROL).run([ROUTED, *words]).stdout

    def _type_on(self, machine: str, lines: str) -> str:
        return self.lab.node(machine).run(["sh", "-ec", lines]).stdout

    def nodes(self) -> list[Object]:
        """Return the nodes."""
        items: list[Object] = self.admin.get(NODES).granted()["items"]
        return items

    def pods(self, label: str, node: str | None = None) -> list[Object]:
        """Return the pods of a label, of one node if that is named, that are not about to go."""
        items = self.admin.get(f"{PODS}?labelSelector={label}").granted()["items"]
        return [
            pod
            for pod in items
            if node in {None, pod["spec"].get("nodeName")} and "deletionTimestamp" not in pod["metadata"]
        ]

    def pod(self, name: str) -> Object:
        """Return a pod by its name."""
        return self.admin.get(f"/api/v1/namespaces/default/pods/{name}").granted()

    def all_ready(self, label: str, number: int) -> bool:
        """Tell whether there are just so many pods of a label, and all are ready."""
        pods = self.pods(label)
        return len(pods) == number and all(map(ready, pods))

    def told(self, name: str, pattern: str) -> bool:
        """Tell whether there is an event about an object, whose name begins so, with such a message."""
        events = self.admin.get("/api/v1/events").granted()["items"]
        return any(
            one["involvedObject"]["name"].startswith(name) and re.search(pattern, one.get("message", ""))
            for one in events
        )

    def addresses(self, node: str) -> dict[str, str]:
        """Return the addresses that a node leases, and the name of the pod that uses each, as kubectl shows them."""
        rows = self.admin.table(ADDRESSES, wide=True)
        return {row["Address"]: row["Pod"] or "" for row in rows if row["Node"] == node}

    def never_used(self, node: str) -> list[str]:
        """Return the IPv4 addresses that a node leases and no pod has ever had: the others may have to cool down."""
        items = self.admin.get(ADDRESSES).granted()["items"]
        found = [one["spec"]["address"] for one in items if one["spec"]["node"] == node and "status" not in one]
        return [address for address in found if "." in address]

    def pools(self, name: str) -> set[str]:
        """Return the prefixes that a server's agent hands out addresses of; nothing while it does not answer."""
        with contextlib.suppress(OSError, HTTPException):
            return {row["pool"] for row in self.servers[name].look("leases")}
        return set()

    def at_rest(self, name: str) -> bool:
        """Tell whether a server's agent serves, speaks to both ToRs and has made all of its attachments."""
        server = self.servers[name]
        if not Agent(server.node, 1).ready():  # its process id is its container's business
            return False
        with contextlib.suppress(OSError, HTTPException):
            return server.speaks() and {row["state"] for row in server.look("attachments")} == {"ready"}
        return False

    def address_of_service(self, name: str) -> str:
        """Return the ClusterIP."""
        return str(self.admin.get(f"/api/v1/namespaces/default/services/{name}").granted()["spec"]["clusterIP"])

    def sandbox(self, pod: Object) -> Sandbox:
        """Return what the runtime knows of a pod that runs."""
        return self.workers[pod["spec"]["nodeName"]].sandbox(pod["metadata"]["name"])

    def place(self, pod: Object) -> Place:
        """Return a pod that runs as an end of traffic."""
        found = self.sandbox(pod)
        node = self.lab.node(pod["spec"]["nodeName"])
        return Place(pod["metadata"]["name"], node.path(found.netns), found.addresses)

    def await_routes(self) -> None:
        """Wait until each ToR has the host routes of the pods below it that users see, and no others."""
        for name, server in self.servers.items():
            try:
                for tor in server.tors:
                    self.eventually(
                        lambda name=name, server=server, tor=tor: server.announced(tor) == self._routes(name),
                        f"the routes of {name} on {tor}",
                    )
            except AssertionError as error:
                said = testimony(self._residents(name), self.workers[name], server)
                raise AssertionError(f"{error}\n{said}") from None

    def _residents(self, node: str) -> list[Object]:
        """Return a node's pods with addresses of their own, those that are about to go included."""
        pods = self.admin.get(f"{PODS}?fieldSelector=spec.nodeName={node}").granted()["items"]
        return [pod for pod in pods if "hostNetwork" not in pod["spec"]]

    def _routes(self, node: str) -> set[str]:
        addresses = [each["ip"] for pod in self._residents(node) for each in pod["status"].get("podIPs", ())]
        return {str(ip_network(address)) for address in addresses}

    def eventually(self, condition: Callable[[], Any], what: str, timeout_s: float = _PATIENCE_S) -> Any:
        """Poll until the condition is true and return what it gave; fail with what kubectl shows otherwise."""
        with self._explained():
            return eventually(condition, what, timeout_s)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Add what kubectl shows to a failure."""
        try:
            yield
        except (AssertionError, subprocess.TimeoutExpired) as error:
            shown = self.kubectl("get", "nodes,pods,events", "--all-namespaces", "--output=wide")
            logs = self.kubectl("logs", "--namespace=routed", f"--selector={AGENTS}", "--prefix", "--tail=15")
            raise AssertionError(f"{error}\n{shown[-8000:]}\n{logs}") from None


def ready(one: Object) -> bool:
    """Tell whether a node or a pod is ready."""
    conditions = one.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

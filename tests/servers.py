"""Servers of the lab with an agent on them, as those see them who live with it.

`Server` is what a kubelet does (namespaces, CNI calls through the shim) and what an operator looks at; `RouteWatch` and
`Sniffer` are how the network team would look: at the ToRs' kernels and at the frames on a port.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import struct
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from itertools import count
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest

from containerlab.agents import Agent
from containerlab.driver import CniError, Plugin, Result
from containerlab.lab import Lab
from containerlab.netns import socket_in
from containerlab.probe import Place, Report
from routed.settings import Settings, load
from tests.fabric import TORS, eventually

RACK = Path("/etc/routed/rack.yaml")
COPY = Path("/run/another-rack.yaml")
CONTROL = Path("/run/routed/control.sock")
QUEUE = Path("/var/lib/routed/queue")
NETNS = Path("/run/netns")
CONF = {"cniVersion": "1.1.0", "name": "routed", "type": "routed"}
NO_STEERING = {'steering: {community: "65000:911", hold_s: 3, longest_hold_s: 6, probe_s: 0.2}': "steering: null"}
"""The change of a lab's rack file with which an agent neither watches nor steers."""
AT_ONCE = 30
"""Calls at the same time; each is a process."""
T = TypeVar("T")
R = TypeVar("R")
_NUMBERS = count()


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that was attached."""

    id: str
    server: str
    netns: Path
    """As the server counts."""
    result: Result
    place: Place

    @property
    def prefixes(self) -> set[str]:
        """Its host routes."""
        return {str(ip_network(address)) for address in self.place.addresses}

    def address(self, version: int) -> str:
        return str(self.place.address(version))

    @property
    def mac(self) -> str:
        return str(self.result.raw["interfaces"][1]["mac"])

    @property
    def port(self) -> str:
        """Name of its port on the bridge."""
        return str(self.result.raw["interfaces"][0]["name"])


@dataclass(frozen=True, slots=True)
class Residents:
    """Pods that are there throughout a module."""

    one: Pod
    two: Pod
    """On the same server."""
    rack: Pod
    """On the other server of the rack."""
    far: Pod
    """In the other rack."""

    @property
    def all(self) -> list[Pod]:
        return [self.one, self.two, self.rack, self.far]


class Server:
    """A server, its agent and its pods."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab, self.name = lab, name
        self.node = lab.node(name)
        self.tors = TORS[name]
        self.rack: Settings = load(self.node.path(RACK))
        enter = ("nsenter", "-t", str(self.node.pid), "--mount", "--uts", "--ipc", "--net", "--pid")
        self.plugin = Plugin(self.node.plugin, CONF, prefix=enter)
        self.pods: dict[str, Pod] = {}
        """Those that were added and not deleted through this object."""

    # ---- the agent

    def start(self, config: Path = RACK) -> None:
        """Start the agent, wait until it serves and speaks to both ToRs."""
        self.config = config
        self.agent = Agent.start(self.node, env={"ROUTED_CONFIG": str(config)})
        self.agent.wait_ready()
        eventually(self.speaks, f"the sessions of {self.name}")

    def copy_of_rack_file(self, changes: dict[str, str]) -> Path:
        """Write a copy of the rack file, text for text replaced; returns where, as the server counts."""
        text = self.node.path(RACK).read_text()
        for old, new in changes.items():
            assert old in text, f"the rack file does not say {old!r}"
            text = text.replace(old, new)
        self.node.path(COPY).write_text(text)
        return COPY

    @contextlib.contextmanager
    def configured(self, changes: dict[str, str]) -> Iterator[None]:
        """Let the agent run with a changed copy of the rack file; then with its own again."""
        copy = self.copy_of_rack_file(changes)
        self.agent.stop()
        try:
            self.start(copy)
            yield
        finally:
            if self.agent.alive():
                self.agent.stop()
            self.start()

    def look(self, page: str) -> list[dict[str, Any]]:
        """Return a page of `routed show`, straight from the agent."""
        connection = http.client.HTTPConnection("agent")
        with socket.socket(socket.AF_UNIX) as connection.sock:
            connection.sock.settimeout(10)
            connection.sock.connect(str(self.node.path(CONTROL)))
            connection.request("GET", f"/{page}")
            rows: list[dict[str, Any]] = json.loads(connection.getresponse().read())
        return rows

    def attachments(self) -> dict[str, dict[str, Any]]:
        """Return the agent's attachments by container id."""
        return {row["container"]: row for row in self.look("attachments")}

    def at_rest(self) -> bool:
        """Tell whether the agent serves, trusts both sides of its rack, and has made all of its attachments."""
        states = {row["state"] for row in self.look("attachments")}
        trusts = self.healths() <= {"good"} and self.hears_defaults()
        return self.agent.ready() and self.speaks() and states <= {"ready"} and trusts

    def hears_defaults(self) -> bool:
        """Tell whether both ToRs give the same default routes; they begin up to a second after their sessions."""
        given = {tuple(row["defaults"]) for row in self.look("neighbors")}
        return len(given) == 1 and given != {()}

    def healths(self) -> set[str]:
        """Return what the agent thinks of the sides of its rack; nothing without steering."""
        return {row["side"] for row in self.look("neighbors")} - {"not watched"}

    def speaks(self) -> bool:
        """Tell whether both sessions are up."""
        return [row["state"] for row in self.look("neighbors")] == ["established", "established"]

    def sessions(self) -> dict[str, int]:
        """Return how often each ToR has seen the session with this server come up."""
        return {tor: self.neighbor(tor)["connectionsEstablished"] for tor in self.tors}

    def neighbor(self, tor: str) -> dict[str, Any]:
        """Return what a ToR says of its session with this server."""
        address = str(self.rack.servers[self.name].addresses[0])
        found: dict[str, Any] = self.lab.vtysh_json(tor, f"show bgp neighbors {address}")[address]
        return found

    # ---- what a kubelet does

    def netns(self, number: int = 1) -> list[Path]:
        """Make network namespaces."""
        names = [f"pod-{next(_NUMBERS)}" for _ in range(number)]
        self.node.run(["ip", "-batch", "-"], input="\n".join(f"netns add {name}" for name in names))
        return [NETNS / name for name in names]

    def remove_netns(self, paths: Iterable[Path]) -> None:
        """Remove network namespaces, and what is in them."""
        self.node.run(["ip", "-batch", "-"], input="\n".join(f"netns delete {path.name}" for path in paths))

    def attach(self, netns: Path) -> Pod:
        """ADD; CniError."""
        container = f"{self.name}-{netns.name}"
        args = {"K8S_POD_NAMESPACE": "test", "K8S_POD_NAME": netns.name, "K8S_POD_UID": f"uid-{netns.name}"}
        result = self.plugin.add(container, netns, args=args)
        addresses = tuple(address.ip for address in result.addresses)
        place = Place(f"{netns.name} on {self.name}", self.node.path(netns), addresses)
        self.pods[container] = Pod(container, self.name, netns, result, place)
        return self.pods[container]

    def add(self, number: int) -> list[Pod]:
        """Start pods, all at once; CniError."""
        return each(self.attach, self.netns(number))

    def detach(self, pod: Pod) -> None:
        """DEL, as a runtime does while the pod's namespace is there; CniError."""
        self.plugin.after(pod.result).delete(pod.id, pod.netns)
        self.pods.pop(pod.id, None)

    def delete(self, pods: Sequence[Pod]) -> None:
        """End pods, all at once; CniError."""
        each(self.detach, pods)
        self.remove_netns(pod.netns for pod in pods)

    def check(self, pod: Pod) -> None:
        """CHECK; CniError."""
        self.plugin.after(pod.result).check(pod.id, pod.netns)

    def healthy(self, pod: Pod) -> bool:
        """Tell whether CHECK finds nothing."""
        try:
            self.check(pod)
        except CniError:
            return False
        return True

    def clean_up(self, keep: Container[str] = ()) -> None:
        """End all pods, and what a failed test left of them, but those with these ids."""
        gone = [self.pods.pop(key) for key in list(self.pods) if key not in keep]
        each(lambda pod: self.plugin.delete(pod.id, None), gone)
        used = {pod.netns.name for pod in self.pods.values()}
        left = {path.name for path in self.node.path(NETNS).glob("pod-*")} - used
        if left:
            self.remove_netns(NETNS / name for name in left)

    # ---- what befalls a server

    def kill_daemon(self, daemon: str) -> None:
        """Kill one of Open vSwitch's daemons and wait until it is gone: its successor needs what it holds."""
        process = Path(f"/proc/{self.node.daemon_pid(daemon)}")
        self.node.kill_daemon(daemon)
        eventually(lambda: not process.exists(), f"the end of {daemon}")

    # ---- what an operator sees

    @property
    def place(self) -> Place:
        """The server itself, as an end of traffic."""
        return Place(self.name, self.node.netns_path, self.rack.servers[self.name].addresses)

    def inside(self, pod: Pod, *command: str) -> str:
        """Run a command in a pod's namespace."""
        return self.node.run(["nsenter", f"--net={pod.netns}", *command]).stdout

    def all_flows(self) -> list[str]:
        """Return the flows and groups on the bridge, as Open vSwitch prints them."""
        lines = []
        for what in ("dump-flows", "dump-groups"):
            dump = self.node.run(["ovs-ofctl", "-O", "OpenFlow14", "--no-stats", "--no-names", what, "br0"]).stdout
            lines += [line.strip() for line in dump.splitlines() if "=" in line and "reply" not in line]
        return lines

    def flows(self) -> list[str]:
        """Return the pods' flows on the bridge; without the host's own."""
        return [line for line in self.all_flows() if re.match(r"cookie=0x56520001(?!00000000)", line)]

    def ports(self) -> set[str]:
        """Return the slots that are plugged into the bridge."""
        listed = self.node.run(["ovs-vsctl", "list-ports", "br0"]).stdout.split()
        return {port for port in listed if port.startswith("rt")}

    def devices(self, netns: Path | None = None) -> set[str]:
        """Return the names of the server's devices, or of a pod's."""
        there = [] if netns is None else ["nsenter", f"--net={netns}"]
        return {link["ifname"] for link in json.loads(self.node.run([*there, "ip", "-j", "link"]).stdout)}

    def leases(self, state: str) -> int:
        """Return how many IPv4 addresses are in a state: used, cooling, free."""
        return sum(row[state] for row in self.look("leases") if "." in row["pool"])

    def announced(self, tor: str) -> set[str]:
        """Return the host routes that a ToR's kernel has towards this server."""
        hops = {str(address) for address in self.rack.servers[self.name].addresses}
        return {prefix for prefix, route in self.lab.kernel_routes(tor).items() if route.get("gateway") in hops}

    def await_routes(self, pods: Iterable[Pod]) -> None:
        """Wait until both ToRs' kernels have the host routes of these pods of this server, and no others."""
        wanted = {prefix for pod in pods for prefix in pod.prefixes}
        for tor in self.tors:
            eventually(lambda tor=tor: self.announced(tor) == wanted, f"{self.name}'s {len(wanted)} routes on {tor}")

    def await_last_word(self) -> None:
        """Wait until the agent has told both ToRs, in this session, that it has told them everything (End-of-RIB)."""
        for tor in self.tors:
            eventually(lambda tor=tor: self._heard_all(tor), f"{tor} having heard all of {self.name}")

    def _heard_all(self, tor: str) -> bool:
        heard = self.neighbor(tor).get("gracefulRestartInfo", {}).get("endOfRibRecv", {})
        return set(heard.values()) == {True}


class RouteWatch:
    """Notes every route that a node's kernel deletes. The kernel queues its messages, so none is missed."""

    _HEADER = struct.Struct("=IHHII")
    _GROUPS = 0x40 | 0x400  # IPv4 and IPv6 routes (rtnetlink(7))
    _DELETED = 25
    _DESTINATION = 1
    SO_RCVBUFFORCE = 33

    def __init__(self, lab: Lab, node: str) -> None:
        self._socket = socket_in(lab.node(node).netns_path, socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, self.SO_RCVBUFFORCE, 4 << 20)
        self._socket.bind((0, self._GROUPS))
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def deleted(self) -> list[str]:
        """Return what was deleted since the last call."""
        found: list[str] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found += self._parse(self._socket.recv(1 << 16))
        return found

    def _parse(self, data: bytes) -> Iterator[str]:
        while len(data) >= self._HEADER.size:
            length, kind, *_ = self._HEADER.unpack_from(data)
            if kind == self._DELETED:
                prefix_length = data[17]
                attributes = data[28:length]
                while attributes:
                    size, name = struct.unpack_from("=HH", attributes)
                    if name == self._DESTINATION:
                        yield f"{ip_address(attributes[4:size])}/{prefix_length}"
                    attributes = attributes[(size + 3) & ~3 :]
            data = data[(length + 3) & ~3 :]


class Sniffer:
    """Sees the frames that arrive at a device; frames that it sends itself do not count.

    All of them, before traffic control; or those of one ethertype that it lets on to the stack.
    """

    _ALL = 3
    """ETH_P_ALL, packet(7)."""
    _OUTGOING = 4

    def __init__(self, name: str, netns: str | Path, device: str, kind: int = _ALL) -> None:
        self.name = name
        self._socket = socket_in(netns, socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.bind((device, kind))
        self._socket.setblocking(False)
        self._seen: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def seen(self, mark: bytes) -> int:
        """Return how many frames with these bytes in them have arrived."""
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (_device, _protocol, kind, *_) = self._socket.recvfrom(1 << 16)
                if kind != self._OUTGOING:
                    self._seen.append(frame)
        return sum(mark in frame for frame in self._seen)

    def send(self, frame: bytes) -> None:
        """Send a frame out of the device."""
        self._socket.send(frame)


def each(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Do the same with everything at the same time; raises the first failure, after all of it."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [done.result() for done in [pool.submit(work, item) for item in items]]


def failure(call: Callable[..., Any], *arguments: Any) -> CniError:
    """Return the error that a call ends with."""
    with pytest.raises(CniError) as caught:
        call(*arguments)
    return caught.value


def losses(reports: Iterable[Report]) -> list[str]:
    """Return the flows that lost packets; they must have sent some."""
    reports = list(reports)
    assert all(report.sent for report in reports)
    return [str(report) for report in reports if report.lost]


def with_version(plugin: Plugin, number: str) -> Plugin:
    """Return the plugin as it is called with another version of the CNI specification."""
    return replace(plugin, conf={**plugin.conf, "cniVersion": number})

"""Where the matrix plays: the lab of two racks, agents on three servers, pods at both ends of every direction.

Owns the pods that carry the traffic. Knows when everything is as it was before an event; what befalls it is in `deeds`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from containerlab.lab import Lab
from containerlab.probe import Flow
from tests.fabric import eventually
from tests.lab.matrix.traffic import FABRIC, RATE_HZ, Traffic, between
from tests.servers import Pod, Server, each

SERVERS = ("s11", "s12", "s21")
MEMBERS = ("etha", "ethb")
PODS = 4
"""On each server; the flows of a direction go between pairs of them."""
REST_S = 120


class Site:
    """The tested server s11, its neighbour s12 with the bystanders, and s21 in the other rack."""

    def __init__(self, lab: Lab, servers: Mapping[str, Server]) -> None:
        """The agents run already; nobody else uses the pods made here."""
        self.lab, self.servers = lab, servers
        self.rate_hz: float = RATE_HZ
        """Packets of every flow in a second."""
        self.traffic: Traffic | None = None
        """Of the step that is being measured."""
        self.tested, self.neighbour, self.remote = (servers[name] for name in SERVERS)
        self.pods = {name: server.add(PODS) for name, server in servers.items() if name in SERVERS}
        """Those that are there throughout, by server."""

    @classmethod
    def build(cls, lab: Lab) -> Site:
        """Start the agents, then their pods."""
        servers = {name: Server(lab, name) for name in SERVERS}
        each(Server.start, servers.values())
        return cls(lab, servers)

    def directions(self, tested: Sequence[Pod] | None = None) -> dict[str, list[Flow]]:
        """Return the flows of every direction, with these pods as the tested ones."""
        ours, near, far = (
            [pod.place for pod in pods] for pods in (tested or self.pods["s11"], self.pods["s12"], self.pods["s21"])
        )
        host = [self.tested.place]
        return {
            "in": between(far, ours),
            "out": between(ours, far),
            "rack_in": between(near, ours),
            "rack_out": between(ours, near),
            "bystander": between(far, near),
            FABRIC: [*between(far, host, 2), *between(near, host, 2)],
        }

    def rest(self) -> None:
        """Wait until nothing is left of an earlier event; AssertionError or LabError says what is."""
        self.lab.wait_ready(REST_S)
        for name, server in self.servers.items():
            eventually(server.at_rest, f"{name} at rest", REST_S)
            server.await_routes(server.pods.values())

    def members(self) -> dict[str, dict[str, int]]:
        """Return how many packets each member of the tested server's bond has received and sent."""
        return {
            member: {
                way: int(self.tested.node.path(f"/sys/class/net/{member}/statistics/{way}_packets").read_text().strip())
                for way in ("rx", "tx")
            }
            for member in MEMBERS
        }

    def clean_up(self) -> None:
        """End the pods."""
        for server in self.servers.values():
            if not server.agent.alive():
                server.start()
            server.clean_up()

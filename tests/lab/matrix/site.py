"""Where the matrix plays: the lab of two racks, agents on three servers, pods at both ends of every direction.

Owns the pods that carry the traffic. Knows when everything is as it was before an event; what befalls it is in `deeds`.
"""

from __future__ import annotations

from collections.abc import Mapping

from containerlab.lab import Lab
from containerlab.probe import Flow
from tests.fabric import eventually
from tests.lab.matrix.traffic import FABRIC, Traffic, between
from tests.servers import Pod, Server, each

SERVERS = ("s11", "s12", "s21")
MEMBERS = ("etha", "ethb")
REST_S = 120
GOOD = {"good", "not watched"}


class Site:
    """The tested server s11, its neighbour s12 with the bystander, and s21 in the other rack."""

    def __init__(self, lab: Lab, servers: Mapping[str, Server]) -> None:
        """The agents run already; nobody else uses the pods made here."""
        self.lab, self.servers = lab, servers
        self.traffic: Traffic | None = None
        """Of the step that is being measured."""
        self.tested, self.neighbour, self.remote = (servers[name] for name in SERVERS)
        [self.one] = self.tested.add(1)
        self.rack, self.bystander = self.neighbour.add(2)
        self.far, self.witness = self.remote.add(2)

    @classmethod
    def build(cls, lab: Lab) -> Site:
        """Start the agents, then their pods."""
        servers = {name: Server(lab, name) for name in SERVERS}
        each(Server.start, servers.values())
        return cls(lab, servers)

    @property
    def pods(self) -> dict[str, list[Pod]]:
        """The pods that are there throughout, by server."""
        return {"s11": [self.one], "s12": [self.rack, self.bystander], "s21": [self.far, self.witness]}

    def directions(self, tested: Pod | None = None) -> dict[str, list[Flow]]:
        """Return the flows of every direction, with this pod as the tested one."""
        pod, rack, far, host = (tested or self.one).place, self.rack.place, self.far.place, self.tested.place
        return {
            "in": between(far, pod),
            "out": between(pod, far),
            "rack_in": between(rack, pod),
            "rack_out": between(pod, rack),
            "bystander": between(self.witness.place, self.bystander.place),
            FABRIC: between(far, host)[::2] + between(rack, host)[::2],
        }

    def rest(self) -> None:
        """Wait until nothing is left of an earlier event; AssertionError or LabError says what is."""
        self.lab.wait_ready(REST_S)
        for server in self.servers.values():
            if any(row.get("side", "good") not in GOOD for row in server.look("neighbors")):
                # Nothing is wrong any more, but a side that failed is trusted later each time. A new agent has no past.
                server.agent.stop()
                server.start()
        for name, server in self.servers.items():
            eventually(server.at_rest, f"{name} at rest", REST_S)
            server.await_routes(server.pods.values())

    def members(self) -> dict[str, dict[str, int]]:
        """Return how many packets each member of the tested server's bond has received and sent."""
        return {
            member: {
                way: int(
                    self.tested.node.path(f"/sys/class/net/{member}/statistics/{way}_packets").read_text().strip()
                )
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

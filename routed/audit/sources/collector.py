"""Any switch that speaks BGP: peers with it for as long as it takes to hear its routes. It is told nothing.

The switch has this host as a passive neighbour *of its own AS*: only to those it passes next hops and AS paths on as
they are. It tells best paths and no more: whether they are in its forwarding table, stale, or how old, stays open.
IPv6 routes want a session over IPv6; over IPv4, FRR replaces their next hops by its own address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from bgp.collect import Received, collect
from bgp.config import read_password
from bgp.errors import BgpError
from bgp.model import Neighbor, SpeakerConfig
from ipam.model import IPAddress, IPNetwork
from routed.audit.model import Route, Shell, SwitchView
from routed.audit.sources import CouldNotObserve


@dataclass(frozen=True, slots=True)
class Collector:
    """One switch, asked over BGP."""

    name: str
    asn: int
    """The switch's, and ours."""
    sessions: tuple[tuple[IPAddress, IPAddress], ...]
    """The switch's address and ours; each IP version's routes come over a session of that version where there is one,
    else over the only one."""
    password_file: Path | None
    timeout_s: float

    async def observe(self) -> SwitchView:
        """Return its best paths; CouldNotObserve unless it has sent all of them."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._routes(*session)) for session in self.sessions]
        except* (BgpError, CouldNotObserve) as errors:
            raise CouldNotObserve(f"BGP session with {self.name}: {errors.exceptions[0]}") from errors
        routes = tuple(route for task in tasks for route in task.result())
        return SwitchView(self.name, routes, Shell.OTHER)

    async def _routes(self, switch: IPAddress, local: IPAddress) -> tuple[Route, ...]:
        versions = frozenset({4, 6}) if len(self.sessions) == 1 else frozenset({switch.version})
        password = None if self.password_file is None else read_password(self.password_file)
        speaker = SpeakerConfig(
            local_as=self.asn,
            router_id=IPv4Address(int(local) & 0xFFFF_FFFF),
            local_address=local,
            neighbors=(Neighbor(switch, self.asn, self.name, password),),
            listen_port=None,
        )
        received = await collect(speaker, versions, timeout_s=self.timeout_s)
        return tuple(self._translated(received, versions))

    def _translated(self, received: Mapping[IPNetwork, Received], versions: frozenset[int]) -> Iterator[Route]:
        for prefix, path in received.items():
            if prefix.version not in versions:
                continue
            own = not path.as_path
            for hop in path.next_hops:
                if not own and isinstance(hop, IPv6Address) and hop.ipv4_mapped is not None:
                    raise CouldNotObserve(f"it replaces IPv6 next hops by {hop}: add a session over IPv6")
            hops = () if own else path.next_hops
            yield Route(prefix, hops, path.as_path, path.communities)

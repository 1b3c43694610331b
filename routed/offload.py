"""Proves where a pod's packets are forwarded: sends some from the pod itself and looks which counters move.

The pod asks its gateway, which is on the ToR, for an echo (RFC 792, RFC 4443): out by the pod's flow, back by the one
to it. The pod's other traffic counts as well; it is forwarded by the same rules. Changes nothing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from icmplib import ICMPLibError, ping

from ovs_flows.offload import Layer, Megaflow, PortReport, Tally, report, since
from routed.attach.netns import enter, open_netns
from routed.domain.workload import IPAddress
from routed.threads import apart

ROUNDS = 20
INTERVAL_S = 0.02
PATIENCE_S = 3.0
"""NICs' drivers read their counters once a second."""
_LOOK_S = 0.2
_ANSWER_S = 1.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a probe showed."""

    sent: int
    answered: int
    report: PortReport
    """Of the packets that were forwarded meanwhile."""

    @property
    def proven(self) -> bool:
        """Whether every probe was answered, and probes and answers were forwarded by the NIC and nothing else."""
        ways = (self.report.sent, self.report.received)
        seen = (way.get(Layer.HARDWARE, Tally()).packets for way in ways)
        return self.answered == self.sent <= min(seen) and self.report.layer is Layer.HARDWARE


async def verify(
    netns: str, gateways: Sequence[IPAddress], port: str, look: Callable[[], Awaitable[Sequence[Megaflow]]]
) -> Verdict:
    """Send echo requests to these gateways from a pod's namespace and return what carried them.

    Raises AttachError when the pod cannot be entered, OSError when nothing can be sent from it, and what `look` raises.
    """
    # A megaflow is made of its first packets, which are forwarded in software.
    await apart(lambda: _echo(netns, gateways, rounds=2))
    before = await look()
    answered = await apart(lambda: _echo(netns, gateways, rounds=ROUNDS))
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        found = report(since(before, await look()), [port])[port]
        counted = min(sum(tally.packets for tally in way.values()) for way in (found.sent, found.received))
        if counted >= answered or asyncio.get_running_loop().time() > deadline:
            return Verdict(ROUNDS * len(gateways), answered, found)
        await asyncio.sleep(_LOOK_S)


def _echo(netns: str, gateways: Sequence[IPAddress], *, rounds: int) -> int:
    """Ask each gateway so often; return the number of answers."""
    there = open_netns(netns)
    try:
        enter(there)
    finally:
        os.close(there)
    try:
        return sum(
            ping(str(gateway), count=rounds, interval=INTERVAL_S, timeout=_ANSWER_S).packets_received
            for gateway in gateways
        )
    except ICMPLibError as error:
        raise OSError(f"ask the gateway for an echo: {error}") from error

"""What a probe waits for before it judges, with real echoes in a namespace; the datapath's counters are a script."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from ipaddress import IPv4Address

import pytest

from ovs_flows.offload import Megaflow, parse
from routed.offload import ROUNDS, verify
from tests.system.ovs_instance import network_namespace

pytestmark = pytest.mark.system

GATEWAY = IPv4Address("127.0.0.1")
"""Every namespace answers for itself."""
IN_NIC, IN_TC = "offloaded:yes, dp:tc", "dp:tc"


@pytest.fixture
def netns() -> Iterator[str]:
    with network_namespace(f"verify-{os.getpid()}") as name:
        yield f"/run/netns/{name}"


def counters(sent: int, received: int, told: str = IN_NIC) -> Sequence[Megaflow]:
    """Return a dump in which a pod's two megaflows have carried this many packets."""
    ways = (("rt0", "bond0", sent), ("bond0", "rt0", received))
    return parse("\n".join(f"in_port({a}),eth(), packets:{n}, bytes:9, {told}, actions:{b}" for a, b, n in ways))


def script(*dumps: Sequence[Megaflow]) -> Callable[[], Awaitable[Sequence[Megaflow]]]:
    """Return what shows these dumps one by one, and the last one from then on."""
    left = list(dumps)

    async def look() -> Sequence[Megaflow]:
        return left.pop(0) if len(left) > 1 else left[0]

    return look


async def test_a_busy_pod_s_own_packets_do_not_stand_in_for_answers_that_are_not_counted_yet(netns: str) -> None:
    busy = script(counters(100, 100), counters(100 + 5 * ROUNDS, 100), counters(100 + 5 * ROUNDS, 100 + ROUNDS))
    verdict = await verify(netns, [GATEWAY], "rt0", busy)
    assert verdict.answered == ROUNDS
    assert verdict.proven


@pytest.mark.parametrize(
    "after",
    [counters(ROUNDS, ROUNDS, IN_TC), (*counters(ROUNDS, 0), *counters(0, ROUNDS, IN_TC))],
    ids=["software", "one way"],
)
async def test_what_the_nic_did_not_forward_is_no_proof(netns: str, after: Sequence[Megaflow]) -> None:
    verdict = await verify(netns, [GATEWAY], "rt0", script((), after))
    assert verdict.answered == ROUNDS
    assert not verdict.proven

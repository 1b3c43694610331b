"""What the flows plane makes of a switch that does not tell how a pod's meters are."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from ovs_flows import messages
from ovs_flows.cookies import cookie
from ovs_flows.errors import Refused
from ovs_flows.meters import from_pod, to_pod
from ovs_flows.model import Entry, Flow, Match, UseMeter
from ovs_flows.openflow import Flows
from tests.unit.ovs_flows.test_flow_connection import Peer, listening

UNKNOWN, OUT_OF_METERS, NO_PERMISSION = (12, 3), (12, 11), (1, 5)
METER = to_pod(1, 10**8)
POD, OTHER = cookie(1), cookie(2)
WANTED: dict[int, frozenset[Entry]] = {
    POD: frozenset({METER, Flow(30, 5, Match(), (UseMeter(METER.number),))}),
    OTHER: frozenset({from_pod(2, 10**8)}),
}


async def switch(peer: Peer, asked: tuple[int, int], made: tuple[int, int] | None, seen: list[int]) -> None:
    """Play a switch that answers so to a question for a meter, and to a meter of that pod; notes meters made."""
    await peer.greet()
    while True:
        kind, xid, body = await peer.receive()
        if kind == messages.BARRIER_REQUEST:
            peer.send(messages.BARRIER_REPLY, xid=xid)
        elif kind == messages.MULTIPART_REQUEST and body[:2] == struct.pack("!H", messages.PART_METERS):
            [number] = struct.unpack_from("!I", body, 8)
            peer.send(messages.ERROR, struct.pack("!HH", *(asked if number == METER.number else UNKNOWN)), xid)
        elif kind == messages.METER_MOD and body[:2] == struct.pack("!H", 0):
            [number] = struct.unpack_from("!I", body, 4)
            seen.append(number)
            if made is not None and number == METER.number:
                peer.send(messages.ERROR, struct.pack("!HH", *made), xid)


@pytest.mark.parametrize(
    ("asked", "made", "tried", "says"),
    [
        (NO_PERMISSION, None, [4], r"bad request .*type 1, code 5"),
        (UNKNOWN, OUT_OF_METERS, [1, 4], r"meter mod failed .*type 12, code 11"),
        (UNKNOWN, None, [1, 4], None),
    ],
    ids=["does not tell", "has no room", "negative-control"],
)
async def test_only_a_meter_that_is_unknown_is_made(
    tmp_path: Path, asked: tuple[int, int], made: tuple[int, int] | None, tried: list[int], says: str | None
) -> None:
    seen: list[int] = []
    connected = asyncio.Event()
    async with asyncio.timeout(10), listening(tmp_path) as (path, accepted):
        flows = Flows(path, connected.set)
        running = asyncio.create_task(flows.run())
        peer = await accepted.get()
        serving = asyncio.create_task(switch(peer, asked, made, seen))
        try:
            await connected.wait()
            failed = await flows.upsert(WANTED)
        finally:
            for task in (running, serving):
                task.cancel()
            await asyncio.wait((running, serving))
            peer.writer.close()
    assert sorted(seen) == tried, "the other pod's in any case"
    assert failed.keys() == (set() if says is None else {POD})
    if says is not None:
        with pytest.raises(Refused, match=says):
            raise failed[POD]

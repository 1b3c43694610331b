"""What Open vSwitch says of itself and of our bridge, right or wrong, against a real database and switch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from ovs_flows.errors import Unreachable
from ovs_flows.ovsdb import Ovsdb
from ovs_flows.rows import version
from ovs_flows.sight import InterfaceSight, SwitchSight, look, software
from routed.datapath import OvsDatapath
from routed.settings import validated
from tests.system.ovs_instance import Ovs, run

pytestmark = pytest.mark.system


@contextlib.asynccontextmanager
async def connected(ovs: Ovs) -> AsyncIterator[Ovsdb]:
    woken = asyncio.Event()
    ovsdb = Ovsdb(ovs.database, "br0", "bond0", woken.set)
    task = asyncio.create_task(ovsdb.run())
    try:
        async with asyncio.timeout(10):
            await woken.wait()
        yield ovsdb
    finally:
        task.cancel()
        await asyncio.wait([task])


async def sight(ovs: Ovs) -> SwitchSight:
    async with connected(ovs) as ovsdb:
        return await look(ovsdb)


async def test_a_switch_without_our_bridge(ovs: Ovs) -> None:
    ovs.add_bridge("theirs")
    assert await sight(ovs) == SwitchSight(("theirs",), None)


async def test_a_bridge_that_nobody_has_taken_over(ovs: Ovs) -> None:
    ovs.add_bridge("br0")
    ovs.add_veth("br0", "up0", 7)
    ovs.vsctl("--no-wait", "add-port", "br0", "ghost0")
    ovs.vsctl("--no-wait", "set-controller", "br0", "tcp:127.0.0.1:1")
    bridge = (await sight(ovs)).bridge
    assert bridge is not None
    assert (bridge.fail_mode, bridge.owner, bridge.controllers) == ("standalone", "", ("tcp:127.0.0.1:1",))
    assert bridge.ports["up0"].interfaces == (InterfaceSight("up0", 7, "", lacp_current=None),)
    (ghost,) = bridge.ports["ghost0"].interfaces
    assert ghost.ofport == 0
    assert "ghost0" in ghost.error


async def test_a_bond_without_a_partner(ovs: Ovs) -> None:
    ovs.add_bridge("br0", "fail_mode=secure", "external_ids:owner=routed")
    for name in ("upa", "upb"):
        ovs.make_veth(name)
    ovs.vsctl("add-bond", "br0", "bond0", "upb", "upa", "lacp=active")
    async with connected(ovs) as ovsdb, asyncio.timeout(20):
        while (bridge := (await look(ovsdb)).bridge) is None or any(
            one.lacp_current
            for one in bridge.ports["bond0"].interfaces  # for as long as a partner may be late
        ):
            await asyncio.sleep(0.1)
    assert (bridge.fail_mode, bridge.owner) == ("secure", "routed")
    assert bridge.ports["bond0"].lacp
    assert [one.lacp_current for one in bridge.ports["bond0"].interfaces] == [False, False]
    assert [one.name for one in bridge.ports["bond0"].interfaces] == ["upa", "upb"]


async def test_the_switch_names_its_version(ovs: Ovs) -> None:
    ovs.add_bridge("br0")
    assert run("ovs-vswitchd", "--version").splitlines()[0].endswith(await software(ovs.management("br0")))
    assert version(await software(ovs.management("br0"))) >= (3, 1)


async def test_a_switch_that_is_gone_names_none(ovs: Ovs) -> None:
    with pytest.raises(Unreachable):
        await software(ovs.management("nobody"))


@pytest.mark.parametrize("legacy", [None, {"vlans": [200], "prefixes": ["10.189.26.0/24"]}], ids=["none", "flat"])
async def test_ports_of_others_are_of_the_uplink_beside_a_flat_network_alone(
    ovs: Ovs, legacy: dict[str, object] | None
) -> None:
    """Whatever is in there, every pod's flows are looked at again when it changes."""
    ovs.add_bridge("br0")
    for number, port in enumerate(("up0", "theirs"), 1):
        ovs.add_veth("br0", port, number)
    document = yaml.safe_load(Path("rack.example.yaml").read_text())
    document["paths"]["ovs"] = str(ovs.directory)
    document["bridge"] |= {"name": "br0", "uplink": "up0", "legacy": legacy}
    datapath = OvsDatapath(validated(document, "the test"), lambda *_: None)
    task = asyncio.create_task(datapath.run())
    try:
        async with asyncio.timeout(10):
            sight = await datapath.prepare()
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert [stranger.name for stranger in sight.uplink.strangers] == ([] if legacy is None else ["theirs"])

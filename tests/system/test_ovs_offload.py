"""Where packets are forwarded, asked of a real ovs-vswitchd; its datapath here is userspace, which offloads nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovs_flows.errors import Refused, Unreachable
from ovs_flows.offload import Layer, megaflows, report
from ovs_flows.unixctl import ask
from tests.system.ovs_instance import Ovs, Wire, packet_socket, until

pytestmark = pytest.mark.system

FRAME = bytes.fromhex("020000000002 020000000001 88b5") + bytes(60)


@pytest.fixture
def rundir(ovs: Ovs) -> Path:
    """The run directory, with the socket named as a distribution does."""
    pid = (ovs.directory / "ovs-vswitchd.pid").read_text().strip()
    (ovs.directory / f"ovs-vswitchd.{pid}.ctl").symlink_to(ovs.directory / "ovs-vswitchd.ctl")
    return ovs.directory


async def test_a_bridge_in_userspace_says_why_nothing_is_offloaded(ovs: Ovs, rundir: Path) -> None:
    ovs.add_bridge("br0", "fail_mode=secure")
    left = Wire(packet_socket(ovs.netns, ovs.add_veth("br0", "left", 1)))
    right = Wire(packet_socket(ovs.netns, ovs.add_veth("br0", "right", 2)))
    ovs.ofctl("add-flow", "br0", "in_port=1,actions=output:2")
    left.send(FRAME)
    assert right.hear(lambda frame: frame[:12] == FRAME[:12])
    found = report(await megaflows(rundir, "br0"), ["left", "right", "idle"])
    assert (found["left"].state, found["right"].state, found["idle"].state) == ("slow-path", "slow-path", "idle")
    assert (list(found["left"].sent), list(found["left"].received)) == ([Layer.SLOW_PATH], [])
    assert (list(found["right"].sent), list(found["right"].received)) == ([], [Layer.SLOW_PATH])
    [reason] = found["left"].reasons
    assert "userspace" in reason


async def test_each_bridge_is_looked_for_in_its_own_datapath(ovs: Ovs, rundir: Path) -> None:
    ovs.add_bridge("br0")
    assert await megaflows(rundir, "br0") == ()
    with pytest.raises(Unreachable, match="no datapath has bridge br1"):
        await megaflows(rundir, "br1")


async def test_what_the_switch_does_not_know_is_refused(rundir: Path) -> None:
    with pytest.raises(Refused, match=r'no/such: "no/such" is not a valid command'):
        await ask(rundir, "no/such")


async def test_a_switch_that_is_gone_does_not_answer(ovs: Ovs, rundir: Path, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"ovs-vswitchd\.pid"):
        await ask(tmp_path / "nowhere", "version")
    ovs.kill("ovs-vswitchd")
    until((rundir / "ovs-vswitchd.pid").exists, "the pid file of the one that was killed")
    with pytest.raises(Unreachable, match="no ovs-vswitchd answers"):
        await ask(rundir, "version")

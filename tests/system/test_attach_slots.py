"""The slots' namespace: found again, made anew, mounted again, and gone with whoever held it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from routed.attach.errors import KernelError
from routed.attach.links import Links
from routed.attach.monitor import Monitor
from routed.attach.slots import SlotSpace
from routed.attach.veth import MacvlanWay
from routed.attach.wires import Wires
from routed.domain.wiring import Link, Wire
from routed.domain.workload import AttachmentId
from tests.fixtures.pods import Pod, Pods, run, server, slot_space, unmount

pytestmark = pytest.mark.system

MAKE_AND_TELL = """
import os, sys
from pathlib import Path
from routed.attach.slots import SlotSpace
print(os.fstat(SlotSpace(Path(sys.argv[1])).netns()).st_ino, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def space(tmp_path: Path) -> Iterator[SlotSpace]:
    with slot_space(tmp_path / "run") as made:
        yield made


def number(space: SlotSpace) -> int:
    return os.fstat(space.netns()).st_ino


def devices(space: SlotSpace) -> set[str]:
    return {device["ifname"] for device in json.loads(run("nsenter", f"--net={space.path}", "ip", "-json", "link"))}


def link_of(pod: Pod) -> Link:
    return Link(
        wire="rt1",
        netns=pod.path,
        ifname="eth0",
        mac="0a:58:0a:65:00:01",
        mtu=1500,
        addresses=(),
        gateways=(),
        gateway_mac="",
    )


def test_it_is_made_when_first_asked_for_and_has_no_ipv6(space: SlotSpace) -> None:
    assert not space.path.exists()

    assert number(space) == space.path.stat().st_ino
    assert devices(space) == {"lo"}
    assert run("nsenter", f"--net={space.path}", "sysctl", "-n", "net.ipv6.conf.default.disable_ipv6").strip() == "1"


def test_the_next_process_finds_it_after_a_kill(space: SlotSpace) -> None:
    command = [sys.executable, "-c", MAKE_AND_TELL, str(space.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        made = int(first.stdout.readline())
        first.kill()

    assert number(space) == made


@pytest.mark.parametrize("what", ["a file", "the server's own", "another kind"])
def test_what_is_no_namespace_of_ours_is_replaced(space: SlotSpace, what: str) -> None:
    space.path.parent.mkdir()
    space.path.touch()
    if what != "a file":
        kind = "net" if what == "the server's own" else "uts"
        run("mount", "--bind", f"/proc/self/ns/{kind}", str(space.path))

    assert number(space) == space.path.stat().st_ino
    assert number(space) != Path("/proc/thread-self/ns/net").stat().st_ino
    assert devices(space) == {"lo"}


def test_not_being_able_to_mount_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(KernelError, match=r"make .*slots: File exists"):
        SlotSpace(tmp_path / "file" / "slots").netns()


async def test_an_unmounted_file_is_mounted_again_and_pods_keep_their_links(space: SlotSpace, tmp_path: Path) -> None:
    pods, key = Pods(tmp_path), AttachmentId("c", "eth0")
    try:
        with server():
            async with Monitor() as monitor:
                wires = Wires(lambda: None, monitor, space, userspace_datapath=False)
                await wires.upsert({"rt1": Wire(1500)})
                links, wanted = Links(MacvlanWay(space)), {key: link_of(pods.make())}
                assert await links.upsert(wanted) == {}
                unmount(space.path)

                assert await wires.observe() == {"rt1": Wire(1500)}
                assert await links.observe() == wanted
                assert devices(space) == {"lo", "rp1"}
    finally:
        pods.close()


@pytest.mark.timeout(60)
async def test_wires_are_made_anew_when_the_namespace_died_with_its_last_holder(space: SlotSpace) -> None:
    with server():
        async with Monitor() as monitor:
            woken = asyncio.Event()
            wires = Wires(woken.set, monitor, space, userspace_datapath=False)
            await wires.upsert({"rt1": Wire(1500)})
            lost = number(space)
            unmount(space.path)
            space.close()

            await woken.wait()

            assert await wires.observe() == {}
            assert await wires.upsert({"rt1": Wire(1500)}) == {}
            assert await wires.observe() == {"rt1": Wire(1500)}
            assert number(space) != lost

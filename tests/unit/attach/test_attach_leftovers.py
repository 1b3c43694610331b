"""Which filters of TC are an ovs-vswitchd's, and how old they are; messages as the kernel sends them."""

from __future__ import annotations

import os
import struct
import subprocess
import time
from pathlib import Path

import pytest
import structlog

from routed.attach.answers import HEADER_SIZE
from routed.attach.filters import RTM_DELTFILTER, Hook
from routed.attach.leftovers import Leftovers, lists, read
from routed.attach.packing import attribute, message, number

TCMSG = struct.Struct("=B3xiIII")
NEW_QDISC, NEW_FILTER = 36, 44
PLACE = TCMSG.pack(0, -1, 7, 2, 3 << 16 | 8)
UFID = bytes(range(16))
AGE = struct.pack("=QQQQ", 1250, 0, 0, 0)


def action(kind: bytes, cookie: bytes = UFID) -> bytes:
    return attribute(1, kind) + attribute(2, attribute(1, AGE)) + attribute(6, cookie)


def one_filter(*actions: bytes, kind: bytes = b"flower\0") -> bytes:
    numbered = [attribute(order, each) for order, each in enumerate(actions, 1)]
    options = attribute(2, attribute(3, *numbered))
    return message(NEW_FILTER, 0, PLACE, attribute(1, kind), attribute(11, number(4)), options)


def qdisc(index: int, kind: bytes, *blocks: bytes) -> bytes:
    return message(NEW_QDISC, 0, TCMSG.pack(0, index, 0, 0, 0), attribute(1, kind), *blocks)


@pytest.mark.parametrize("actions", [(action(b"mirred\0"),), (action(b"pedit\0"), action(b"gact\0"))])
def test_a_megaflow_is_as_old_as_its_last_action(actions: tuple[bytes, ...]) -> None:
    found = read(one_filter(*actions))
    assert found is not None
    assert found.age_s == 12.5
    assert found.delete().frame == message(
        RTM_DELTFILTER, 4, PLACE, attribute(1, b"flower\0"), attribute(11, number(4))
    )


@pytest.mark.parametrize(
    "body",
    [
        one_filter(action(b"mirred\0"), kind=b"bpf\0"),
        one_filter(action(b"mirred\0", cookie=b"somebody")),
        one_filter(action(b"bpf\0")),
        one_filter(),
    ],
    ids=["another classifier", "another's cookie", "another's action", "no action"],
)
def test_what_is_not_of_open_vswitch_is_left_alone(body: bytes) -> None:
    assert read(body) is None


def test_a_shared_block_is_asked_for_once_and_devices_at_each_hook() -> None:
    shared = attribute(13, number(2))
    found = lists(
        [
            qdisc(1, b"noqueue\0"),
            qdisc(3, b"ingress\0", shared),
            qdisc(4, b"ingress\0", shared),
            qdisc(5, b"ingress\0"),
            qdisc(6, b"clsact\0"),
        ]
    )
    asked = [TCMSG.unpack_from(request.frame, HEADER_SIZE) for request in found]
    places = [(index, parent) for _, index, _, parent, _ in asked]
    assert places == [(-1, 2), (5, Hook.INGRESS), (6, Hook.INGRESS), (6, Hook.EGRESS)]


def met(rundir: Path) -> Leftovers:
    """Return who has met the ovs-vswitchd of a directory, which began before."""
    leftovers = Leftovers(rundir)
    leftovers._meet()
    return leftovers


def pidfile(rundir: Path, age_s: float, pid: int = 0) -> None:
    path = rundir / "ovs-vswitchd.pid"
    path.write_text(f"{pid}\n")
    os.utime(path, (time.time() - age_s,) * 2)


def test_a_switch_out_of_sight_is_as_old_as_its_pidfile(tmp_path: Path) -> None:
    pidfile(tmp_path, 5.0)
    before = time.monotonic()
    found = met(tmp_path)
    assert before - 6.0 < found._began < before - 4.0
    assert found._is_due(before), "whenever the agent began"


def test_a_switch_that_begins_is_left_alone_until_it_has_settled(tmp_path: Path) -> None:
    pidfile(tmp_path, 60.0)
    found = met(tmp_path)
    (tmp_path / "ovs-vswitchd.pid").unlink()
    pidfile(tmp_path, 0.0)
    before = time.monotonic()
    found._meet()
    assert not found._is_due(before + 2.9)
    assert found._is_due(time.monotonic() + 3.0)


@pytest.mark.parametrize("age_s", [-3600.0, 50 * 365 * 86400.0], ids=["set back", "set forward"])
def test_a_clock_that_was_set_makes_nothing_old(tmp_path: Path, age_s: float) -> None:
    pidfile(tmp_path, age_s)
    with structlog.testing.capture_logs() as logs:
        found = met(tmp_path)
        assert found._done, "nothing is looked for"
        found._meet()
    assert [line["event"] for line in logs] == ["leftovers.undated"]
    (tmp_path / "ovs-vswitchd.pid").unlink()
    pidfile(tmp_path, age_s - 60)
    found._meet()
    assert not found._done, "the start of the next one was seen"


@pytest.mark.parametrize(("name", "is_known"), [("ovs-vswitchd", True), ("another", False)])
def test_a_switch_in_sight_is_as_old_as_its_process(tmp_path: Path, name: str, *, is_known: bool) -> None:
    program = tmp_path / name
    program.symlink_to("/bin/cat")
    before = time.monotonic()
    with subprocess.Popen([program], stdin=subprocess.PIPE) as process:
        try:
            running = time.monotonic()
            pidfile(tmp_path, -3600, process.pid)
            found = met(tmp_path)
            assert found._done is not is_known
            if is_known:
                assert before - 1.0 < found._began < running
        finally:
            process.kill()

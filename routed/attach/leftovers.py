"""Takes out of the kernel's traffic control (TC) what an ovs-vswitchd that is gone has left there.

An ovs-vswitchd that offloads gives TC a filter per megaflow, and TC outlives it. The next one, whether it offloads or
not, empties the ports that it has, but not what a bond shares with its members. It knows none of what stays there, and
packets meet that first: the filter of a pod that ends would lead to its port for ever.

Every filter of Open vSwitch carries its megaflow's number, and TC knows its age: what is older than the ovs-vswitchd
that runs is nobody's. Nothing else is touched. That daemon then makes its own flows anew, some of which TC may have
refused meanwhile.

Source: lib/tc.c and lib/netdev-offload-tc.c of Open vSwitch, linux/pkt_sched.h, linux/pkt_cls.h.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from ovs_flows.errors import OvsError
from ovs_flows.unixctl import ask
from routed.attach.answers import HEADER_SIZE, attributes
from routed.attach.errors import AttachError, NotFound
from routed.attach.filters import RTM_DELTFILTER, RTM_GETTFILTER, Hook
from routed.attach.kernel import Rtnl
from routed.attach.packing import attribute, message
from routed.attach.rtnl import NLM_F_ACK, NLM_F_DUMP, Request, list_qdiscs
from routed.threads import apart, whole

_SETTLED_S = 3.0
"""An ovs-vswitchd is left alone until it is that old: it takes what it is handed by then."""
_LOOK_S, _RETRY_S = 1.0, 10.0
_TCMSG = struct.Struct("=B3xiIII")
_BLOCK = -1
"""In place of a device's index: filters that several devices share, by the block's number (TCM_IFINDEX_MAGIC_BLOCK)."""
_TCA_KIND, _TCA_OPTIONS, _TCA_CHAIN = 1, 2, 11
_BLOCKS = {Hook.INGRESS: 13, Hook.EGRESS: 14}
"""TCA_INGRESS_BLOCK and TCA_EGRESS_BLOCK."""
_HOOKS = {b"ingress\0": (Hook.INGRESS,), b"clsact\0": (Hook.INGRESS, Hook.EGRESS)}
_FLOWER_ACTIONS = 3
_ACT_KIND, _ACT_OPTIONS, _ACT_COOKIE = 1, 2, 6
_LAST_ACTIONS = {b"mirred\0", b"gact\0"}
"""One of these ends every megaflow; both tell their times in the same place."""
_ACT_TIMES = 1
_TIMES = struct.Struct("=QQQQ")
"""struct tcf_t; the first is the time since it was made."""
_TICK_S = 0.01
"""What ages are counted in: USER_HZ."""
_DAEMON = "ovs-vswitchd"
_STARTED = 19
"""Place of a process's start in /proc/PID/stat, in ticks since the boot, after its name."""
_UFID_SIZE = 16
"""Bytes of a megaflow's number."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SwitchFilter:
    """A filter that Open vSwitch gave to TC."""

    age_s: float
    place: bytes
    """struct tcmsg: device or block, hook, priority, protocol, handle."""
    chain: bytes

    def delete(self) -> Request:
        """Take it out."""
        parts = attribute(_TCA_KIND, b"flower\0"), attribute(_TCA_CHAIN, self.chain)
        return Request(message(RTM_DELTFILTER, NLM_F_ACK, self.place, *parts), "delete a filter of Open vSwitch")


class Leftovers:
    """What TC has of an ovs-vswitchd that is gone."""

    def __init__(self, rundir: Path) -> None:
        """`rundir` is where ovs-vswitchd has its pidfile and its sockets."""
        self._rundir = rundir
        self._switch: tuple[int, int] | None = None
        """The pidfile of the ovs-vswitchd that runs: inode and time."""
        self._began = 0.0
        """When that one began at the latest, by this kernel's clock."""
        self._done = True
        self._removed = 0
        """Filters since the daemon was last told to make its flows anew."""

    async def run(self) -> None:
        """Look beside every ovs-vswitchd until nothing is left, until cancelled."""
        while True:
            wait_s = _LOOK_S
            self._meet()
            try:
                if self._is_due(time.monotonic()):
                    self._done = await self._clear()
                    wait_s = _LOOK_S if self._done else _RETRY_S
            except (AttachError, OvsError) as error:
                log.warning("leftovers.unclear", error=str(error))
                wait_s = _RETRY_S
            await asyncio.sleep(wait_s)

    def _meet(self) -> None:
        """Note which ovs-vswitchd runs, and since when; where that cannot be told, nothing is removed beside it."""
        pidfile = self._rundir / f"{_DAEMON}.pid"
        try:
            found = pidfile.stat()
        except OSError:
            return  # none runs, and who needs one says so
        switch = (found.st_ino, found.st_mtime_ns)
        if switch != self._switch:
            age_s = _age_s(pidfile, found.st_mtime) if self._switch is None else 0.0
            self._switch, self._done = switch, age_s is None
            if age_s is None:
                log.warning("leftovers.undated", error=f"the clock was set since {pidfile} was written")
            else:
                self._began = time.monotonic() - age_s

    def _is_due(self, now: float) -> bool:
        """Whether a look is owed, and may be had by now."""
        return not self._done and now - self._began >= _SETTLED_S

    async def _clear(self) -> bool:
        """Remove what is left; tell whether that was nothing."""
        old = await asyncio.to_thread(_find, self._began)
        if old or self._removed:
            await whole(self._remove(old))
        if not old:
            log.info("leftovers.none")
        return not old

    async def _remove(self, old: Iterable[SwitchFilter]) -> None:
        """Take filters out and have the daemon make its flows anew: nobody who finds none would do that."""
        await apart(self._delete, old)
        await ask(self._rundir, "revalidator/purge")
        log.info("leftovers.removed", filters=self._removed)
        self._removed = 0

    def _delete(self, filters: Iterable[SwitchFilter]) -> None:
        with Rtnl() as home:
            for one in filters:
                with suppress(NotFound):
                    home.apply(one.delete())
                    self._removed += 1


def _age_s(pidfile: Path, written: float) -> float | None:
    """Return how old the daemon of a pidfile is; None when that cannot be told.

    Where its process can be seen, which a container hides, it is the kernel's word (proc_pid_stat(5)); else that of the
    wall clock, unless it was set meanwhile by so much that it shows.
    """
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    with suppress(OSError, ValueError):
        head, _, rest = (Path("/proc") / str(int(pidfile.read_text())) / "stat").read_text().rpartition(")")
        if head.endswith(f"({_DAEMON}"):  # in a container, that number may be another's
            return now - int(rest.split()[_STARTED]) * _TICK_S
    age_s = time.time() - written
    return age_s if 0 <= age_s <= now else None


def _find(began: float) -> list[SwitchFilter]:
    """Return the filters that are older than an ovs-vswitchd, by this kernel's clock."""
    with Rtnl() as home:
        old: list[SwitchFilter] = []
        for request in lists(home.dump(list_qdiscs())):
            # Before the dump: better one of its own too many, which it makes anew, than one of the other's too few.
            age_s = time.monotonic() - began - _TICK_S
            old += (one for body in home.dump(request) if (one := read(body)) is not None and one.age_s >= age_s)
        return old


def lists(qdiscs: Iterable[bytes]) -> Iterator[Request]:
    """Yield what asks for all filters, by all of a kernel's queueing disciplines, RTM_NEWQDISC each."""
    places: set[tuple[int, int]] = set()
    for body in qdiscs:
        _, index, _, _, _ = _TCMSG.unpack_from(body, HEADER_SIZE)
        found = attributes(body, HEADER_SIZE + _TCMSG.size)
        for hook in _HOOKS.get(found.get(_TCA_KIND, b""), ()):
            shared = found.get(_BLOCKS[hook])
            places.add((index, hook) if shared is None else (_BLOCK, *struct.unpack("=I", shared)))
    for index, parent in sorted(places):
        yield Request(message(RTM_GETTFILTER, NLM_F_DUMP, _TCMSG.pack(0, index, 0, parent, 0)), "list filters")


def read(body: bytes) -> SwitchFilter | None:
    """Read an RTM_NEWTFILTER; None for one that is not Open vSwitch's."""
    found = attributes(body, HEADER_SIZE + _TCMSG.size)
    if found.get(_TCA_KIND) != b"flower\0":
        return None
    options = attributes(found.get(_TCA_OPTIONS, b""), 0)
    for _, packed in sorted(attributes(options.get(_FLOWER_ACTIONS, b""), 0).items()):
        action = attributes(packed, 0)
        times = attributes(action.get(_ACT_OPTIONS, b""), 0).get(_ACT_TIMES, b"")
        ours = action.get(_ACT_KIND) in _LAST_ACTIONS and len(action.get(_ACT_COOKIE, b"")) == _UFID_SIZE
        if ours and len(times) >= _TIMES.size:
            age, *_ = _TIMES.unpack_from(times)
            place = body[HEADER_SIZE : HEADER_SIZE + _TCMSG.size]
            return SwitchFilter(age * _TICK_S, place, found.get(_TCA_CHAIN, bytes(4)))
    return None

"""A private Open vSwitch in a network namespace of its own: own database, own daemons, own run directory.

The datapath is the userspace one (``datapath_type=netdev``), which works on any kernel. The kernel of the namespace
sees the frames of its ports too: `Ovs.add_veth` silences it, else answers come from there and tests prove nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
_CLONE_NEWNET = 0x4000_0000
_SOL_PACKET, _AUXDATA, _VLAN_VALID = 263, 8, 1 << 4
"""packet(7), linux/if_packet.h: where the kernel tells of a tag, which it takes off what it hands out."""
_AUXILIARY = struct.Struct("=IIIHHHH")


def run(*command: str) -> str:
    """Run a command to its end and return what it printed; its error output is in the exception when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def until(condition: Callable[[], object], what: str, deadline_s: float = 10.0) -> None:
    """Poll a condition until it holds; AssertionError at the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        time.sleep(0.01)


@contextlib.contextmanager
def network_namespace(name: str) -> Iterator[str]:
    """Create a named network namespace with loopback up, and delete it at the end."""
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        run("ip", "netns", "delete", name)


def packet_socket(netns: str, device: str) -> socket.socket:
    """Return a raw socket on a device of another namespace: sends and receives whole frames.

    A socket stays in the namespace where it was made, so a thread that dies at once makes it.
    """
    made: list[socket.socket] = []

    def make() -> None:
        with Path("/run/netns", netns).open(encoding="ascii") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                return
            made.append(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
            made[0].bind((device, 0))
            made[0].setsockopt(_SOL_PACKET, _AUXDATA, 1)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    assert made, f"no socket in namespace {netns}"
    made[0].settimeout(5)
    return made[0]


@dataclass
class Ovs:
    """One running Open vSwitch."""

    netns: str
    directory: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def database(self) -> Path:
        """Socket of the database server."""
        return self.directory / "db.sock"

    def management(self, bridge: str) -> Path:
        """Return the OpenFlow socket of a bridge."""
        return self.directory / f"{bridge}.mgmt"

    def start(self) -> None:
        """Start both daemons and wait until they answer."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if not (self.directory / "conf.db").exists():
            run("ovsdb-tool", "create", str(self.directory / "conf.db"), SCHEMA)
        self.start_database()
        self.vsctl("--no-wait", "init")
        self.start_switch()

    def start_database(self) -> None:
        """Start ovsdb-server and wait until it answers."""
        self._spawn("ovsdb-server", str(self.directory / "conf.db"), f"--remote=punix:{self.database}")
        until(self._listens, "database socket")

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:  # the socket is there a moment before anybody listens
            return connection.connect_ex(str(self.database)) == 0

    def start_switch(self) -> None:
        """Start ovs-vswitchd and wait until it has applied the configuration."""
        self._spawn("ovs-vswitchd", f"unix:{self.database}")
        self.vsctl("--timeout=30", "set", "Open_vSwitch", ".", f"external_ids:started={time.monotonic_ns()}")

    def kill(self, daemon: str) -> None:
        """End one daemon the hard way."""
        process = self.processes.pop(daemon)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        """End what is still running."""
        for daemon in list(self.processes):
            self.kill(daemon)

    def _spawn(self, daemon: str, *arguments: str) -> None:
        log = f"--log-file={self.directory / daemon}.log"
        pid, control = f"--pidfile={self.directory / daemon}.pid", f"--unixctl={self.directory / daemon}.ctl"
        for stale in ("pid", "ctl"):
            (self.directory / f"{daemon}.{stale}").unlink(missing_ok=True)
        if daemon == "ovsdb-server":
            self.database.unlink(missing_ok=True)
        self.processes[daemon] = subprocess.Popen(
            ["ip", "netns", "exec", self.netns, daemon, "-vconsole:off", *arguments, log, pid, control],
            env={**os.environ, "OVS_RUNDIR": str(self.directory)},
            stdin=subprocess.DEVNULL,
        )

    def vsctl(self, *arguments: str) -> str:
        """Run ovs-vsctl."""
        return run("ovs-vsctl", f"--db=unix:{self.database}", *arguments)

    def ofctl(self, command: str, bridge: str, *arguments: str) -> str:
        """Run ovs-ofctl on a bridge with OpenFlow 1.4; dumps come without counters and with port numbers."""
        options = ("-O", "OpenFlow14", "--no-names", *(["--no-stats"] if command == "dump-flows" else []))
        return run("ovs-ofctl", *options, command, str(self.management(bridge)), *arguments)

    def appctl(self, *arguments: str) -> str:
        """Run ovs-appctl on the switch."""
        return run("ovs-appctl", "-t", str(self.directory / "ovs-vswitchd.ctl"), *arguments)

    def add_bridge(self, name: str, *settings: str) -> None:
        """Add a bridge with the userspace datapath."""
        self.vsctl("add-br", name, "--", "set", "bridge", name, "datapath_type=netdev", *settings)

    def add_veth(self, bridge: str, port: str, ofport: int) -> str:
        """Plug one end of a new veth pair; returns the name of the other end, ready for `packet_socket`."""
        self.make_veth(port)
        self.vsctl("add-port", bridge, port, "--", "set", "interface", port, f"ofport_request={ofport}")
        return f"{port}p"

    def make_veth(self, port: str) -> None:
        """Create a veth pair ``port``, ``port`` + "p" that the kernel leaves alone."""
        run("ip", "-n", self.netns, "link", "add", port, "type", "veth", "peer", "name", f"{port}p")
        for device in (port, f"{port}p"):
            self.silence(device)
            run("ip", "-n", self.netns, "link", "set", device, "up", "arp", "off")

    def silence(self, device: str) -> None:
        """Keep the kernel from speaking on a device, and from leaving checksums to hardware that is not there."""
        exec_in = ("ip", "netns", "exec", self.netns)
        run(*exec_in, "sysctl", "-qw", f"net.ipv6.conf.{device}.disable_ipv6=1")
        run(*exec_in, "ethtool", "-K", device, "tx", "off")


@dataclass
class Wire:
    """The far end of a port of the bridge: what stands there sends and hears whole frames."""

    socket: socket.socket

    def send(self, frame: bytes) -> None:
        """Send a frame into the bridge."""
        self.socket.send(frame)

    def hear(self, wanted: Callable[[bytes], object], seconds: float = 5.0) -> bytes | None:
        """Return the first frame that is wanted, None when none comes in time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                frame, told, _, address = self.socket.recvmsg(65535, 64)
            except TimeoutError:
                return None
            frame = _with_tag(frame, told)
            if address[2] != socket.PACKET_OUTGOING and wanted(frame):
                return frame
        return None


def _with_tag(frame: bytes, told: list[tuple[int, int, bytes]]) -> bytes:
    """Return a frame as it was on the wire."""
    for level, kind, data in told:
        if (level, kind) == (_SOL_PACKET, _AUXDATA):
            status, _, _, _, _, tag, protocol = _AUXILIARY.unpack_from(data)
            if status & _VLAN_VALID:
                return frame[:12] + struct.pack("!HH", protocol or 0x8100, tag) + frame[12:]
    return frame


@contextlib.contextmanager
def open_vswitch(netns: str, directory: Path) -> Iterator[Ovs]:
    """Run an Open vSwitch in a namespace that exists, and stop it at the end."""
    ovs = Ovs(netns, directory)
    try:
        ovs.start()
        yield ovs
    finally:
        ovs.stop()

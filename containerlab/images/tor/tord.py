#!/usr/bin/env python3
"""What a stackless ToR does beside switching and routing.

Neighbour -> host route: a server that answers ARP or ND behind a good port becomes a kernel host route, which FRR
redistributes. It goes when the neighbour, the port's carrier or its LACP partner does; the other ToR still serves.

Monitor-link: without a default route this ToR reaches nothing beyond its rack, so it takes its server ports down and
the servers' bonds leave it; ports come up a while after the way out is back, and not before it when the ToR boots.

The kernel's messages carry no data here: each means *look again*. Only the standard library and iproute2 are used.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

GATEWAY = "gw"
PROTOCOL = "200"
"""Marks our routes in the kernel, so that a restarted daemon knows them."""
PROBE_MISSING_S = 2.0
PROBE_KNOWN_S = 10.0
LOOK_S = 0.3
"""How often LACP is looked at, which sends no kernel message."""
VALID = {"REACHABLE", "STALE", "DELAY", "PROBE", "PERMANENT"}
IFF_UP = 0x1  # netdevice(7)
RTMGRP = 0x1 | 0x4 | 0x40 | 0x400  # link, neighbour, IPv4 route, IPv6 route (rtnetlink(7))


@dataclass(frozen=True)
class Port:
    """A server port and the addresses that are looked for behind it."""

    name: str
    hosts: tuple[str, ...]


def parse_ports(text: str) -> tuple[Port, ...]:
    """Read ports.conf: lines of port, LACP key, addresses."""
    fields = (line.split("#")[0].split() for line in text.splitlines())
    return tuple(Port(name, tuple(hosts)) for name, _key, *hosts in filter(None, fields))


def wanted_hosts(ports: tuple[Port, ...], good: set[str], neighbours: set[str]) -> set[str]:
    """Return the hosts that deserve a route: behind a good port, and in the neighbour table."""
    return {host for port in ports if port.name in good for host in port.hosts if host in neighbours}


@dataclass
class MonitorLink:
    """Whether server ports may be up, given whether there is a way out."""

    delay_s: float
    open: bool = False
    way_out_since: float | None = None

    def update(self, *, way_out: bool, now: float) -> bool:
        """Take an observation; return True when `open` changed."""
        before = self.open
        if not way_out:
            self.open, self.way_out_since = False, None
        else:
            self.way_out_since = now if self.way_out_since is None else self.way_out_since
            self.open = self.open or now - self.way_out_since >= self.delay_s
        return self.open != before


def ip(*arguments: str) -> str:
    """Run iproute2; the objects that it names may vanish at any time, so failure says nothing new."""
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False).stdout


def neighbours() -> set[str]:
    """Return the addresses that answer on the gateway's interface."""
    table = json.loads(ip("-j", "neigh", "show", "dev", GATEWAY) or "[]")
    return {entry["dst"] for entry in table if VALID & set(entry.get("state", []))}


def routes() -> set[str]:
    """Return the host routes that are ours."""
    tables = (json.loads(ip("-j", family, "route", "show", "proto", PROTOCOL) or "[]") for family in ("-4", "-6"))
    return {route["dst"] for table in tables for route in table}


def way_out() -> bool:
    """Tell whether BGP gave us a default route."""
    return re.search(r"proto (bgp|bird)\b", ip("-4", "route", "show", "default")) is not None


def has_carrier(port: str) -> bool:
    """Tell whether the port is up at both ends."""
    try:
        return Path(f"/sys/class/net/{port}/operstate").read_text().strip() == "up"
    except OSError:
        return False


def switch(*command: str) -> str:
    """Send a command to ovs-vswitchd over its control socket (JSON-RPC, ovs-appctl(8)); empty on failure."""
    try:
        pid = Path("/run/openvswitch/ovs-vswitchd.pid").read_text().strip()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(2)
            connection.connect(f"/run/openvswitch/ovs-vswitchd.{pid}.ctl")
            connection.sendall(json.dumps({"id": 0, "method": command[0], "params": command[1:]}).encode())
            reply = b""
            while True:
                reply += (
                    connection.recv(65536) or b"\0"
                )  # a NUL makes the JSON invalid: the daemon died in mid-sentence
                with contextlib.suppress(json.JSONDecodeError):
                    return str(json.loads(reply).get("result") or "")  # an error has none: no such port yet
                if reply.endswith(b"\0"):
                    return ""
    except OSError:
        return ""


def is_open(port: str) -> bool:
    """Tell whether this end of the port is set up."""
    try:
        return bool(int(Path(f"/sys/class/net/{port}/flags").read_text(), 16) & IFF_UP)
    except OSError:
        return False


def has_partner(lacp: str) -> bool:
    """Tell from lacp/show whether the port's partner is heard, and says that it hears us (802.1AX: in sync)."""
    return re.search(r"member: \S+: current\b.*?may_enable: true", lacp, re.DOTALL) is not None


def probe(host: str) -> None:
    """Make the kernel look for the host's link-layer address: it must resolve it to send this datagram (discard)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as datagram:
        datagram.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, GATEWAY.encode())
        datagram.sendto(b"", (host, 9))


def say(*words: object) -> None:
    """Write a line to the log."""
    print(f"{time.time():.3f}", *words, flush=True)


class Daemon:
    """The loop: look, compare, act; woken by the kernel, by the clock otherwise."""

    def __init__(self, ports: tuple[Port, ...], uplink_delay_s: float) -> None:
        self.ports = ports
        self.hosts = {host for port in ports for host in port.hosts}
        # A daemon that starts again finds its ports open and lets them be; at boot the start script has closed them.
        self.monitor = MonitorLink(uplink_delay_s, open=any(is_open(port.name) for port in ports))
        self.next_probe: dict[str, float] = {}
        self.partners: dict[str, bool] = {}
        self.kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self.kernel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.kernel.bind((0, RTMGRP))
        self.kernel.setblocking(False)

    def run(self) -> None:
        """Do it for ever."""
        wake = True
        while True:
            now = time.monotonic()
            partners = {
                port.name: has_carrier(port.name) and has_partner(switch("lacp/show", port.name)) for port in self.ports
            }
            self.probe_hosts(now)
            if wake or partners != self.partners or not self.monitor.open:
                self.partners = partners
                self.act(now)
            wake = bool(select.select([self.kernel], [], [], LOOK_S)[0])
            self.drain()

    def drain(self) -> None:
        """Throw pending kernel messages away; an overrun is a message too."""
        try:
            while self.kernel.recv(65536):
                pass
        except OSError:
            return

    def act(self, now: float) -> None:
        """Bring ports and host routes to what they should be."""
        if self.monitor.update(way_out=way_out(), now=now):
            self.set_ports("up" if self.monitor.open else "down")
        good = {name for name, partner in self.partners.items() if partner}
        want, have = wanted_hosts(self.ports, good, neighbours()), routes()
        for host in sorted(want - have):
            ip("route", "replace", prefix(host), "dev", GATEWAY, "proto", PROTOCOL)
            say("host route added", host)
        gone = sorted(have - want)
        for host in gone:
            ip("route", "del", prefix(host), "dev", GATEWAY, "proto", PROTOCOL)
            ip("neigh", "del", host, "dev", GATEWAY)  # a switch forgets what was behind a dead port
            self.next_probe[host] = now + PROBE_MISSING_S
            say("host route removed", host)
        if gone:
            switch("fdb/flush", GATEWAY)

    def set_ports(self, state: str) -> None:
        """Set all server ports up or down."""
        for port in self.ports:
            ip("link", "set", port.name, state)
        say("server ports", state)

    def probe_hosts(self, now: float) -> None:
        """Look for hosts behind live ports: often for those that are missing, now and then for the others."""
        due = [
            host
            for port in self.ports
            if self.partners.get(port.name)
            for host in port.hosts
            if now >= self.next_probe.get(host, 0.0)
        ]
        if not due:
            return
        known = routes()
        for host in due:
            probe(host)
            self.next_probe[host] = now + (PROBE_KNOWN_S if host in known else PROBE_MISSING_S)


def prefix(host: str) -> str:
    """Return the host's own prefix: /32 or /128."""
    return str(ipaddress.ip_network(host))


def main() -> None:
    """Run the daemon of this node."""
    ports = parse_ports(Path("/etc/tor/ports.conf").read_text())
    try:
        Daemon(ports, float(os.environ["UPLINK_DELAY_S"])).run()
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()

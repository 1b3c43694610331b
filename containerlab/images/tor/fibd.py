#!/usr/bin/env python3
"""GoBGP's hand in the kernel: routes that GoBGP learned go into the forwarding table, the ToR's own go into GoBGP.

GoBGP leaves this to FRR's zebra, but GoBGP 3.10 dies of what zebra 8.4 says of an interface: that message has had a
field more (the length of the transmit queue) since GoBGP was made to understand it.

From GoBGP: per prefix the best path whose next hop is on a link, or is a server that the ToR daemon has a host route
for, as FRR does with `ip nht bgp route-map`. To GoBGP: networks.conf, and the ToR daemon's host routes.

What wakes it carries no data here: each means *look again*. A GoBGP that does not answer changes nothing. Only the
standard library, iproute2 and the gobgp command are used.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import IO, Any

GATEWAY = "gw"
API = "unix:///run/gobgpd.sock"
LEARNED = "bgp"
"""Marks our routes in the kernel, so that a restarted daemon knows them (rt_protos)."""
METRIC = 4096
"""Behind the ToR daemon's route to the same server, and not in its place."""
HOSTS = "200"
"""Marks the ToR daemon's."""
FAMILIES = {"-4": "ipv4", "-6": "ipv6"}
SETTLE_S = 0.02
"""Routes come in bursts."""
LOOK_S = 5.0
RETRY_S = 0.3
NEXT_HOP, MP_REACH = 3, 14
"""Path attributes that carry a next hop (RFC 4271, RFC 4760)."""
RTMGRP = 0x40 | 0x400  # IPv4 and IPv6 routes (rtnetlink(7))

Table = dict[str, list[dict[str, Any]]]
"""GoBGP's table: prefix -> paths, best first."""


@dataclass(frozen=True)
class Network:
    """A prefix of this ToR's own."""

    prefix: str
    unreachable: bool


def parse_networks(text: str) -> tuple[Network, ...]:
    """Read networks.conf: lines of prefix and, maybe, "unreachable"."""
    fields = (line.split("#")[0].split() for line in text.splitlines())
    return tuple(Network(prefix, "unreachable" in words) for prefix, *words in filter(None, fields))


def is_own(path: dict[str, Any]) -> bool:
    """Tell whether the path was added here, not learned from a neighbour."""
    return "neighbor-ip" not in path


def next_hop(path: dict[str, Any]) -> str:
    """Return the path's next hop."""
    found = [attribute["nexthop"] for attribute in path["attrs"] if attribute["type"] in {NEXT_HOP, MP_REACH}]
    return str(found[0])


def wanted_routes(table: Table, links: dict[str, str], hosts: set[str]) -> dict[str, str]:
    """Return prefix -> next hop of what belongs into the kernel; links: subnet -> device, hosts: servers in reach."""
    subnets = [ip_network(subnet) for subnet in links]

    def resolves(hop: str) -> bool:
        return hop in hosts or any(ip_address(hop) in subnet for subnet in subnets)

    found = {}
    for prefix, paths in table.items():
        hops = [hop for path in paths if not is_own(path) and resolves(hop := next_hop(path))]
        if hops and not is_own(paths[0]):
            found[prefix] = hops[0]
    return found


def gobgp(*arguments: str) -> str:
    """Ask GoBGP; CalledProcessError when it does not answer."""
    return subprocess.run(["gobgp", "--target", API, *arguments], capture_output=True, text=True, check=True).stdout


def learned(family: str) -> Table:
    """Return GoBGP's table of a family; CalledProcessError when it does not answer."""
    table: Table = json.loads(gobgp("global", "rib", "-a", FAMILIES[family], "-j") or "{}")
    return table


def routes(family: str, protocol: str) -> list[dict[str, Any]]:
    """Return the kernel's routes of one protocol."""
    shown = subprocess.run(
        ["ip", "-j", family, "route", "show", "proto", protocol], capture_output=True, text=True, check=True
    ).stdout
    table: list[dict[str, Any]] = json.loads(shown or "[]")
    return table


def prefix(route: dict[str, Any], family: str) -> str:
    """Return a kernel route's destination as GoBGP writes it."""
    default = "0.0.0.0/0" if family == "-4" else "::/0"
    return str(ip_network(default if route["dst"] == "default" else route["dst"]))


def batch(family: str, commands: list[str]) -> None:
    """Change the kernel's table; what it refuses is wanted again at the next look."""
    if commands:
        subprocess.run(["ip", "-force", family, "-batch", "-"], input="\n".join(commands), text=True, check=False)
        print(time.strftime("%H:%M:%S"), *commands, sep="\n  ", flush=True)


def act(family: str, networks: tuple[Network, ...]) -> None:
    """Bring the kernel's table, and GoBGP's own routes, to what they should be."""
    table = learned(family)
    hosts = {route["dst"] for route in routes(family, HOSTS)}
    links = {route["dst"]: route["dev"] for route in routes(family, "kernel") if route["dev"] != GATEWAY}
    want = wanted_routes(table, links, hosts)
    have = {prefix(route, family): route.get("gateway") for route in routes(family, LEARNED)}
    batch(
        family,
        [
            f"route replace {net} via {hop} proto {LEARNED} metric {METRIC}"
            for net, hop in want.items()
            if have.get(net) != hop
        ]
        + [f"route del {net} proto {LEARNED} metric {METRIC}" for net in have.keys() - want.keys()],
    )
    own = {net for net, paths in table.items() if any(is_own(path) for path in paths)}
    due = {network.prefix for network in networks} | {str(ip_network(host)) for host in hosts}
    for net in sorted(due - own):
        # As other daemons' own routes: with origin "incomplete" the twin's would always win.
        gobgp("global", "rib", "add", net, "origin", "igp", "-a", FAMILIES[family])
    for net in sorted(own - due):
        gobgp("global", "rib", "del", net, "-a", FAMILIES[family])


def of_family(networks: tuple[Network, ...], family: str) -> tuple[Network, ...]:
    """Return the networks of a family."""
    return tuple(network for network in networks if (":" in network.prefix) == (family == "-6"))


def drain(source: socket.socket | IO[bytes]) -> None:
    """Throw away what a source says. EOFError when it ended."""
    if isinstance(source, socket.socket):
        with contextlib.suppress(OSError):  # nothing left, or more than fits
            while source.recv(65536):
                pass
    elif not source.read1(65536):  # type: ignore[attr-defined]  # a pipe that subprocess made is buffered
        raise EOFError


def serve(kernel: socket.socket, networks: tuple[Network, ...]) -> None:
    """Look whenever the kernel's or GoBGP's table changes. CalledProcessError, EOFError: GoBGP is not there."""
    with contextlib.ExitStack() as stack:
        sources: list[socket.socket | IO[bytes]] = [kernel]
        for name in FAMILIES.values():
            watch = ["gobgp", "--target", API, "monitor", "global", "rib", "-a", name, "-j"]
            monitor = stack.enter_context(subprocess.Popen(watch, stdout=subprocess.PIPE))
            stack.callback(monitor.kill)
            assert monitor.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
            sources.append(monitor.stdout)
        while True:
            for family in FAMILIES:
                act(family, of_family(networks, family))
            ready = select.select(sources, [], [], LOOK_S)[0]
            time.sleep(SETTLE_S if ready else 0)
            for source in ready:
                drain(source)


def main() -> None:
    """Run the daemon of this node."""
    networks = parse_networks(Path("/etc/tor/networks.conf").read_text())
    for family in FAMILIES:
        unreachable = [network.prefix for network in of_family(networks, family) if network.unreachable]
        batch(family, [f"route replace unreachable {net} proto static" for net in unreachable])
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    kernel.bind((0, RTMGRP))
    kernel.setblocking(False)
    while True:
        try:
            serve(kernel, networks)
        except (subprocess.CalledProcessError, json.JSONDecodeError, EOFError) as error:
            print(f"GoBGP does not answer: {error}", flush=True)
            time.sleep(RETRY_S)
        except KeyboardInterrupt:
            sys.exit(0)


if __name__ == "__main__":
    main()

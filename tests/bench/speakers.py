"""Other BGP speakers on a host of their own: gobgpd and FRR, each told about routes in the fastest way that it has."""

from __future__ import annotations

import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from socket import AF_UNIX, socket
from typing import TYPE_CHECKING, Protocol

import grpc

from tests.fixtures.tors import HOST_ASN, HOST_V4, Rack, Tor, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_messages, _services = grpc.protos_and_services("tests/bench/gobgp.proto")


@dataclass(frozen=True, slots=True)
class Announced:
    """A route that was asked for."""

    prefix: IPv4Network
    called_ns: int
    returned_ns: int


class Announcer(Protocol):
    """A way to announce one route to both ToRs of its rack, and to take it back."""

    name: str
    rack: Rack

    def announce(self) -> Announced:
        """Ask for the next route; its times are wall clock."""

    def withdraw(self, announced: Announced) -> None:
        """Take it back."""


class Told:
    """An announcer that is told the prefix: one address after the other out of a /24 of its own."""

    def __init__(
        self,
        name: str,
        rack: Rack,
        pool: IPv4Network,
        *,
        add: Callable[[IPv4Network], object],
        remove: Callable[[IPv4Network], object],
    ) -> None:
        self.name = name
        self.rack = rack
        self._prefixes = pool.subnets(new_prefix=32)
        self._add = add
        self._remove = remove

    def announce(self) -> Announced:
        """Ask for the next route."""
        prefix = next(self._prefixes)
        called_ns = time.time_ns()
        self._add(prefix)
        return Announced(prefix, called_ns, time.time_ns())

    def withdraw(self, announced: Announced) -> None:
        """Take it back."""
        self._remove(announced.prefix)


@contextmanager
def gobgp(rack: Rack) -> Iterator[list[Announcer]]:
    """Run gobgpd on the rack's host; routes come over gRPC."""
    config, api = rack.run_dir / "gobgpd.toml", rack.run_dir / "gobgpd.sock"
    config.write_text(_gobgp_config(rack))
    with (rack.run_dir / "gobgpd.log").open("wb") as log:
        daemon = subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                rack.host,
                "gobgpd",
                "-f",
                str(config),
                f"--api-hosts=unix://{api}",
                "--pprof-disable",
            ],
            stdout=log,
            stderr=log,
        )
    channel = grpc.insecure_channel(f"unix:{api}", options=[("grpc.enable_http_proxy", 0)])
    stub = _services.GobgpApiStub(channel)
    try:
        grpc.channel_ready_future(channel).result(timeout=30)
        yield [
            Told(
                "gobgpd (gRPC)",
                rack,
                IPv4Network("10.102.0.0/24"),
                add=lambda prefix: stub.AddPath(_messages.AddPathRequest(path=_gobgp_path(prefix))),
                remove=lambda prefix: stub.DeletePath(
                    _messages.DeletePathRequest(path=_gobgp_path(prefix), family=_messages.Family(afi=1, safi=1))
                ),
            )
        ]
    finally:
        channel.close()
        daemon.kill()
        daemon.wait()


def _gobgp_config(rack: Rack) -> str:
    lines = ["[global.config]", f"as = {HOST_ASN}", f'router-id = "{HOST_V4}"']
    for tor in rack.tors:
        lines += [
            "[[neighbors]]",
            "[neighbors.config]",
            f'neighbor-address = "{tor.address}"',
            f"peer-as = {tor.asn}",
            "[neighbors.ebgp-multihop.config]",
            "enabled = true",
            "multihop-ttl = 3",
            "[neighbors.transport.config]",
            f'local-address = "{HOST_V4}"',
        ]
    return "\n".join(lines) + "\n"


def _gobgp_path(prefix: IPv4Network) -> object:
    path = _messages.Path(family=_messages.Family(afi=1, safi=1))
    path.nlri.Pack(_messages.IPAddressPrefix(prefix_len=prefix.prefixlen, prefix=str(prefix.network_address)))
    path.pattrs.add().Pack(_messages.OriginAttribute(origin=0))
    path.pattrs.add().Pack(_messages.NextHopAttribute(next_hop="0.0.0.0"))  # noqa: S104 # itself, not a bind address
    return path


@dataclass
class FrrHost(Tor):
    """FRR on the server instead of on a switch."""

    peers: tuple[Tor, ...] = ()

    def config(self) -> str:
        """Return bgpd's configuration."""
        lines = [f"router bgp {HOST_ASN}", f" bgp router-id {HOST_V4}", " no bgp ebgp-requires-policy"]
        lines.append(" no bgp network import-check")
        for tor in self.peers:
            peer = f" neighbor {tor.address}"
            lines += [
                f"{peer} remote-as {tor.asn}",
                f"{peer} ebgp-multihop 3",
                f"{peer} update-source {HOST_V4}",
                f"{peer} advertisement-interval 0",
                f"{peer} timers connect 1",
            ]
        lines += [" address-family ipv4 unicast", "  redistribute kernel", " exit-address-family"]
        return "\n".join(lines) + "\n"


@contextmanager
def frr(rack: Rack) -> Iterator[list[Announcer]]:
    """Run FRR on the rack's host; routes come over bgpd's command socket, or as kernel routes that it redistributes."""
    host = FrrHost("host", rack.host, rack.run_dir / "host", HOST_ASN, IPv4Address(HOST_V4), peers=rack.tors)
    try:
        host.start()
        with _bgpd(host.run_dir) as tell:
            yield [
                Told(
                    "FRR network (vty)",
                    rack,
                    IPv4Network("10.103.0.0/24"),
                    add=lambda prefix: tell(f"network {prefix}"),
                    remove=lambda prefix: tell(f"no network {prefix}"),
                ),
                Told(
                    "FRR redistribute kernel",
                    rack,
                    IPv4Network("10.104.0.0/24"),
                    add=lambda prefix: run("ip", "-n", rack.host, "route", "add", "blackhole", str(prefix)),
                    remove=lambda prefix: run("ip", "-n", rack.host, "route", "del", "blackhole", str(prefix)),
                ),
            ]
    finally:
        host.stop()


@contextmanager
def _bgpd(run_dir: Path) -> Iterator[Callable[[str], None]]:
    """Hold a session with bgpd in configuration mode: what vtysh says on the socket, without a process per command."""
    with socket(AF_UNIX) as session:
        session.connect(str(run_dir / "bgpd.vty"))

        def tell(command: str) -> None:
            session.sendall(command.encode() + b"\0")
            answer = b""
            while len(answer) < 4 or answer[-4:-1] != bytes(3):  # text, three zeros, status
                answer += session.recv(4096)
            if answer[-1]:
                raise RuntimeError(f"bgpd refused {command!r}: {answer[:-4].decode()}")

        for command in ("enable", "configure terminal", f"router bgp {HOST_ASN}", "address-family ipv4 unicast"):
            tell(command)
        yield tell

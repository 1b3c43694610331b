"""A fabric of any size, in the shape of two-racks.clab.yml: topology, router configurations, rack files.

Owns the plan of names and numbers (docs/fabric.md, "More racks, more servers"); the texts are in templates/, and the
ToRs' are what `routed tor-config` makes of the rack files. Two racks of two servers are what lies beside this file: a
test keeps the two equal. Never starts anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from containerlab.errors import LabError
from containerlab.topology import TWO_RACKS
from routed.settings import Settings
from routed.torconfig.plan import plan as tor_plan
from routed.torconfig.render import render
from routed.torconfig.vendor_name import VendorName

MAX_RACKS = 53
"""ToRs' AS numbers, 65000 + 10 x rack + side, stay private (RFC 6996: up to 65534) and off 65100 and 65500."""
MAX_SERVERS = 90
"""LACP keys stay below 100, which is what sets the two ToRs' port numbers apart."""
SPINES = (1, 2)
MTU = 1500


@dataclass(frozen=True, slots=True)
class Server:
    """A server of a rack."""

    name: str
    host: int
    """The last part of its addresses, its LACP key, the end of its MAC."""
    mac: str
    ipv4: str
    ipv6: str
    owns4: str
    """Its share of the pools, in the rack file; the next too."""
    owns6: str


@dataclass(frozen=True, slots=True)
class Tor:
    """A ToR of a rack; `side` is a or b."""

    rack: int
    side: str
    name: str
    asn: int
    loopback: str


@dataclass(frozen=True, slots=True)
class Rack:
    """A rack; its pools are 10.POOL.0.0/24, 10.POOL.1.0/24 and fd00:POOL::/64."""

    number: int
    pool: int
    gateway_mac: str
    """The same on both ToRs, as is the next."""
    lacp_system: str
    tors: tuple[Tor, ...]
    servers: tuple[Server, ...]


@dataclass(frozen=True, slots=True)
class Uplink:
    """The link between a spine and a ToR, with the addresses of its ends."""

    spine: int
    tor: Tor
    spine4: str
    spine6: str
    tor4: str
    tor6: str


def plan(racks: int, servers: int) -> tuple[Rack, ...]:
    """Number so many racks of so many servers. LabError when the plan has not so many numbers."""
    if not 1 <= racks <= MAX_RACKS or not 1 <= servers <= MAX_SERVERS:
        raise LabError(f"1 to {MAX_RACKS} racks of 1 to {MAX_SERVERS} servers, not {racks} of {servers}")
    few = racks < 10 and servers < 10  # then a server's number, the rack's digit included, is in its address
    return tuple(
        Rack(
            number=rack,
            pool=100 + rack,
            gateway_mac=f"02:00:00:00:{rack:02x}:01",
            lacp_system=f"02:00:00:00:{rack:02x}:fe",
            tors=tuple(_tor(rack, position) for position in (0, 1)),
            servers=tuple(
                _server(rack, number, servers, 10 * rack + number if few else 9 + number)
                for number in range(1, servers + 1)
            ),
        )
        for rack in range(1, racks + 1)
    )


def _tor(rack: int, position: int) -> Tor:
    side = "ab"[position]
    return Tor(
        rack=rack,
        side=side,
        name=f"r{rack}{side}",
        asn=65001 + 10 * rack + position,
        loopback=f"10.255.{rack}.{1 + position}",
    )


def _server(rack: int, number: int, of: int, host: int) -> Server:
    # As wide as the largest number, so that s101 is server 1 of rack 10 or server 01 of rack 1, but never both.
    name = f"s{rack}{number:0{len(str(of))}}"
    # Both /24 are cut into as few equal parts as give every server one.
    cuts = max(0, (of - 1).bit_length() - 1)
    pool, part = divmod(number - 1, 1 << cuts)
    return Server(
        name=name,
        host=host,
        mac=f"02:10:00:00:{rack:02x}:{host:02x}",
        ipv4=f"10.{rack}.0.{host}",
        ipv6=f"fd00:{rack}::{host}",
        owns4=str(list(ip_network(f"10.{100 + rack}.{pool}.0/24").subnets(cuts))[part]),
        owns6=f"fd00:{100 + rack}::{number:x}:0/112",
    )


def uplinks(racks: tuple[Rack, ...]) -> list[Uplink]:
    """Return the links between spines and ToRs: a /31 and a /127 of the spine's each, the spine's end first."""
    return [
        Uplink(
            spine=spine,
            tor=tor,
            spine4=f"10.254.{spine}.{end}",
            spine6=f"fd00:254:{spine}::{end:x}",
            tor4=f"10.254.{spine}.{end + 1}",
            tor6=f"fd00:254:{spine}::{end + 1:x}",
        )
        for spine in SPINES
        for end, tor in zip(range(2, 256, 2), (tor for rack in racks for tor in rack.tors), strict=False)
    ]


def files(name: str, racks: int, servers: int) -> dict[Path, str]:
    """Return the files of a fabric by their place in its folder, the topology file `NAME.clab.yml` among them."""
    # The texts are configurations of routers and YAML, nobody's HTML.
    texts = Environment(  # noqa: S701 - see above
        loader=FileSystemLoader(TWO_RACKS.parent / "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    numbered = plan(racks, servers)
    links = uplinks(numbered)
    found = {Path(f"{name}.clab.yml"): yaml.safe_dump(_topology(name, numbered, links), sort_keys=False, width=120)}
    for spine in SPINES:
        mine = [link for link in links if link.spine == spine]
        text = texts.get_template("spine.frr.conf").render(spine=spine, links=mine, racks=numbered)
        found[Path("configs", f"sp{spine}", "frr.conf")] = text
    for rack in numbered:
        text = texts.get_template("rack.yaml").render(rack=rack, links=links)
        found[Path("racks", f"r{rack.number}.yaml")] = text
        settings = Settings.model_validate(yaml.safe_load(text))
        for tor in rack.tors:
            (rendered,) = render(tor_plan(settings, tor.name), VendorName.FRR)
            found[Path("configs", tor.name, "frr.conf")] = rendered.text
            found[Path("configs", tor.name, "ports.conf")] = texts.get_template("ports.conf").render(rack=rack)
    return found


def write(folder: Path, name: str, racks: int, servers: int) -> Path:
    """Write the files of a fabric into a folder, over what is there; returns the topology file."""
    for path, text in files(name, racks, servers).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder / f"{name}.clab.yml"


def _topology(name: str, racks: tuple[Rack, ...], links: list[Uplink]) -> dict[str, Any]:
    """Return the topology file: what two-racks.clab.yml says of all nodes, with other nodes and links."""
    document: dict[str, Any] = yaml.safe_load(TWO_RACKS.read_text())
    nodes: dict[str, Any] = {f"sp{spine}": {"group": "spine"} for spine in SPINES}
    cables = [([f"sp{link.spine}:to-{link.tor.name}", f"{link.tor.name}:up{link.spine}"]) for link in links]
    for rack in racks:
        nodes |= {tor.name: _tor_node(rack, tor) for tor in rack.tors}
    for rack in racks:
        nodes |= {server.name: _server_node(rack, server) for server in rack.servers}
        for server in rack.servers:
            cables += [[f"{tor.name}:{server.name}", f"{server.name}:eth{tor.side}"] for tor in rack.tors]
    ends = [{"endpoints": cable, "mtu": MTU} for cable in cables]
    return {**document, "name": name, "topology": {**document["topology"], "nodes": nodes, "links": ends}}


def _tor_node(rack: Rack, tor: Tor) -> dict[str, Any]:
    return {
        "group": "tor",
        "env": {
            "GATEWAY_MAC": rack.gateway_mac,
            "LACP_SYSTEM_ID": rack.lacp_system,
            "LACP_PORT_OFFSET": {"a": "0", "b": "100"}[tor.side],
        },
    }


def _server_node(rack: Rack, server: Server) -> dict[str, Any]:
    return {
        "group": "server",
        "binds": [f"racks/r{rack.number}.yaml:/etc/routed/rack.yaml:ro"],
        "env": {
            "MAC": server.mac,
            "ADDRESSES": f"{server.ipv4}/24 {server.ipv6}/128",
            "GATEWAYS": f"10.{rack.number}.0.1 fd00:{rack.number}::1",
        },
    }

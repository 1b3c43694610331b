"""From the rack file to what one of its ToRs needs: checks that they agree, and fills in what follows from it.

Pure. What the rack file does not say becomes a `Placeholder`; a contradiction is a `PlanError` with the key.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

from routed.settings import ServerSettings, Settings, SubnetSettings
from routed.torconfig.model import IPNetwork, Placeholder, Plan, Pool, Server, Session, Subnet, Uplink
from routed.torconfig.settings import FabricSettings, IPAddress, TorFabricSettings, UplinkSettings

LACP_PORT_IDS = 1000
"""Port numbers in LACP per ToR: the first has 1 to 1000, the second 1001 to 2000, so that no two links look alike."""
MAXIMUM_IPV6_ROUTES = 600
"""The limit of routes per server in a rack without IPv4 pools, whose size says nothing about the number of pods."""
KEEPALIVES = 3  # in a hold time (RFC 4271 4.4)


class PlanError(Exception):
    """The rack file contradicts itself, or says what no ToR can do; the message names the key."""


def plan(settings: Settings, tor: str, *, md5: str | None = None) -> Plan:
    """Return what the ToR called `tor` needs.

    Args:
        settings: The rack file.
        tor: A name among its `tors`.
        md5: The TCP MD5 key; a placeholder stands for it when the rack file has a `bgp.password_file`.

    Raises:
        PlanError: No such ToR, or a contradiction in the rack file.
    """
    fabric = settings.fabric or FabricSettings()
    _check(settings, fabric)
    names = [entry.name for entry in settings.tors]
    if tor not in names:
        raise PlanError(f"there is no ToR {tor!r} in this rack; there are {', '.join(names)}")
    index = names.index(tor)
    me, mine = settings.tors[index], fabric.tors.get(tor, TorFabricSettings())
    versions: list[int] = sorted({entry.prefix.version for entry in (*settings.hosts, *settings.pools)})
    if settings.bgp.password_file and md5 is None:
        md5 = Placeholder("md5-key")
    elif md5 is not None and not settings.bgp.password_file:
        raise PlanError(
            "an MD5 key was given, but the rack has none (bgp.password_file, a Rack's bgp.password_secret): "
            "the agents would use none"
        )
    pools = tuple(Pool(pool.prefix, pool.gateway, _barred(pool, pool.reserved)) for pool in settings.pools)
    return Plan(
        rack=settings.rack,
        name=tor,
        letter="AB"[index],
        twin=next((name for name in names if name != tor), None),
        asn=me.asn,
        loopback=me.address,
        router_id=_router_id(tor, me.address, mine),
        gateway_interface=fabric.gateway.interface or Placeholder("gateway-interface"),
        gateway_mac=fabric.gateway.mac or Placeholder("gateway-mac"),
        hosts=tuple(Subnet(host.prefix, host.gateway) for host in settings.hosts),
        pools=pools,
        servers=tuple(
            _server(name, server, me.address.version, fabric, mine) for name, server in settings.servers.items()
        ),
        server_asn=settings.bgp.asn,
        hold_s=settings.bgp.hold_time_s,
        keepalive_s=settings.bgp.hold_time_s // KEEPALIVES,
        restart_s=settings.bgp.graceful_restart_s,
        passive=settings.bgp.listen_port != 179,
        md5=md5,
        maximum_routes=_maximum_routes(fabric.maximum_routes, pools),
        maximum_routes_restart_min=fabric.maximum_routes_restart_min,
        community=_community(settings.steering.community) if settings.steering else None,
        uplinks=tuple(_uplink(uplink, versions) for uplink in mine.uplinks) or _unknown_uplinks(versions),
        uplink_delay_s=fabric.uplink_delay_s,
        bfd_ms=fabric.bfd_interval_ms,
        system_id=fabric.lacp.system_id or Placeholder("lacp-system-id"),
        port_ids=(LACP_PORT_IDS * index + 1, LACP_PORT_IDS * (index + 1)),
        vlan=settings.vlan,
    )


def _check(settings: Settings, fabric: FabricSettings) -> None:
    """Raise PlanError where `fabric` contradicts the rest of the rack file."""
    names = {tor.name for tor in settings.tors}
    for name in fabric.tors.keys() - names:
        raise PlanError(f"fabric.tors.{name}: no such ToR in tors")
    listed = {f"fabric.tors.{name}.ports": set(tor.ports) for name, tor in fabric.tors.items()}
    for where, found in {**listed, "fabric.lacp.keys": set(fabric.lacp.keys)}.items():
        for name in sorted(found - settings.servers.keys()):
            raise PlanError(f"{where}.{name}: no such server in servers")
    for left, right in zip(settings.tors, settings.tors[1:], strict=False):
        if left.asn == right.asn:
            raise PlanError(
                f"tors: {left.name} and {right.name} share AS {left.asn}: each would refuse what the other announces, "
                f"as its own (RFC 4271 9.1.2), and the servers' host routes with it"
            )


def _maximum_routes(configured: int | None, pools: tuple[Pool, ...]) -> int:
    """Return the limit; PlanError when one server with every IPv4 pod of the rack would exceed it."""
    addresses = sum(
        pool.prefix.num_addresses - sum(entry.num_addresses for entry in pool.barred)
        for pool in pools
        if pool.version == 4
    )
    if configured is None:
        return -(-addresses * 11 // 1000) * 100 or MAXIMUM_IPV6_ROUTES
    if configured < addresses:
        raise PlanError(
            f"fabric.maximum_routes: a server may have every pod of the rack, {addresses} addresses; "
            f"{configured} routes would close its session"
        )
    return configured


def _community(text: str) -> str:
    parts = [int(part) for part in text.split(":")]
    if any(part >= 1 << (16 if len(parts) == 2 else 32) for part in parts):
        raise PlanError(
            f"steering.community: {text} does not fit: two parts of 16 bits (RFC 1997) or three of 32 (RFC 8092)"
        )
    return text


def _router_id(tor: str, address: IPAddress, mine: TorFabricSettings) -> IPv4Address:
    if mine.router_id:
        return mine.router_id
    if isinstance(address, IPv6Address):
        raise PlanError(f"fabric.tors.{tor}.router_id: needed, its loopback {address} is IPv6 (RFC 6286)")
    return address


def _barred(pool: SubnetSettings, reserved: tuple[IPNetwork, ...]) -> tuple[IPNetwork, ...]:
    """Return the parts of a pool that no pod has."""
    prefix = pool.prefix
    found = [ip_network(pool.gateway), *(entry for entry in reserved if entry.version == prefix.version)]
    if prefix.max_prefixlen - prefix.prefixlen > 1:  # none in a /31 (RFC 3021) or /127 (RFC 6164)
        found.append(ip_network(prefix.network_address))
        if prefix.version == 4:
            found.append(ip_network(prefix.broadcast_address))
    covered = {entry for entry in found for other in found if entry != other and entry.subnet_of(other)}  # type: ignore[arg-type]  # all of one version
    return tuple(sorted(set(found) - covered))


def _server(
    name: str, server: ServerSettings, transport: int, fabric: FabricSettings, mine: TorFabricSettings
) -> Server:
    addresses: dict[int, IPAddress] = {address.version: address for address in server.addresses}
    if transport not in addresses:
        raise PlanError(f"servers.{name}.addresses: none is IPv{transport}, which the ToRs' loopbacks are")
    return Server(
        name=name,
        peer=addresses[transport],
        addresses=addresses,
        port=mine.ports.get(name) or Placeholder(f"port-of-{name}"),
        key=fabric.lacp.keys.get(name) or Placeholder(f"lacp-key-of-{name}"),
    )


def _uplink(uplink: UplinkSettings, versions: list[int]) -> Uplink:
    peers = {peer.version: peer for peer in uplink.peers}
    homeless = [version for version in versions if version not in peers]
    return Uplink(
        spine=uplink.spine,
        interface=uplink.interface,
        addresses={address.version: address for address in uplink.addresses},
        sessions=tuple(
            Session(
                spine=uplink.spine,
                asn=uplink.asn,
                peer=peer,
                transport=version,
                families=tuple(sorted({version, *homeless})) if number == 0 else (version,),
            )
            for number, (version, peer) in enumerate(sorted(peers.items()))
        ),
    )


def _unknown_uplinks(versions: list[int]) -> tuple[Uplink, ...]:
    """Return two links with nothing known of them, as a pattern to fill in and repeat."""
    return tuple(
        Uplink(
            spine=Placeholder(f"spine-{number}"),
            interface=Placeholder(f"uplink-{number}"),
            addresses={version: Placeholder(f"uplink-{number}-ipv{version}-address") for version in versions},
            sessions=tuple(
                Session(
                    spine=Placeholder(f"spine-{number}"),
                    asn=Placeholder("spine-asn"),
                    peer=Placeholder(f"spine-{number}-ipv{version}-address"),
                    transport=version,
                    families=(version,),
                )
                for version in versions
            ),
        )
        for number in (1, 2)
    )

"""Checks of what is beyond this server: its addresses there, the gateways, both ToRs, the BGP sessions. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from routed.doctor.facts import Echo, Facts, Network, Unseen
from routed.doctor.findings import Finding, error, ok, unknown, warning
from routed.domain.workload import IPAddress
from routed.settings import SubnetSettings, TorSettings

_SIDES = {
    "cut": "`routed show neighbors`; check the cable and the port between {member} and {tor}",
    "silent": "see `bgp {tor}` above",
    "holding": "nothing: it is trusted again when it has been well for steering.hold_s",
}
"""What to do about a side that is not good."""


def check_addresses(facts: Facts) -> Iterator[Finding]:
    """The bridge's own device has the addresses that the rack file gives this server."""
    bridge = facts.settings.device
    network = _network(facts)
    for address in facts.server.addresses:
        check = f"address {address}"
        if isinstance(network, Unseen):
            yield unknown(check, network.why, "see `bridge` above")
        elif any(address == interface.ip for interface in network.addresses):
            yield ok(check, f"on {bridge}")
        else:
            length = 128 if address.version == 6 else _prefix_length(facts, address)
            yield error(
                check,
                f"is not on {bridge}: no ToR can send to this server's pods",
                f"`ip address add {address}/{length} dev {bridge}`, or correct servers.{facts.server.name} in the "
                "rack file",
            )


def _prefix_length(facts: Facts, address: IPAddress) -> int:
    return next(host.prefix.prefixlen for host in facts.settings.hosts if address in host.prefix)


def _network(facts: Facts) -> Network | Unseen:
    """Return what is known of the bridge's own device."""
    bridge = facts.settings.device
    if not isinstance(facts.network, Unseen) and facts.network.devices.get(bridge) is None:
        return Unseen(f"there is no device {bridge}")
    return facts.network


def check_gateways(facts: Facts) -> Iterator[Finding]:
    """Each gateway answers ARP or ND, and all with one MAC address."""
    hosts = [host for host in facts.settings.hosts if facts.server.address(host.prefix.version) is not None]
    network = _network(facts)
    if isinstance(network, Unseen):
        for host in hosts:
            yield unknown(f"gateway {host.gateway}", network.why, "see `bridge` above")
        return
    macs = {host.gateway: _mac(network, host) for host in hosts}
    bridge = facts.settings.device
    for gateway, mac in macs.items():
        if mac is not None:
            yield ok(f"gateway {gateway}", f"is at {mac}")
        else:
            yield error(
                f"gateway {gateway}",
                f"does not answer {'ARP' if gateway.version == 4 else 'neighbour discovery'} on {bridge}",
                f"`ip neighbor show {gateway} dev {bridge}`; check members, the ToRs' gateway interface and vlan",
            )
    if len({mac for mac in macs.values() if mac is not None}) > 1:
        yield warning(
            "gateway",
            "the gateways have different MAC addresses; the agent sends everything to the first one's",
            "give both families' gateways one MAC address on both ToRs",
        )


def _mac(network: Network, host: SubnetSettings) -> str | None:
    entry = network.neighbours.get(host.gateway)
    return entry.mac if entry is not None and entry.usable else None


def check_tors(facts: Facts) -> Iterator[Finding]:
    """Each ToR's loopback answers, and has a BGP session with the agent."""
    for tor in facts.settings.tors:
        source = facts.server.address(tor.address.version)
        if source is None:
            yield error(
                f"tor {tor.name}",
                f"this server has no IPv{tor.address.version} address to peer with {tor.address} from",
                f"add one to servers.{facts.server.name}.addresses in the rack file; the agent refuses it as it is",
            )
            continue
        state, reason = _session(facts, tor)
        yield _reachability(tor, source, facts.echoes[tor.address], established=state == "established")
        yield _session_finding(facts, tor, state, reason)


def check_sides(facts: Facts) -> Iterator[Finding]:
    """The agent steers around a ToR that cannot be reached, and none has to be steered around now."""
    settings = facts.settings
    if len(settings.tors) < 2:
        return
    if settings.steering is None:
        yield warning(
            "steering",
            "off: while this server reaches only one ToR, the other one still draws half of its pods' traffic",
            "set steering in the rack file, and the route policy on the ToRs (`routed tor-config`, docs/stackless.md)",
        )
    elif isinstance(facts.agent, Unseen):
        yield unknown("steering", "only a running agent watches the sides", "see `agent` above")
    else:
        for row in facts.agent.sessions:
            check, side = f"side {row['tor']}", row["side"]
            advice = _SIDES.get(side)
            if advice is None:
                yield ok(check, side)
            else:
                why = f": {row['side_reason']}" if row["side_reason"] else ""
                yield warning(check, f"{side}{why}", advice.format(**row))


def _reachability(tor: TorSettings, source: IPAddress, echo: Echo | Unseen, *, established: bool) -> Finding:
    check = f"tor {tor.name}"
    test = f"`ping -I {source} {tor.address}`, `ip route get {tor.address} from {source}`"
    if isinstance(echo, Unseen):
        return unknown(check, f"{tor.address}: {echo.why}", f"run as root; see `address {source}` above")
    if echo.answered:
        return ok(check, f"{tor.address} answers ({echo.answered} of {echo.sent})")
    if established:
        return warning(check, f"{tor.address} has a session, but does not answer ICMP echo", "let ICMP through")
    if not echo.sent:
        return error(check, f"there is no route to {tor.address}", f"add a default route by the gateway; {test}")
    return error(
        check,
        f"{tor.address} does not answer",
        f"{test}; is tors.address the ToR's own loopback, and does the ToR announce it?",
    )


def _session(facts: Facts, tor: TorSettings) -> tuple[str | None, str]:
    """Return the state of a ToR's session and the reason for it; None when the agent knows no such neighbour."""
    if isinstance(facts.agent, Unseen):
        return None, ""
    row = next((row for row in facts.agent.sessions if row["address"] == str(tor.address)), None)
    return (None, "") if row is None else (row["state"], row["reason"] or "")


def _session_finding(facts: Facts, tor: TorSettings, state: str | None, reason: str) -> Finding:
    check = f"bgp {tor.name}"
    if isinstance(facts.agent, Unseen):
        return unknown(check, "only a running agent knows its sessions", "see `agent` above")
    if state is None:
        return error(check, "the agent runs with another rack file", facts.keeper.restart)
    if state != "established":
        return error(
            check,
            f"the session is down{f': {reason}' if reason else ''}",
            f"`routed show neighbors`; on {tor.name}, compare AS numbers ({tor.asn} and {facts.settings.bgp.asn}), "
            "neighbour address and password",
        )
    return ok(check, "established")

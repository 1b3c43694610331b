"""The agent's state as rows of plain JSON values: what `routed show` prints. Pure; one function per page.

And as what an audit is told of this server (`server_view`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from bgp.model import Attributes, NeighborStatus, RouteKey, SessionState
from ipam.model import Usage
from ovs_flows.cookies import cookie
from ovs_flows.model import flows_of
from ovs_flows.offload import Layer, PortReport
from ovs_flows.text import format_entries
from routed.audit.model import Announced, Holding, PortView, ServerView, SideView, Unobserved
from routed.domain.intent import Owner, Standing, plan, steers
from routed.domain.sides import Health, Side
from routed.domain.snapshot import DRAINED, Snapshot
from routed.domain.wiring import ofport
from routed.domain.workload import Attachment, IPAddress
from routed.kube.leases import LeaseState
from routed.reconcile.loop import Loop, Work
from routed.telemetry import attachment_state

Rows = list[dict[str, Any]]


def ailment(snapshot: Snapshot, loop: Loop[Owner]) -> str | None:
    """Return why no pod could be attached now, None when one could."""
    return DRAINED if snapshot.draining else blindness(loop)


def blindness(loop: Loop[Owner]) -> str | None:
    """Return which planes cannot be observed, None when all can."""
    blind = [name for name, lane in loop.lanes.items() if lane.actual is None]
    return f"cannot observe {', '.join(blind)}; see the log for the reason" if blind else None


def attachments(snapshot: Snapshot, loop: Loop[Owner]) -> Rows:
    """Return one row per attachment."""
    rows = []
    for key, attachment in snapshot.attachments.items():
        work = loop.works().get(key)
        rows.append(
            {
                "pod": str(attachment.pod),
                "addresses": list(map(str, attachment.addresses)),
                "state": attachment_state(snapshot, loop, key),
                "port": snapshot.place.wire(attachment),
                "ofport": ofport(attachment.slot),
                "vf": attachment.wishes.device,
                "mac": snapshot.place.mac(attachment),
                "container": key.container_id,
                "interface": key.ifname,
                "netns": attachment.netns,
                "error": _error(snapshot, attachment, work),
            }
        )
    return rows


def _error(snapshot: Snapshot, attachment: Attachment, work: Work | None) -> str | None:
    owner = snapshot.owner_elsewhere(attachment)
    if owner is not None:
        return f"cordoned: server {owner} has its address by now; delete the pod"
    if work is not None and work.error is not None:
        return str(work.error)
    return DRAINED if snapshot.draining else None


def offload(snapshot: Snapshot, reports: Mapping[str, PortReport] | None) -> Rows:
    """Return one row per attachment: on which layer its packets are forwarded by now, and why not on a faster one.

    None where nothing has layers, for want of a bridge.
    """
    rows: Rows = []
    if reports is None:
        return rows
    for attachment in snapshot.attachments.values():
        report = reports.get(snapshot.place.wire(attachment), PortReport())
        rows.append(
            {
                "pod": str(attachment.pod),
                "interface": attachment.id.ifname,
                "addresses": list(map(str, attachment.addresses)),
                "port": snapshot.place.wire(attachment),
                "state": report.state,
                **{f"{layer}_packets": report.packets(layer) for layer in reversed(Layer)},
                "reasons": sorted(report.reasons, key=lambda reason: -report.reasons[reason]),
            }
        )
    return rows


def routes(snapshot: Snapshot, loop: Loop[Owner]) -> Rows:
    """Return one row per route and neighbour, wanted or announced."""
    wanted: dict[RouteKey, Attributes] = {}
    for owner in snapshot.attachments:
        asked = plan(snapshot, owner).advertisements
        wanted.update({key: attributes for key, attributes in asked.items() if attributes is not None})
    seen = loop.lanes["advertisements"].actual
    announced: Mapping[Any, Any] = seen or {}
    names = {tor.address: tor.name for tor in snapshot.rack.tors}
    rows = []
    for key in sorted(wanted.keys() | announced.keys(), key=_by_prefix):
        attributes = announced.get(key) or wanted.get(key)
        rows.append(
            {
                "prefix": str(key.prefix),
                "tor": names.get(key.neighbor, str(key.neighbor)),
                "next_hop": str(attributes.next_hop) if isinstance(attributes, Attributes) else None,
                "communities": " ".join(attributes.communities) if isinstance(attributes, Attributes) else "",
                "state": "unknown" if seen is None else _route_state(wanted.get(key), announced.get(key)),
            }
        )
    return rows


def flows(snapshot: Snapshot, loop: Loop[Owner]) -> Rows:
    """Return one row per flow, group or meter on the bridge, as last seen; none where there is no bridge."""
    if "flows" not in loop.lanes:
        return []
    owners: dict[int, str] = dict.fromkeys(plan(snapshot, Standing.HOST).flows, "host")
    owners.update({cookie(one.slot + 1): str(one.pod) for one in snapshot.attachments.values()})
    found: Mapping[Any, Any] = loop.lanes["flows"].actual or {}
    return [
        {"owner": owners.get(key, "stray"), "cookie": f"{key:#x}", "entry": line}
        for key in sorted(found)
        if isinstance(found[key], frozenset)
        for line in format_entries(found[key])
    ]


def neighbors(snapshot: Snapshot, statuses: Mapping[IPAddress, NeighborStatus]) -> Rows:
    """Return one row per BGP neighbour: the session, and how its ToR can be reached."""
    sides = {side.tor: side for side in snapshot.place.sides}
    return [
        {
            "tor": status.name,
            "address": str(address),
            "asn": status.asn,
            "state": "established" if status.state is SessionState.UP else "down",
            "for_s": round(status.age_s),
            "ups": status.ups,
            "ipv4_routes": status.routes.get(4, 0),
            "ipv6_routes": status.routes.get(6, 0),
            "updates_sent": status.updates_sent,
            "defaults": [f"IPv{version}" for version in sorted(status.defaults)],
            "end_of_rib": status.end_of_rib,
            "reason": status.reason or None,
            **_side(sides.get(status.name)),
            "steers": steers(snapshot, address),
        }
        for address, status in statuses.items()
    ]


def _side(side: Side | None) -> dict[str, Any]:
    if side is None:
        return {"member": None, "side": "not watched", "side_reason": None}
    return {"member": side.member, "side": side.health.name.lower(), "side_reason": ", ".join(side.reasons) or None}


def leases(usage: Sequence[Usage], state: LeaseState | None = None) -> Rows:
    """Return one row per pool of the rack: what this server may hand out of it.

    ``rack_idle`` is what no pod of the whole rack uses, where the API server grants leases.
    """
    return [
        {
            "pool": str(pool.prefix),
            "capacity": pool.capacity,
            "used": pool.used,
            "cooling": pool.cooling,
            "free": pool.free,
            **({} if state is None else {"rack_idle": state.idle.get(pool.prefix)}),
        }
        for pool in usage
    ]


def server_view(
    snapshot: Snapshot, loop: Loop[Owner], statuses: Mapping[IPAddress, NeighborStatus], now: datetime
) -> ServerView | Unobserved:
    """Return what an audit is told of this server; not even that when what is announced cannot be seen."""
    seen = loop.lanes["advertisements"].actual
    if seen is None:
        return Unobserved("it cannot see what it announces; see its log for the reason")
    held = [(address, one) for one in snapshot.attachments.values() for address in one.addresses]
    announced = tuple(_announced(snapshot, seen))
    there = {one.prefix.network_address for one in announced}
    return ServerView(
        server=snapshot.server.name,
        rack=snapshot.rack.name,
        at=now,
        holdings=tuple(
            Holding(address, snapshot.server.name, str(one.pod), _is_public(snapshot, loop, one, address in there))
            for address, one in held
        ),
        announced=announced,
        sides=_side_views(snapshot, statuses),
        draining=snapshot.draining,
        ports={address: _port_view(snapshot, loop, one) for address, one in held},
    )


def _is_public(snapshot: Snapshot, loop: Loop[Owner], attachment: Attachment, announced: bool) -> bool:
    """Whether its host routes should exist by now: it was ready at least once, and is not on its way out.

    One that is announced was, since routes come last: ExaBGP may have outlived an agent that had it ready.
    """
    if snapshot.draining or attachment.leaving or snapshot.owner_elsewhere(attachment) is not None:
        return False
    work = loop.works().get(attachment.id)
    return announced or (work is not None and work.reached > 0)


def _announced(snapshot: Snapshot, seen: Mapping[Any, Any]) -> Iterator[Announced]:
    names = {tor.address: tor.name for tor in snapshot.rack.tors}
    for key in sorted(seen, key=_by_prefix):
        if isinstance(seen[key], Attributes):
            tor = names.get(key.neighbor, str(key.neighbor))
            yield Announced(key.prefix, tor, seen[key].next_hop, frozenset(seen[key].communities))


def _side_views(snapshot: Snapshot, statuses: Mapping[IPAddress, NeighborStatus]) -> dict[str, SideView]:
    sides = {side.tor: side for side in snapshot.place.sides}
    views = {}
    for address, status in statuses.items():
        side = sides.get(status.name)
        up = status.state is SessionState.UP
        views[status.name] = SideView(
            session_up=up,
            healthy=side is None or side.health is Health.GOOD,
            steers=steers(snapshot, address),
            reason=", ".join(side.reasons if side is not None else ()) or ("" if up else status.reason),
        )
    return views


def _port_view(snapshot: Snapshot, loop: Loop[Owner], attachment: Attachment) -> PortView:
    lane = loop.lanes.get("flows")
    flows = None if lane is None else lane.actual
    entries = None if flows is None else flows.get(cookie(attachment.slot + 1), frozenset())
    return PortView(
        port=snapshot.place.wire(attachment),
        ofport=ofport(attachment.slot),
        mac=snapshot.place.mac(attachment),
        flows=len(flows_of(entries)) if isinstance(entries, frozenset) else None,
        state=attachment_state(snapshot, loop, attachment.id),
        error=_error(snapshot, attachment, loop.works().get(attachment.id)) or "",
    )


def _by_prefix(key: RouteKey) -> tuple[int, int, int]:
    return key.prefix.version, int(key.prefix.network_address), int(key.neighbor)


def _route_state(wanted: Attributes | None, announced: object) -> str:
    if announced == wanted:
        return "announced"
    return "withdrawing" if wanted is None else "pending"

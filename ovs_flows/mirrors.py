"""The mirrors plane: copies of what a port of the bridge gets and sends, out of another port.

A mirror of ours carries our mark, the port that it is of and whose it is. The port that copies leave by is plugged when
nobody has plugged it, with a mark of its own: the ports plane never sees it, and it goes with its mirror. It is in the
VLAN of our ports, where Open vSwitch puts copies of what they get and send: they leave without a tag. No flow names it,
so what comes in by it is denied as from any port that is no pod's (docs/pipeline.md). Never touches what has no mark of
ours. Schema: ovs-vswitchd.conf.db(5), Mirror.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ovs_flows.errors import ForeignPort, PortError
from ovs_flows.model import Mirror, Port
from ovs_flows.ovsdb import Insert, Ovsdb
from ovs_flows.rows import FOR_COPIES, MARK, is_for_copies, is_ours, misplugged, ofport

_OF, _WHOSE = "port", "attachment"
"""Keys in a mirror's external_ids."""


class Mirrors:
    """Plane: name of the port that is copied -> Mirror."""

    name = "mirrors"
    streams = False

    def __init__(self, ovsdb: Ovsdb) -> None:
        self._ovsdb = ovsdb

    async def observe(self) -> Mapping[str, Mirror]:
        """Return the mirrors that carry our mark; a port that was left of one stands under its own name."""
        return await self._ovsdb.read(lambda api: _observed(self._ovsdb.find_bridge(api), self._ovsdb.vlan))

    async def upsert(self, items: Mapping[str, Mirror]) -> Mapping[str, Exception]:
        """Make these mirrors, in one transaction, and wait until their ports are there."""
        failed = await self._ovsdb.read(lambda api: _unfit(self._ovsdb.find_bridge(api), items))
        wanted = {key: mirror for key, mirror in items.items() if key not in failed}
        if wanted:
            await self._ovsdb.edit(lambda bridge, insert: _make(bridge, insert, wanted, self._ovsdb.vlan))
            plugged = [Port(mirror.target, mirror.ofport) for mirror in wanted.values() if mirror.ofport]
            wrong = await self._ovsdb.read(lambda api: misplugged(_interfaces(self._ovsdb.find_bridge(api)), plugged))
            failed |= {key: wrong[mirror.target] for key, mirror in wanted.items() if mirror.target in wrong}
        return failed

    async def remove(self, keys: Collection[str]) -> Mapping[str, Exception]:
        """End these mirrors, and unplug what was plugged for them."""
        await self._ovsdb.edit(lambda bridge, _: _drop(bridge, keys))
        return {}

    async def number_for(self, device: str, numbers: Iterable[int]) -> int:
        """Return the port number for a device: its own, the first of these that no port has, 0 if others plugged it.

        ForeignPort when it cannot be a mirror's: it is of another bridge, or the server or its pods go by it. PortError
        when no number is free.
        """

        def look(tables: Mapping[str, Any], bridge: Any) -> int:
            own = {port.name: port for port in bridge.ports}
            taken = {row.name for table in ("Port", "Interface") for row in tables[table].rows.values()}
            port = own.get(device)
            if port is None and device in taken:
                raise ForeignPort(f"{device} is plugged into another bridge or bond: name a device that is free")
            if port is None:
                return _free(bridge, numbers)
            if is_ours(port) or device in (bridge.name, self._ovsdb.way_out):
                raise ForeignPort(
                    f"{device} carries packets of pods or of the server: name one that is for copies alone"
                )
            return _asked_for(port.interfaces[0]) if is_for_copies(port) else 0

        return await self._ovsdb.read(lambda api: look(api.tables, self._ovsdb.find_bridge(api)))


def _ours(bridge: Any) -> dict[str, Any]:
    """Return our mirrors' rows by the port that they are of."""
    return {row.external_ids[_OF]: row for row in bridge.mirrors if is_ours(row) and _OF in row.external_ids}


def _asked_for(interface: Any) -> int:
    """Return the number that an interface was plugged with."""
    return interface.ofport_request[0] if interface.ofport_request else 0


def _free(bridge: Any, numbers: Iterable[int]) -> int:
    """Return the first of these numbers that no port of the bridge has or waits for."""
    interfaces = [interface for port in bridge.ports for interface in port.interfaces]
    taken = {*map(ofport, interfaces), *map(_asked_for, interfaces)}
    free = next((number for number in numbers if number not in taken), None)
    if free is None:
        raise PortError(f"bridge {bridge.name} has no port number left for a mirror: stop another one")
    return free


def _interfaces(bridge: Any) -> dict[str, Any]:
    return {port.name: port.interfaces[0] for port in bridge.ports}


def _observed(bridge: Any, vlan: list[int]) -> dict[str, Mirror]:
    rows = _ours(bridge)
    found = {key: _mirror(key, row, vlan) for key, row in rows.items()}
    used = {mirror.target for mirror in found.values()}
    left = (port.name for port in bridge.ports if is_for_copies(port) and port.name not in used)
    return found | {name: Mirror(name, 0, "") for name in left}


def _mirror(key: str, row: Any, vlan: list[int]) -> Mirror:
    """Return what a row is; nobody's, when it copies something else or its port is not as we plugged it."""
    sent, received = ({port.name for port in ports} for ports in (row.select_src_port, row.select_dst_port))
    target = row.output_port[0] if row.output_port else None
    number, whole = 0, target is not None and sent | received == {key}
    if target is not None and is_for_copies(target):
        interface = target.interfaces[0]
        number = _asked_for(interface)
        whole &= number == ofport(interface) > 0 and target.tag == vlan
    return Mirror(
        target="" if target is None else target.name,
        ofport=number,
        whose=row.external_ids.get(_WHOSE, "") if whole else "",
        sent=bool(sent),
        received=bool(received),
    )


def _unfit(bridge: Any, items: Mapping[str, Mirror]) -> dict[str, Exception]:
    """Return an error for each mirror that cannot be made as things are."""
    ports, failed = {port.name: port for port in bridge.ports}, dict[str, Exception]()
    for key, mirror in items.items():
        target = ports.get(mirror.target)
        if key not in ports:
            failed[key] = PortError(f"there is no port {key} to mirror")
        elif mirror.ofport == 0 and target is None:
            failed[key] = PortError(f"port {mirror.target} is not on the bridge any more: stop the mirror")
        elif mirror.ofport and target is not None and not is_for_copies(target):
            failed[key] = ForeignPort(f"a port {mirror.target} exists in Open vSwitch and is not ours")
    return failed


def _make(bridge: Any, insert: Insert, wanted: Mapping[str, Mirror], vlan: list[int]) -> None:
    ports = {port.name: port for port in bridge.ports}
    _drop(bridge, wanted, keep={mirror.target for mirror in wanted.values()})
    for key, mirror in wanted.items():
        target = ports.get(mirror.target)
        if target is None:
            target = _plug(bridge, insert, mirror)
        if is_for_copies(target):
            target.tag = vlan
        row = insert("Mirror")
        row.name = f"routed-{key}"
        row.select_src_port = [ports[key]] if mirror.sent else []
        row.select_dst_port = [ports[key]] if mirror.received else []
        row.output_port = [target]
        row.external_ids = {**MARK, _OF: key, _WHOSE: mirror.whose}
        bridge.addvalue("mirrors", row)


def _plug(bridge: Any, insert: Insert, mirror: Mirror) -> Any:
    interface = insert("Interface")
    interface.name = mirror.target
    interface.ofport_request = [mirror.ofport]
    port = insert("Port")
    port.name = mirror.target
    port.external_ids = dict(FOR_COPIES)
    port.interfaces = [interface]
    bridge.addvalue("ports", port)
    return port


def _drop(bridge: Any, keys: Iterable[str], keep: Collection[str] = ()) -> None:
    """Take mirrors off the bridge, and ports that were plugged for mirrors and serve none any more."""
    rows, gone = _ours(bridge), set(keys)
    for key in gone & rows.keys():
        bridge.delvalue("mirrors", rows[key])
    used = {port.name for key in rows.keys() - gone for port in rows[key].output_port}
    for port in bridge.ports:
        if is_for_copies(port) and port.name not in used | set(keep):
            bridge.delvalue("ports", port)

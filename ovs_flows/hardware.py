"""What keeps flows in a NIC, or out of it, in the Open vSwitch database; and how a server's bridge is set up.

Everything here goes by the connection of `ovs_flows.ovsdb`. Settings do not wait for ovs-vswitchd; ports do.
Schema: ovs-vswitchd.conf.db(5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ovs_flows.errors import PortError
from ovs_flows.ovsdb import Ovsdb
from ovs_flows.rows import ofport, version
from ovs_flows.tables import PREFIX_TABLES

_KNOWS_PREFIXES = (3, 5)
"""The first version that needs not be told which fields are prefixes."""


@dataclass(frozen=True, slots=True)
class HardwareSight:
    """The database, as far as hardware is concerned."""

    offload: bool
    """``hw-offload``."""
    policy: str
    """``tc-policy``: ``none``, ``skip_sw`` or ``skip_hw``."""
    ports: Mapping[str, frozenset[str]]
    """Devices of each bridge, bonds' members included."""
    datapath_type: str
    """Of our bridge, as are those below; empty when there is no such bridge."""
    hwaddr: str
    """The MAC address that it keeps; empty when it changes with its ports."""
    mac: str
    """The one that it has."""
    samplers: tuple[str, ...]
    """``sflow``, ``ipfix``: what copies packets to a collector, which no NIC does."""
    tables_without_prefixes: tuple[int, ...]
    """Those that this version would have to be told about."""


async def look(ovsdb: Ovsdb) -> HardwareSight:
    """Return what the database says; Unreachable when it does not answer."""
    return await ovsdb.read(lambda api: _sight(api.tables, ovsdb.bridge))


async def turn_on(ovsdb: Ovsdb) -> None:
    """Have flows offered to NICs; ports that are plugged already need a restart of ovs-vswitchd."""
    setting = ("other_config", {"hw-offload": "true"})
    await ovsdb.transact(lambda api: api.db_set("Open_vSwitch", ".", setting), applied=False)


async def add_bridge(ovsdb: Ovsdb) -> None:
    """Make the bridge, when there is none; Unreachable when ovs-vswitchd does not run."""
    await ovsdb.transact(lambda api: api.add_br(ovsdb.bridge, may_exist=True))


async def keep_mac(ovsdb: Ovsdb, mac: str) -> None:
    """Have the bridge keep a MAC address, which else is the lowest of its ports' and changes with them."""
    setting = ("other_config", {"hwaddr": mac})
    await ovsdb.transact(lambda api: api.db_set("Bridge", ovsdb.bridge, setting), applied=False)


async def add_port(ovsdb: Ovsdb, port: str) -> None:
    """Plug a device, when it is on no bridge; Unreachable when ovs-vswitchd does not run.

    PortError, and the database is as it was, when it could not: it would try again at every start of the server.
    """
    await ovsdb.transact(lambda api: api.add_port(ovsdb.bridge, port, may_exist=True))
    why = await ovsdb.read(lambda api: _refusal(api.tables["Interface"].rows.values(), port))
    if why:
        await ovsdb.transact(lambda api: api.del_port(port, ovsdb.bridge), applied=False)
        raise PortError(f"OVS could not plug port {port}: {why}")


def _sight(tables: Mapping[str, Any], name: str) -> HardwareSight:
    (root,) = tables["Open_vSwitch"].rows.values()
    bridges = {row.name: row for row in tables["Bridge"].rows.values()}
    bridge = bridges.get(name)
    mac = [] if bridge is None else _interface(bridge, name).mac_in_use
    return HardwareSight(
        offload=root.other_config.get("hw-offload") == "true",
        policy=root.other_config.get("tc-policy", "none"),
        ports={each: _devices(row) for each, row in bridges.items()},
        datapath_type="" if bridge is None else bridge.datapath_type or "system",
        hwaddr="" if bridge is None else bridge.other_config.get("hwaddr", ""),
        mac=mac[0] if mac else "",
        samplers=() if bridge is None else tuple(key for key in ("sflow", "ipfix") if getattr(bridge, key)),
        tables_without_prefixes=() if bridge is None or _knows(root) else _without_prefixes(bridge),
    )


def _knows(root: Any) -> bool:
    return version(root.ovs_version) >= _KNOWS_PREFIXES


def _without_prefixes(bridge: Any) -> tuple[int, ...]:
    told = {number for number, table in bridge.flow_tables.items() if table.prefixes}
    return tuple(sorted(set(PREFIX_TABLES) - told))


def _interface(bridge: Any, name: str) -> Any:
    return next(interface for port in bridge.ports for interface in port.interfaces if interface.name == name)


def _refusal(interfaces: Iterable[Any], name: str) -> str:
    """Return why a port was not plugged; empty when it was."""
    (row,) = (interface for interface in interfaces if interface.name == name)
    if ofport(row):
        return ""
    return row.error[0] if row.error else "no reason given, is ovs-vswitchd running?"


def _devices(bridge: Any) -> frozenset[str]:
    return frozenset(interface.name for port in bridge.ports for interface in port.interfaces)

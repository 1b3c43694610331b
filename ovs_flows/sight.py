"""Open vSwitch and our bridge as the database describes them, right or wrong. Changes nothing.

`Ovsdb.uplink` refuses a bridge that cannot be used; this tells what it is like, for people who look for what is wrong.
Schema: ovs-vswitchd.conf.db(5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ovs_flows.ovsdb import MARK, Ovsdb


@dataclass(frozen=True, slots=True)
class InterfaceSight:
    """One device of a port; a bond has several."""

    name: str
    ofport: int
    """0 when OVS could not plug it."""
    error: str
    """What OVS says of that."""
    lacp_current: bool | None
    """Whether the partner's LACP messages arrive; None without LACP."""


@dataclass(frozen=True, slots=True)
class PortSight:
    """One port of the bridge."""

    interfaces: tuple[InterfaceSight, ...]
    lacp: bool
    """Whether it is a bond that speaks LACP by itself."""


@dataclass(frozen=True, slots=True)
class BridgeSight:
    """Our bridge."""

    fail_mode: str
    ours: bool
    """Whether it carries our mark."""
    controllers: tuple[str, ...]
    """Who else programs it."""
    ports: Mapping[str, PortSight]


@dataclass(frozen=True, slots=True)
class SwitchSight:
    """The whole switch."""

    version: str
    """Empty when ovs-vswitchd never ran on this database."""
    bridges: tuple[str, ...]
    bridge: BridgeSight | None
    """None when there is no bridge of our name."""


async def look(ovsdb: Ovsdb) -> SwitchSight:
    """Return what the database says; Unreachable when it does not answer."""
    return await ovsdb.read(lambda api: _switch(api.tables, ovsdb.bridge))


def _switch(tables: Mapping[str, Any], name: str) -> SwitchSight:
    bridges = {row.name: row for row in tables["Bridge"].rows.values()}
    root = next(iter(tables["Open_vSwitch"].rows.values()), None)
    return SwitchSight(
        version=_text(root.ovs_version) if root is not None else "",
        bridges=tuple(sorted(bridges)),
        bridge=_bridge(bridges[name]) if name in bridges else None,
    )


def _bridge(row: Any) -> BridgeSight:
    return BridgeSight(
        fail_mode=_text(row.fail_mode) or "standalone",
        ours=all(row.external_ids.get(key) == value for key, value in MARK.items()),
        controllers=tuple(sorted(controller.target for controller in row.controller)),
        ports={port.name: _port(port) for port in row.ports},
    )


def _port(row: Any) -> PortSight:
    interfaces = (
        InterfaceSight(
            name=interface.name,
            ofport=max(interface.ofport[0], 0) if interface.ofport else 0,
            error=_text(interface.error),
            lacp_current=interface.lacp_current[0] if interface.lacp_current else None,
        )
        for interface in row.interfaces
    )
    return PortSight(
        interfaces=tuple(sorted(interfaces, key=lambda interface: interface.name)),
        lacp=_text(row.lacp) in ("active", "passive"),
    )


def _text(column: list[str]) -> str:
    """Return the value of a column that may be empty."""
    return column[0] if column else ""

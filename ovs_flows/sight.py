"""Open vSwitch and our bridge as they describe themselves, right or wrong. Changes nothing.

`Ovsdb.uplink` refuses a bridge that cannot be used; this tells what it is like, for people who look for what is wrong.
Schema: ovs-vswitchd.conf.db(5).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovs_flows import messages
from ovs_flows.connection import Connection
from ovs_flows.errors import Unreachable
from ovs_flows.messages import Message
from ovs_flows.ovsdb import Ovsdb
from ovs_flows.rows import is_for_copies, is_ours, ofport, tag

_DESCRIPTION = Message(messages.MULTIPART_REQUEST, struct.pack("!HH4x", 0, 0))
_SOFTWARE = slice(512, 768)
"""Where a switch's description names its software (OpenFlow 1.4 7.3.5.1)."""


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
    tag: int | None = None
    """VLAN of its untagged frames, None for a trunk."""
    ours: bool = False
    """Whether we plugged it, for a pod or for a mirror."""


@dataclass(frozen=True, slots=True)
class BridgeSight:
    """Our bridge."""

    fail_mode: str
    owner: str
    """Who marked it as theirs; ``routed`` once an agent has taken it over, empty before."""
    controllers: tuple[str, ...]
    """Who else programs it."""
    ports: Mapping[str, PortSight]


@dataclass(frozen=True, slots=True)
class SwitchSight:
    """The whole switch."""

    bridges: tuple[str, ...]
    bridge: BridgeSight | None
    """None when there is no bridge of our name."""


async def look(ovsdb: Ovsdb) -> SwitchSight:
    """Return what the database says; Unreachable when it does not answer."""
    return await ovsdb.read(lambda api: _switch(api.tables, ovsdb.bridge))


async def software(management: Path) -> str:
    """Return the version of the switch behind a bridge's management socket; Unreachable when none answers.

    The database has a column for it, which only the start script writes.
    """
    connection = await Connection.open(management, lambda: None)
    try:
        answer = await connection.exchange([_DESCRIPTION])
    finally:
        connection.close()
    description = b"".join(answer.parts.get(answer.first, ()))
    if len(description) < _SOFTWARE.stop:
        raise Unreachable(f"the switch on {management} does not describe itself")
    return description[_SOFTWARE].rstrip(b"\0").decode(errors="replace")


def _switch(tables: Mapping[str, Any], name: str) -> SwitchSight:
    bridges = {row.name: row for row in tables["Bridge"].rows.values()}
    return SwitchSight(
        bridges=tuple(sorted(bridges)),
        bridge=_bridge(bridges[name]) if name in bridges else None,
    )


def _bridge(row: Any) -> BridgeSight:
    return BridgeSight(
        fail_mode=_text(row.fail_mode) or "standalone",
        owner=row.external_ids.get("owner", ""),
        controllers=tuple(sorted(controller.target for controller in row.controller)),
        ports={port.name: _port(port) for port in row.ports},
    )


def _port(row: Any) -> PortSight:
    interfaces = (
        InterfaceSight(
            name=interface.name,
            ofport=ofport(interface),
            error=_text(interface.error),
            lacp_current=interface.lacp_current[0] if interface.lacp_current else None,
        )
        for interface in row.interfaces
    )
    return PortSight(
        interfaces=tuple(sorted(interfaces, key=lambda interface: interface.name)),
        lacp=_text(row.lacp) in ("active", "passive"),
        tag=tag(row),
        ours=is_ours(row) or is_for_copies(row),
    )


def _text(column: list[str]) -> str:
    """Return the value of a column that may be empty."""
    return column[0] if column else ""

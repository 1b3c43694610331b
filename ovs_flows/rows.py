"""What rows of the Open vSwitch database say: our mark, port numbers, the uplink, what went wrong.

Pure: reads attributes of rows and nothing else; `ovs_flows.ovsdb` gets the rows. Schema: ovs-vswitchd.conf.db(5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ovs_flows.errors import BridgeError, PortError, Unreachable
from ovs_flows.model import Port

MARK = {"owner": "routed"}
"""What our bridge and ports carry in external_ids."""
FOR_COPIES = {"owner": "routed-mirror"}
"""What ports carry in external_ids that are there for a mirror alone."""
DEVICE = "ifindex"
"""Key in a port's external_ids: index of the device that was plugged. The userspace datapath holds on to a device that
is deleted, and never notices the next one of the same name."""
NOWHERE = 4095
"""VLAN of our ports, a tag that no frame may have: what a `NORMAL` flow floods, whoever's, reaches no pod. A flow that
names a port does not look at its VLAN."""


@dataclass(frozen=True, slots=True)
class Stranger:
    """A device on the bridge that is neither ours, for mirrors included, nor the uplink's."""

    name: str
    ofport: int
    tag: int | None
    """VLAN that its untagged frames belong to; None for one that tags its frames itself."""


@dataclass(frozen=True, slots=True)
class UplinkPorts:
    """What OVS says of the way out of this server."""

    ofports: tuple[int, ...]
    """One for a NIC or a kernel bond, one per member of an OVS bond; a member without a device is left out."""
    devices: tuple[str, ...]
    """Network device of each, in the same order."""
    mtu: int
    """Smallest of them, bytes."""
    mac: str
    """MAC address of the bridge's own interface: the host's."""
    datapath_type: str
    """``system`` for the kernel's, ``netdev`` for the userspace one."""
    lapsed: frozenset[str] = frozenset()
    """Devices whose LACP partner does not answer; of a bond that is OVS's own."""
    strangers: tuple[Stranger, ...] = ()
    """By port number; without those that OVS could not plug."""
    offloads: bool = False
    """Whether Open vSwitch offers every flow to TC, where a NIC may take it."""


def is_ours(row: Any) -> bool:
    """Tell whether a row carries our mark."""
    return _carries(row, MARK)


def is_for_copies(port: Any) -> bool:
    """Tell whether we plugged a port for a mirror."""
    return _carries(port, FOR_COPIES)


def _carries(row: Any, mark: Mapping[str, str]) -> bool:
    return all(row.external_ids.get(key) == value for key, value in mark.items())


def ofport(interface: Any) -> int:
    """Return the OpenFlow port number; 0 when there is none (OVS writes nothing or -1)."""
    return max(interface.ofport[0], 0) if interface.ofport else 0


def live_ofport(port: Any) -> int:
    """Return the number of a port of ours; 0 also when it holds another device than the one that is there."""
    interface = port.interfaces[0]
    return ofport(interface) if port.external_ids.get(DEVICE) == device(interface) else 0


def device(interface: Any) -> str:
    """Return the index of the network device behind an interface, 0 when there is none."""
    return str(interface.ifindex[0]) if interface.ifindex else "0"


def read_uplink(switch: Any, bridge: Any, name: str) -> UplinkPorts:
    """Return the bridge's way out; BridgeError when the uplink is not one of its ports.

    Unreachable while ovs-vswitchd has not told what there is: a database that was restarted has forgotten it.
    ``switch`` is the row of the whole switch, the database's root.
    """
    ports = {port.name: port for port in bridge.ports}
    if name not in ports:
        raise BridgeError(
            f"uplink {name} is not a port of bridge {bridge.name}: plug it (ovs-vsctl add-port {bridge.name} {name}) "
            f"or name another; it has {', '.join(sorted(ports.keys() - {bridge.name})) or 'no ports'}"
        )
    own = ports[bridge.name].interfaces[0]
    if not own.mac_in_use:
        raise Unreachable(f"the database does not know the address of bridge {bridge.name}: is ovs-vswitchd running?")
    plugged = sorted((ofport(interface), interface) for interface in ports[name].interfaces if ofport(interface))
    return UplinkPorts(
        ofports=tuple(number for number, _ in plugged),
        devices=tuple(interface.name for _, interface in plugged),
        mtu=min(
            (interface.mtu[0] for _, interface in plugged if interface.mtu), default=own.mtu[0] if own.mtu else 1500
        ),
        mac=own.mac_in_use[0],
        datapath_type=bridge.datapath_type or "system",
        offloads=bridge.datapath_type in ("", "system") and switch.other_config.get("hw-offload") == "true",
        lapsed=frozenset(interface.name for _, interface in plugged if interface.lacp_current == [False]),
        strangers=_strangers(port for port in bridge.ports if port.name not in (bridge.name, name)),
    )


def _strangers(ports: Iterable[Any]) -> tuple[Stranger, ...]:
    found = (
        Stranger(interface.name, ofport(interface), tag(port))
        for port in ports
        if not (is_ours(port) or is_for_copies(port))
        for interface in port.interfaces
        if ofport(interface)
    )
    return tuple(sorted(found, key=lambda stranger: stranger.ofport))


def tag(port: Any) -> int | None:
    """Return the VLAN of an access port; None for a trunk."""
    return port.tag[0] if port.tag else None


def misplugged(interfaces: Mapping[str, Any], wanted: Iterable[Port]) -> dict[str, Exception]:
    """Return an error for each port that OVS did not plug as asked."""
    failed: dict[str, Exception] = {}
    for port in wanted:
        interface = interfaces.get(port.name)
        given = 0 if interface is None else ofport(interface)
        if given == port.ofport:
            continue
        said = f" ({interface.error[0]})" if interface is not None and interface.error else ""
        failed[port.name] = PortError(
            f"OVS plugged port {port.name} as number {given} instead of {port.ofport}: another port holds that number, "
            f"find it with: ovs-vsctl --columns=name find Interface ofport={port.ofport}"
            if given
            else f"OVS could not plug port {port.name}{said}: create its network device first"
        )
    return failed


def version(text: list[str] | str) -> tuple[int, ...]:
    """Return a version as numbers: ``3.1.0`` is (3, 1, 0)."""
    first = text[0] if isinstance(text, list) and text else str(text or "")
    return tuple(int(part) for part in first.split(".") if part.isdigit())

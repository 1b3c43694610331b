"""The bridge and its ports in the Open vSwitch database.

Owns the database connection, the settings of our bridge, what is known of its uplink, and the ports plane. The only
file that imports ovs and ovsdbapp. Never creates a bridge, never touches another one, never removes a port without our
mark (`external_ids`). Schema: ovs-vswitchd.conf.db(5). `ovs_flows.hardware` sets a server up by the same connection.

ovsdbapp keeps a copy of the database in a thread of its own and commits there; all that may wait runs in a worker
thread. Statistics and status columns are not monitored: OVS rewrites them every few seconds for every port.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import structlog
from ovs.db.idl import Idl
from ovsdbapp.backend.ovs_idl import idlutils
from ovsdbapp.backend.ovs_idl.command import BaseCommand
from ovsdbapp.backend.ovs_idl.connection import Connection
from ovsdbapp.backend.ovs_idl.transaction import Transaction
from ovsdbapp.exceptions import TimeoutException
from ovsdbapp.schema.open_vswitch.impl_idl import OvsdbIdl, OvsVsctlTransaction

from ovs_flows.errors import BridgeError, ForeignPort, Unreachable
from ovs_flows.model import Port
from ovs_flows.rows import (
    DEVICE,
    MARK,
    NOWHERE,
    UplinkPorts,
    device,
    is_ours,
    live_ofport,
    misplugged,
    ofport,
    read_uplink,
    version,
)
from ovs_flows.tables import PREFIX_TABLES

__all__ = ["MARK", "Insert", "Ovsdb", "Ports", "UplinkPorts"]

T = TypeVar("T")
Insert = Callable[[str], Any]
"""Makes a new row of a table."""
_SETTINGS = {"disable-in-band": "true"}
_PREFIXES = ("ip_dst", "ip_src", "ipv6_dst")
"""All three that OVS before 3.5 allows per table; later versions know by themselves."""
_COLUMNS = {
    "Open_vSwitch": ("bridges", "cur_cfg", "next_cfg", "ovs_version", "other_config"),
    "Bridge": (
        *("name", "ports", "datapath_type", "controller", "sflow", "ipfix"),
        *("fail_mode", "other_config", "external_ids", "flow_tables", "mirrors"),
    ),
    "Port": ("name", "interfaces", "external_ids", "lacp", "tag"),
    "Interface": (
        "name",
        "type",
        "ofport",
        "ofport_request",
        "error",
        "mtu",
        "mtu_request",
        "mac_in_use",
        "ifindex",
        "lacp_current",
    ),
    "Flow_Table": ("prefixes",),
    "Mirror": ("name", "select_src_port", "select_dst_port", "output_port", "external_ids"),
    "Controller": ("target",),
    "sFlow": ("targets",),
    "IPFIX": ("targets",),
}
_TIMEOUT_S = 10
"""For one commit, the switch's part included."""
_STOP_S = 1
_RETRY_S = 0.1
_RETRY_MAX_S = 2.0

log = structlog.get_logger(__name__)


class Ovsdb:
    """Connection to the database, and our bridge in it."""

    def __init__(self, socket: Path, bridge: str, uplink: str, wake: Callable[[], None]) -> None:
        """Connect to nothing yet."""
        self._remote = f"unix:{socket}"
        self.bridge = bridge
        self.way_out = uplink
        """Name of the port that the server goes out by."""
        self._wake = wake
        self._api: _Api | None = None
        self.vlan = [NOWHERE]
        """Of our ports, as the database has it."""
        self.ports = Ports(self)

    async def run(self) -> None:
        """Keep the connection until cancelled; wakes the loop when it is there and whenever the bridge changes."""
        loop = asyncio.get_running_loop()

        def changed() -> None:
            if self._api is not None:  # the first copy is no change
                loop.call_soon_threadsafe(self._wake)

        connection = await self._connect(changed)
        try:
            self._api = _Api(connection)
            log.info("ovsdb.connected", remote=self._remote)
            self._wake()
            await asyncio.Event().wait()  # the library reconnects by itself; the copy's changes wake the loop
        finally:
            self._api = None
            await asyncio.to_thread(connection.stop, _STOP_S)

    async def _connect(self, changed: Callable[[], None]) -> Connection:
        delay = _RETRY_S
        while True:
            try:
                return await asyncio.to_thread(_connect, self._remote, changed)
            except Exception as error:  # noqa: BLE001 - the library raises bare Exception when nobody listens
                if delay == _RETRY_S:
                    log.warning("ovsdb.unreachable", remote=self._remote, error=str(error))
            await asyncio.sleep(delay)
            delay = min(2 * delay, _RETRY_MAX_S)

    async def configure(self) -> None:
        """Make the settings right: fail mode, in-band control, our mark, our ports' VLAN, prefix tables, the MTU.

        Returns when no port of ours takes part in what the bridge switches by itself: who makes it do so comes later.
        Raises BridgeError, with nothing changed, when the bridge is not there, when the uplink is not on it, or when
        somebody else programs it; Unreachable when the database does not answer.
        """
        uplink = await self.uplink()
        exposed = await self.read(self._exposed)
        await self.transact(lambda api: _Configure(api, self.bridge, uplink.mtu, self.vlan), applied=exposed)

    async def uplink(self) -> UplinkPorts:
        """Return what the bridge goes out by; BridgeError or Unreachable as in `configure`."""
        return await self.read(lambda api: read_uplink(api.root, self.find_bridge(api), self.way_out))

    def _exposed(self, api: _Api) -> bool:
        """Tell whether a port of ours is not yet in its VLAN."""
        return any(is_ours(port) and port.tag != self.vlan for port in self.find_bridge(api).ports)

    def find_bridge(self, api: _Api) -> Any:
        """Return our bridge's row; BridgeError when it is not there or not ours to program."""
        bridge = idlutils.row_by_value(api.idl, "Bridge", "name", self.bridge, None)
        if bridge is None:
            raise BridgeError(f"there is no bridge {self.bridge}: create it (ovs-vsctl add-br {self.bridge})")
        if bridge.controller:
            raise BridgeError(
                f"bridge {self.bridge} is programmed by a controller: give it up to us "
                f"(ovs-vsctl del-controller {self.bridge}) or name another bridge"
            )
        owner = bridge.external_ids.get("owner", MARK["owner"])
        if owner != MARK["owner"]:
            raise BridgeError(
                f"bridge {self.bridge} belongs to {owner}: give it up to us "
                f"(ovs-vsctl remove bridge {self.bridge} external_ids owner) or name another bridge"
            )
        return bridge

    def _connected(self) -> _Api:
        if self._api is None:
            raise Unreachable(f"no connection to the database at {self._remote}")
        return self._api

    async def read(self, look: Callable[[_Api], T]) -> T:
        """Look at the copy, in a worker thread since a running commit may hold it."""
        api = self._connected()

        def locked() -> T:
            with api.ovsdb_connection.lock:
                api.check_fresh()
                return look(api)

        return await asyncio.to_thread(locked)

    async def edit(self, change: Callable[[Any, Insert], None]) -> None:
        """Change our bridge's row, and what hangs on it, in one transaction; wait until the switch has done it."""
        await self.transact(lambda api: _Edit(api, self.find_bridge(api), change))

    async def transact(self, make: Callable[[_Api], BaseCommand], *, applied: bool = True) -> None:
        """Commit one command, if it changes anything; with ``applied`` wait until the switch has done its part."""
        api = self._connected()
        command = await self.read(make)
        kind = OvsVsctlTransaction if applied else Transaction

        def commit() -> None:
            with kind(api, api.ovsdb_connection, check_error=True, log_errors=False) as transaction:
                transaction.add(command)

        try:
            await asyncio.to_thread(commit)
        except TimeoutException as error:
            raise Unreachable(f"OVS did not apply the change in {_TIMEOUT_S} s: is ovs-vswitchd running?") from error
        except RuntimeError as error:  # what ovsdbapp makes of an error of the database
            raise Unreachable(f"the database did not take the change: {error}") from error


class Ports:
    """Plane: port name -> Port, for the ports of our bridge that carry our mark."""

    name = "ports"
    streams = False

    def __init__(self, ovsdb: Ovsdb) -> None:
        self._ovsdb = ovsdb

    async def observe(self) -> Mapping[str, Port]:
        """Return our ports with the numbers that OVS gave them, 0 where it gave none."""
        return await self._ovsdb.read(self._ours)

    def _ours(self, api: _Api) -> dict[str, Port]:
        bridge = self._ovsdb.find_bridge(api)
        return {port.name: Port(port.name, live_ofport(port)) for port in bridge.ports if is_ours(port)}

    async def upsert(self, items: Mapping[str, Port]) -> Mapping[str, Exception]:
        """Plug these ports in one transaction; a port counts when OVS reports the number that was asked for."""
        failed: dict[str, Exception] = dict(await self._foreign(items))
        wanted = [port for name, port in items.items() if name not in failed]
        if wanted:
            there = await self.observe()
            stale = [port.name for port in wanted if port.name in there and not there[port.name].ofport]
            bridge, vlan = self._ovsdb.bridge, self._ovsdb.vlan
            if stale:
                await self._ovsdb.transact(lambda api: _Unplug(api, bridge, stale))
            await self._ovsdb.transact(lambda api: _Plug(api, bridge, wanted, vlan))
            await self._ovsdb.transact(lambda api: _NoteDevices(api, bridge), applied=False)
            failed |= await self._ovsdb.read(lambda api: misplugged(_interfaces(api), wanted))
        return failed

    async def remove(self, keys: Collection[str]) -> Mapping[str, Exception]:
        """Unplug these ports in one transaction; a foreign port is left alone and reported."""
        failed = await self._foreign(keys)
        bridge = self._ovsdb.bridge
        await self._ovsdb.transact(lambda api: _Unplug(api, bridge, keys - failed.keys()))
        return failed

    async def _foreign(self, names: Iterable[str]) -> Mapping[str, Exception]:
        """Return an error for each name that a port of somebody else has, on whichever bridge."""

        def look(api: _Api) -> dict[str, Exception]:
            taken = {row.name for table in ("Port", "Interface") for row in api.tables[table].rows.values()}
            taken -= self._ours(api).keys()
            return {
                name: ForeignPort(
                    f"a port {name} exists in Open vSwitch and is not ours: remove it (ovs-vsctl del-port {name})"
                )
                for name in names
                if name in taken
            }

        return await self._ovsdb.read(look)


# --- the copy of the database ----------------------------------------------------------------------------------------


class _Copy(Idl):  # type: ignore[misc] # the library ships no types
    """The library's copy of the database; tells when something changed that we look at."""

    def __init__(self, remote: str, helper: Any, changed: Callable[[], None]) -> None:
        self._changed = changed
        super().__init__(remote, helper)

    def notify(self, event: str, row: Any, updates: Any = None) -> None:
        """Called by the library in its own thread, after each change of a row."""
        del event
        root = row._table.name == "Open_vSwitch"  # noqa: SLF001 - no public way
        if not root or hasattr(updates, "other_config"):  # the root row counts every commit
            self._changed()


class _Api(OvsdbIdl):  # type: ignore[misc] # the library ships no types
    """The library's commands on a connection of its own; the library would share one per process."""

    def __init__(self, connection: Connection) -> None:
        self._own = connection
        super().__init__(connection)

    @property
    def ovsdb_connection(self) -> Connection:
        """The connection, which the library looks for under this name."""
        return self._own

    @ovsdb_connection.setter
    def ovsdb_connection(self, connection: Connection) -> None:
        self._own = connection

    @property
    def root(self) -> Any:
        """The row of the whole switch."""
        return self._ovs

    def check_fresh(self) -> None:
        """Raise Unreachable while the copy may be out of date."""
        if not self.idl._session.is_connected() or self.idl.state != Idl.IDL_S_MONITORING:  # noqa: SLF001 - no public way
            raise Unreachable("the connection to the Open vSwitch database is down")


def _connect(remote: str, changed: Callable[[], None]) -> Connection:
    helper = idlutils.get_schema_helper(remote, "Open_vSwitch")
    for table, columns in _COLUMNS.items():
        helper.register_columns(table, list(columns))
    connection = Connection(_Copy(remote, helper, changed), timeout=_TIMEOUT_S)
    connection.start()
    return connection


def _interfaces(api: _Api) -> dict[str, Any]:
    return {interface.name: interface for interface in api.tables["Interface"].rows.values()}


# --- commands --------------------------------------------------------------------------------------------------------


class _Configure(BaseCommand):  # type: ignore[misc] # the library ships no types
    """Make the settings of the bridge right; writes only what is wrong."""

    def __init__(self, api: _Api, bridge: str, mtu: int, vlan: list[int]) -> None:
        super().__init__(api)
        self._bridge = bridge
        self._mtu = mtu
        self._vlan = vlan

    def run_idl(self, txn: Any) -> None:
        """Called by the library inside the transaction."""
        bridge = idlutils.row_by_value(self.api.idl, "Bridge", "name", self._bridge)
        if bridge.fail_mode != ["secure"]:
            bridge.fail_mode = ["secure"]
        for column, wanted in (("other_config", _SETTINGS), ("external_ids", MARK)):
            for key, value in wanted.items():
                if getattr(bridge, column).get(key) != value:
                    bridge.setkey(column, key, value)
        own = idlutils.row_by_value(self.api.idl, "Interface", "name", self._bridge)
        if own.mtu_request != [self._mtu]:
            own.mtu_request = [self._mtu]
        for port in bridge.ports:
            if is_ours(port) and port.tag != self._vlan:
                port.tag = self._vlan
        if version(self.api.root.ovs_version) < (3, 5):
            for number in PREFIX_TABLES:
                self._set_prefixes(txn, bridge, number)

    def _set_prefixes(self, txn: Any, bridge: Any, number: int) -> None:
        table = bridge.flow_tables.get(number)
        if table is None:
            table = txn.insert(self.api.tables["Flow_Table"])
            table.prefixes = list(_PREFIXES)
            bridge.setkey("flow_tables", number, table.uuid)
        elif set(table.prefixes) != set(_PREFIXES):
            table.prefixes = list(_PREFIXES)


class _Edit(BaseCommand):  # type: ignore[misc] # the library ships no types
    """Have somebody else change rows."""

    def __init__(self, api: _Api, bridge: Any, change: Callable[[Any, Insert], None]) -> None:
        super().__init__(api)
        self._bridge = bridge
        self._change = change

    def run_idl(self, txn: Any) -> None:
        """Called by the library inside the transaction."""
        self._change(self._bridge, lambda table: txn.insert(self.api.tables[table]))


class _Plug(BaseCommand):  # type: ignore[misc] # the library ships no types
    """Make ports with our mark; asks for the number of those that are there."""

    def __init__(self, api: _Api, bridge: str, wanted: Iterable[Port], vlan: list[int]) -> None:
        super().__init__(api)
        self._bridge = bridge
        self._wanted = wanted
        self._vlan = vlan

    def run_idl(self, txn: Any) -> None:
        """Called by the library inside the transaction."""
        bridge = idlutils.row_by_value(self.api.idl, "Bridge", "name", self._bridge)
        there = {port.name: port.interfaces[0] for port in bridge.ports}
        for wanted in self._wanted:
            interface = there.get(wanted.name)
            if interface is None:
                self._insert(txn, bridge, wanted)
            elif interface.ofport_request != [wanted.ofport]:
                interface.ofport_request = [wanted.ofport]

    def _insert(self, txn: Any, bridge: Any, wanted: Port) -> None:
        interface = txn.insert(self.api.tables["Interface"])
        interface.name = wanted.name
        interface.ofport_request = [wanted.ofport]
        port = txn.insert(self.api.tables["Port"])
        port.name = wanted.name
        port.external_ids = dict(MARK)
        port.tag = self._vlan
        port.interfaces = [interface]
        bridge.addvalue("ports", port)


class _NoteDevices(BaseCommand):  # type: ignore[misc] # the library ships no types
    """Write down which device each port of ours was plugged with; those that have a note keep it."""

    def __init__(self, api: _Api, bridge: str) -> None:
        super().__init__(api)
        self._bridge = bridge

    def run_idl(self, txn: Any) -> None:
        """Called by the library inside the transaction."""
        del txn
        bridge = idlutils.row_by_value(self.api.idl, "Bridge", "name", self._bridge)
        for port in bridge.ports:
            if is_ours(port) and DEVICE not in port.external_ids and ofport(port.interfaces[0]):
                port.setkey("external_ids", DEVICE, device(port.interfaces[0]))


class _Unplug(BaseCommand):  # type: ignore[misc] # the library ships no types
    """Take ports with our mark off the bridge."""

    def __init__(self, api: _Api, bridge: str, names: Collection[str]) -> None:
        super().__init__(api)
        self._bridge = bridge
        self._names = names

    def run_idl(self, txn: Any) -> None:
        """Called by the library inside the transaction."""
        del txn
        bridge = idlutils.row_by_value(self.api.idl, "Bridge", "name", self._bridge)
        for port in bridge.ports:
            if port.name in self._names and is_ours(port):
                bridge.delvalue("ports", port)

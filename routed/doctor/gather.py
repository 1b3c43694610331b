"""Looks at this server. Changes nothing; what cannot be seen becomes `Unseen`, never an assumption.

ICMP echo makes the kernel resolve the gateway, as any packet would; that is all that anybody could notice.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from icmplib import ICMPLibError, async_ping

from bgp.config import read_password
from bgp.errors import PasswordError
from ipam.database import APPLICATION_ID
from ovs_flows.errors import OvsError
from ovs_flows.sight import SwitchSight, look, software
from routed.attach.errors import KernelError
from routed.attach.hostfacts import broadcast_neighbor
from routed.attach.hostfacts import settings as sysctls
from routed.attach.kernel import Rtnl
from routed.attach.sysfs import discover
from routed.cni.install import CONFIGURATION, can_map
from routed.doctor.database import database
from routed.doctor.facts import (
    KUBELET,
    SYSTEMD,
    Agent,
    Bond,
    Echo,
    Facts,
    File,
    Files,
    Keeper,
    Network,
    Unseen,
    ledger_path,
    members,
)
from routed.domain.rack import Server
from routed.domain.workload import IPAddress
from routed.settings import Settings, VfPolicy

DRIVERS = ("macvlan", "veth")
"""Kernel drivers that slots are made of."""
SHARED_DRIVERS = ("ipvlan", "veth", "sch_ingress", "cls_flower", "act_gact", "act_mirred", "act_skbmod")
"""And on a server whose pods share its uplink."""
_NETWORKING = {driver: f"NET_{driver.upper()}" for driver in SHARED_DRIVERS[2:]}
"""Options of the kernel that are not called as their modules are."""
_PATIENCE_S = 3.0
"""Longest wait for the agent's health page."""
_ECHOES, _ECHO_INTERVAL_S, _ECHO_PATIENCE_S = 3, 0.1, 1.0
_SQLITE_HEADER, _SQLITE_APPLICATION_ID = b"SQLite format 3\0", slice(68, 72)  # https://sqlite.org/fileformat.html#1.3


@dataclass(frozen=True, slots=True)
class RuntimeFolders:
    """Where the container runtime looks."""

    configurations: Path
    plugins: Path


async def gather(
    settings: Settings, server: Server, sessions: tuple[Mapping[str, Any], ...] | Unseen, runtime: RuntimeFolders
) -> Facts:
    """Look at everything; ``sessions`` is what the agent said of its neighbours."""
    async with asyncio.TaskGroup() as group:
        switch = group.create_task(_switch(settings))
        version = group.create_task(_version(settings))
        agent = group.create_task(_agent(settings, sessions))
        echoes = group.create_task(_echoes(settings, server))
    bond = _bond(settings.uplink)
    devices = members(settings, bond, switch.result())
    release = platform.release()
    return Facts(
        settings=settings,
        server=server,
        root=os.geteuid() == 0,
        release=release,
        drivers={
            driver: has_driver(driver, release) for driver in (DRIVERS if settings.ipvlan is None else SHARED_DRIVERS)
        },
        network=_network(settings.device, {settings.uplink, *devices}),
        bond=bond,
        switch_ids={device: _sysfs(f"{device}/phys_switch_id") or None for device in devices},
        switch=switch.result(),
        version=version.result(),
        agent=agent.result(),
        files=_files(settings, runtime),
        echoes=echoes.result(),
        pfs=0 if settings.bridge.vfs is VfPolicy.NEVER else len(discover(settings.paths.sysfs, ())),
        keeper=keeper(os.environ),
    )


def keeper(environment: Mapping[str, str]) -> Keeper:
    """Return who starts the agent; a container's image says in `container` that it is one."""
    return KUBELET if environment.get("container") else SYSTEMD


# --- the kernel ------------------------------------------------------------------------------------------------------


def has_driver(name: str, release: str) -> bool | None:
    """Tell whether a driver is loaded, built in or loadable: what modprobe(8) would find, without running it."""
    modules = Path("/lib/modules", release)
    if Path("/sys/module", name).is_dir():
        return True
    for index in ("modules.builtin", "modules.dep"):
        for line in _lines(modules / index):
            if Path(line.partition(":")[0]).name.partition(".")[0] == name:
                return True
    configuration, option = _kernel_configuration(release), f"CONFIG_{_NETWORKING.get(name, name.upper())}"
    if f"{option}=y" in configuration:
        return True
    told = modules.is_dir() or f"{option}=m" not in configuration  # a module may be where it cannot be seen from here
    return False if configuration and told else None


def _kernel_configuration(release: str) -> list[str]:
    """Return the lines of the running kernel's configuration; none when it is nowhere to be found."""
    try:
        return zlib.decompress(Path("/proc/config.gz").read_bytes(), zlib.MAX_WBITS | 16).decode().splitlines()
    except OSError:
        return _lines(Path(f"/boot/config-{release}"))


def _network(bridge: str, names: Iterable[str]) -> Network | Unseen:
    try:
        with Rtnl() as home:
            own = home.device(bridge)
            return Network(
                devices={bridge: own} | {name: home.device(name) for name in names},
                addresses=() if own is None else tuple(home.addresses(own.index)),
                neighbours={} if own is None else {entry.address: entry for entry in home.neighbours(own.index)},
                sysctls=sysctls(bridge),
            )
    except KernelError as error:
        return Unseen(str(error))


def _bond(uplink: str) -> Bond | None:
    mode = _sysfs(f"{uplink}/bonding/mode")
    if mode is None:
        return None
    return Bond(
        mode=mode.partition(" ")[0],
        members=tuple(sorted((_sysfs(f"{uplink}/bonding/slaves") or "").split())),
        partner=_sysfs(f"{uplink}/bonding/ad_partner_mac") or "",
        broadcast_neighbor=broadcast_neighbor(uplink),
    )


def _sysfs(name: str) -> str | None:
    """Return an attribute of a device; None when it has none (drivers without a switch refuse to be read)."""
    lines = _lines(Path("/sys/class/net", name))
    return lines[0].strip() if lines else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


# --- Open vSwitch ----------------------------------------------------------------------------------------------------

_NO_SWITCH = Unseen("pods of this server share an uplink, without a bridge")


async def _switch(settings: Settings) -> SwitchSight | Unseen:
    if settings.ipvlan is not None:
        return _NO_SWITCH
    socket = settings.paths.ovs / "db.sock"
    async with database(socket, settings.device, settings.uplink) as ovsdb:
        if isinstance(ovsdb, Unseen):
            return ovsdb
        try:
            return await look(ovsdb)
        except OvsError as error:
            return Unseen(str(error))


async def _version(settings: Settings) -> str | Unseen:
    if settings.ipvlan is not None:
        return _NO_SWITCH
    try:
        return await software(settings.paths.ovs / f"{settings.device}.mgmt")
    except OvsError as error:
        return Unseen(str(error))


# --- the agent and its files -----------------------------------------------------------------------------------------


async def _agent(settings: Settings, sessions: tuple[Mapping[str, Any], ...] | Unseen) -> Agent | Unseen:
    if isinstance(sessions, Unseen):
        return sessions
    page = f"http://127.0.0.1:{settings.metrics.port}/readyz"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(_PATIENCE_S)) as client,
            client.get(page) as answer,
        ):
            text = (await answer.text()).strip()
            return Agent(sessions, None if answer.status == 200 else text)
    except (aiohttp.ClientError, TimeoutError) as error:
        return Agent(sessions, Unseen(f"{page}: {str(error) or 'no answer'}"))


def _files(settings: Settings, runtime: RuntimeFolders) -> Files:
    state, password = settings.paths.state, settings.bgp.password_file
    return Files(
        state=_file(state),
        state_parent=next((found for parent in state.parents if (found := _file(parent)) is not None), None),
        cni_socket=_file(settings.cni.socket),
        ledger=_is_ledger(ledger_path(settings)),
        password=_file(password) if password else None,
        password_error=_password_error(password) if password else None,
        cni_bin_dir=runtime.plugins,
        iptables=has_iptables(os.environ),
        chain=_chain(runtime.configurations / CONFIGURATION),
        portmap=_portmap(runtime.plugins),
        drained=_is_there(settings.drain_mark),
    )


def _chain(path: Path) -> tuple[Mapping[str, Any], ...] | Unseen | None:
    try:
        return tuple(json.loads(path.read_bytes())["plugins"])
    except FileNotFoundError:
        return None
    except OSError as error:
        return Unseen(f"{path}: {error.strerror}")
    except (ValueError, KeyError, TypeError):
        return Unseen(f"{path} is no list of plugins")


def _portmap(folder: Path) -> bool | Unseen | None:
    try:
        return can_map(folder)
    except OSError as error:
        return Unseen(f"{error.filename}: {error.strerror}")


def has_iptables(environment: Mapping[str, str]) -> bool | Unseen:
    """Tell whether the server has the program; a container has others."""
    if keeper(environment) is KUBELET:
        return Unseen("mapped by `iptables`, if the server has it: a container does not show that")
    return shutil.which("iptables", path=environment.get("PATH")) is not None


def _is_there(path: Path) -> bool | Unseen:
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        return Unseen(f"{path}: {error.strerror}")
    return True


def _file(path: Path) -> File | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return File(found.st_mode, found.st_uid, os.access(path, os.W_OK))


def _is_ledger(path: Path) -> bool | Unseen | None:
    """Tell by its first bytes whether a file is a ledger: no lock is taken, so a running agent is not disturbed.

    A young ledger is empty or without a mark: that is still in the write-ahead log.
    """
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Unseen(f"{path}: {error.strerror}")
    mark = int.from_bytes(head[_SQLITE_APPLICATION_ID], "big")
    return not head or (head.startswith(_SQLITE_HEADER) and mark in (0, APPLICATION_ID))


def _password_error(path: Path) -> str | None:
    try:
        read_password(path)
    except PasswordError as error:
        return str(error)
    return None


# --- the fabric ------------------------------------------------------------------------------------------------------


async def _echoes(settings: Settings, server: Server) -> Mapping[IPAddress, Echo | Unseen]:
    wanted = (*(tor.address for tor in settings.tors), *(host.gateway for host in settings.hosts))
    sources = {address: source for address in wanted if (source := server.address(address.version)) is not None}
    echoes = await asyncio.gather(*(_echo(address, source) for address, source in sources.items()))
    return dict(zip(sources, echoes, strict=True))


async def _echo(address: IPAddress, source: IPAddress) -> Echo | Unseen:
    try:
        host = await async_ping(
            str(address), _ECHOES, _ECHO_INTERVAL_S, _ECHO_PATIENCE_S, source=str(source), privileged=True
        )
    except ICMPLibError as error:
        return Unseen(str(error))
    return Echo(host.packets_sent, host.packets_received)

"""SR-IOV as the kernel shows it: physical functions (PF), their virtual functions (VF), uplinks and representors.

Reads a tree like ``/sys`` and is given one netlink dump of all devices; asks nobody, changes nothing. What is there and
cannot be read (too many open files, say) is a KernelError, never "not there". A wrong
representor would hand a pod's packets to another pod, so what is not certain is `NoAnswer`, with the reason.

A representor belongs to a VF when both hang on one PCI function and the VF's index is in its port name; or, where the
driver gives representors no PCI parent, when switch id AND number of the PF are the VF's own. The switch id alone says
nothing: all ports of a card have the same one, and those of a bonded pair in every driver.

Names of ports: devlink_port_attrs (Linux, net/devlink/port.c), and the drivers from before it. What was learnt from
drivers' sources only, because no such NIC was at hand, is listed in docs/sriov.md.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from routed.attach.answers import NicPort
from routed.attach.errors import KernelError

SYSFS = Path("/sys")
_ADDRESS = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_NETWORK_CLASS = "0x02"
"""How the class of a network controller begins (PCI Code and ID Assignment)."""
_VF_PORT = re.compile(r"(?:c0)?pf(\d+)vfr?(\d+)")
"""``pf0vf3``; ``pf0vfr3`` is what ice said before it had devlink ports."""
_OLD_VF_PORT = re.compile(r"\d+")
"""The VF's index alone: mlx5 before Linux 4.19."""
_UPLINK_PORT = re.compile(r"p(\d+)(?:s\d+)?")
"""``p0``; ``p0s1`` is a part of a port that was split."""
_NUMBERED_BY_FUNCTION = frozenset({"bnxt_en"})
"""Drivers whose representors have the PCI function in their names, whatever the number of the port."""
_WITHOUT_SWITCH = frozenset({"", "vfio-pci", "uio_pci_generic", "igb_uio", "pci-stub"})
"""No driver, and those that hand a function to a program: none of them makes representors."""


_NOT_THERE = frozenset({errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP})
"""How sysfs says that there is no such device or attribute, or that its driver does not have it."""


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """It is not there, or it cannot be told apart from another."""

    why: str


@dataclass(frozen=True, slots=True)
class Vf:
    """A virtual function."""

    address: str
    """On the PCI bus: ``0000:03:00.2``."""
    index: int
    """Among those of its PF."""
    driver: str
    """Empty while none is bound."""
    devices: tuple[str, ...]
    """Its network devices in the server's own namespace; none while it is in a pod, or not bound."""
    representor: NicPort | NoAnswer

    @property
    def free(self) -> bool:
        """Whether nobody can be using it: the server has its network device, or no driver has it."""
        return bool(self.devices) or not self.driver


@dataclass(frozen=True, slots=True)
class Pf:
    """A physical function that can have VFs."""

    address: str
    vendor: str
    """PCI numbers, without ``0x``: ``15b3``."""
    device: str
    driver: str
    devices: tuple[str, ...]
    """Its network devices, representors included."""
    most_vfs: int
    autoprobe: bool
    """Whether new VFs are bound to their driver at once."""
    vfs: tuple[Vf, ...]
    uplinks: tuple[NicPort, ...] | NoAnswer
    """Its ports towards the network, when it is in switchdev mode: one, but for nfp, which has all on one function."""

    @property
    def switch_id(self) -> str:
        """The card's; empty unless in switchdev mode."""
        return "" if isinstance(self.uplinks, NoAnswer) else self.uplinks[0].switch_id


def discover(tree: Path, ports: Iterable[NicPort]) -> tuple[Pf, ...]:
    """Return every PF below ``tree`` (like `SYSFS`), by address; ``ports`` is a dump of the same moment."""
    known = [_Port(port, port.parent or _parent(tree, port.name)) for port in ports if port.switch_id]
    names = sorted(entry.name for entry in _entries(tree / "bus/pci/devices") if _is_pf(entry))
    functions = [_Function(tree / "bus/pci/devices" / name, known) for name in names]
    return tuple(function.pf(functions) for function in functions)


def find_vf(pfs: Iterable[Pf], address: str) -> tuple[Pf, Vf] | NoAnswer:
    """Return the VF at a PCI address, and its PF."""
    for pf in pfs:
        for vf in pf.vfs:
            if vf.address == address:
                return pf, vf
    return NoAnswer(f"{address} is no VF of this server")


def network_devices(tree: Path, address: str) -> tuple[str, ...]:
    """Return the network devices of a PCI function that are in the namespace which the tree shows."""
    return _names(tree / "bus/pci/devices" / address / "net")


def uppers(tree: Path, device: str) -> tuple[str, ...]:
    """Return what rides on a device (VLANs, macvlans) or has it as a part (bonds), in the namespace of the tree."""
    found = (name for name in _names(tree / "class/net" / device) if name.startswith("upper_"))
    return tuple(name.removeprefix("upper_") for name in found)


def is_sysfs(tree: Path) -> bool:
    """Whether a tree is the kernel's own, wherever it is mounted, and none that stands in for it."""
    return (tree / "kernel").is_dir()


def driver_of(tree: Path, address: str) -> str:
    """Return the driver of a PCI function; empty while none is bound."""
    return _driver(tree / "bus/pci/devices" / address)


def as_told(tree: Path, port: NicPort) -> NicPort:
    """Return a port with what a tree says of it besides: one that is not the kernel's own tells of more than that."""
    folder = tree / "class/net" / port.name
    switch_id, port_name = _read(folder / "phys_switch_id"), _read(folder / "phys_port_name")
    return replace(port, switch_id=port.switch_id or switch_id, port_name=port.port_name or port_name)


@dataclass(frozen=True, slots=True)
class _Port:
    """A port of a switching NIC, and what its name says."""

    port: NicPort
    parent: str

    @property
    def is_uplink(self) -> bool:
        """Some drivers (xsc on a card for one host) give their uplink no name."""
        return not self.port.port_name or _UPLINK_PORT.fullmatch(self.port.port_name) is not None

    @property
    def vf(self) -> tuple[int | None, int] | None:
        """Number of the PF, where the name has it, and index of the VF; None for everything but VFs of this host."""
        name = self.port.port_name
        match = _VF_PORT.fullmatch(name)
        if match is not None:
            return int(match[1]), int(match[2])
        return (None, int(name)) if _OLD_VF_PORT.fullmatch(name) else None


_Represented = tuple[NicPort, tuple[int | None, int]]
"""A representor, the number of its PF as far as its name has it, and the index of its VF."""


class _Function:
    """A PF while it is being looked at."""

    def __init__(self, folder: Path, ports: Iterable[_Port]) -> None:
        self.folder = folder
        self.address = folder.name
        self.driver = _driver(folder)
        self._ports = tuple(ports)
        self._uplinks = self._find_uplinks()

    def pf(self, functions: Sequence[_Function]) -> Pf:
        """Return what was found; ``functions`` are all PFs of this server."""
        return Pf(
            address=self.address,
            vendor=_read(self.folder / "vendor").removeprefix("0x"),
            device=_read(self.folder / "device").removeprefix("0x"),
            driver=self.driver,
            devices=_names(self.folder / "net"),
            most_vfs=_count(self.folder / "sriov_totalvfs"),
            autoprobe=_read(self.folder / "sriov_drivers_autoprobe") != "0",
            vfs=tuple(self._vf(index, folder, functions) for index, folder in sorted(_virtual_functions(self.folder))),
            uplinks=self._uplinks,
        )

    @cached_property
    def is_elsewhere(self) -> bool:
        """Whether its uplink may be in another namespace: it has VFs, a driver for representors, and no device here."""
        has_switch = self.driver not in _WITHOUT_SWITCH and _virtual_functions(self.folder)
        return bool(has_switch) and not _names(self.folder / "net")

    @property
    def switch_id(self) -> str:
        """The card's; empty when there is no uplink."""
        return "" if isinstance(self._uplinks, NoAnswer) else self._uplinks[0].switch_id

    @property
    def number(self) -> int | None:
        """What representors call this PF; None where port and PCI function say different things."""
        function = int(self.address[-1])
        if isinstance(self._uplinks, NoAnswer):
            return function
        said = {int(match[1]) for port in self._uplinks if (match := _UPLINK_PORT.fullmatch(port.port_name))}
        agree = len(said) != 1 or said == {function}
        return function if agree or self.driver in _NUMBERED_BY_FUNCTION else None

    def _find_uplinks(self) -> tuple[NicPort, ...] | NoAnswer:
        own = [port.port for port in self._ports if port.parent == self.address and port.is_uplink]
        named = sorted((port for port in own if port.port_name), key=lambda port: port.port_name)
        chosen = named or own
        if not chosen:
            return NoAnswer(f"no device of {self.address} is an uplink of a switch: is it in switchdev mode?")
        if (not named and len(own) > 1) or len({port.switch_id for port in chosen}) > 1:
            return NoAnswer(f"{_listed(chosen)} could all be the uplink of {self.address}")
        return tuple(chosen)

    def _vf(self, index: int, folder: Path, functions: Sequence[_Function]) -> Vf:
        return Vf(
            address=folder.name,
            index=index,
            driver=_driver(folder),
            devices=_names(folder / "net"),
            representor=self._representor(index, functions),
        )

    def _representor(self, index: int, functions: Sequence[_Function]) -> NicPort | NoAnswer:
        if isinstance(self._uplinks, NoAnswer):
            return self._uplinks
        here = [(port, vf) for port in self._ports if port.port.switch_id == self.switch_id and (vf := port.vf)]
        own = [(port.port, vf) for port, vf in here if port.parent == self.address]
        orphans = [(port.port, vf) for port, vf in here if not port.parent and vf[1] == index]
        if own:
            reason = self._own_in_doubt(own)
            strict = len({number for _, (number, _) in own}) > 1
        else:
            reason = self._orphans_in_doubt(orphans, [one for one in functions if self._may_share(one)])
            strict = any(number is not None for _, (number, _) in orphans)
        if reason:
            return NoAnswer(reason)
        matches = [
            port for port, (number, vf) in own or orphans if vf == index and (number == self.number or not strict)
        ]
        if not matches:
            return NoAnswer(f"no device of this namespace represents VF {index} of {self.address}")
        if len(matches) > 1:
            return NoAnswer(f"{_listed(matches)} could all represent VF {index} of {self.address}")
        return matches[0]

    def _may_share(self, other: _Function) -> bool:
        """Whether representors here may be those of another PF: of this switch, or of one whose uplink is elsewhere."""
        if other.switch_id:
            return other.switch_id == self.switch_id
        return other.is_elsewhere

    def _own_in_doubt(self, own: Sequence[_Represented]) -> str:
        """Return why representors on this function cannot be told apart; empty when they can."""
        if len({number for _, (number, _) in own}) > 1 and self.number is None:
            return f"{self.address} has representors of several PFs, and its own number is not certain"
        return ""

    def _orphans_in_doubt(self, orphans: Sequence[_Represented], sharing: Sequence[_Function]) -> str:
        """Return why representors without a PCI parent cannot be told apart; empty when they can."""
        named = {number is not None for _, (number, _) in orphans}
        if not orphans or (len(sharing) == 1 and named == {False}):
            return ""
        who = ", ".join(one.address if one.switch_id else f"{one.address} (uplink elsewhere)" for one in sharing)
        share = "share" if all(one.switch_id for one in sharing) else "may share"
        if False in named:
            return f"representors have the VF's index alone in their names, and {who} {share} a switch"
        numbers = {one.number for one in sharing}
        if None in numbers:
            return f"representors have no PCI parent, and of {who} one has another number than its uplink"
        if len(numbers) != len(sharing):
            return f"representors have no PCI parent, and {who} {share} a switch id and a number"
        return ""


# --- the tree --------------------------------------------------------------------------------------------------------


def _is_pf(folder: Path) -> bool:
    """Whether this PCI device is a network controller that can have VFs."""
    return (
        _ADDRESS.fullmatch(folder.name) is not None
        and _read(folder / "class").startswith(_NETWORK_CLASS)
        and _count(folder / "sriov_totalvfs") > 0
    )


def _parent(tree: Path, device: str) -> str:
    """Return the PCI device behind a network device, for kernels before 5.14, whose dumps do not say."""
    name = _target(tree / "class/net" / device / "device")
    return name if _ADDRESS.fullmatch(name) else ""


def _virtual_functions(folder: Path) -> list[tuple[int, Path]]:
    """Return index and folder of each VF."""
    links = (
        (entry.name.removeprefix("virtfn"), entry) for entry in _entries(folder) if entry.name.startswith("virtfn")
    )
    return [(int(index), folder.parent / _target(link)) for index, link in links if index.isdigit() and _target(link)]


def _driver(folder: Path) -> str:
    return _target(folder / "driver")


def _target(link: Path) -> str:
    """Return the last part of what a symbolic link points to; empty when there is none."""
    try:
        return link.readlink().name
    except OSError as error:
        _absent(error)
        return ""


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        _absent(error)
        return []


def _names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in _entries(folder)))


def _read(file: Path) -> str:
    """Return an attribute; empty when there is none, or its driver does not support it."""
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError as error:
        _absent(error)
        return ""


def _absent(error: OSError) -> None:
    """Raise KernelError unless an error says that something is not there: a VF that was not seen counts as gone."""
    if error.errno not in _NOT_THERE:
        raise KernelError(error.errno or errno.EIO, f"read {error.filename}") from error


def _count(file: Path) -> int:
    text = _read(file)
    return int(text) if text.isdigit() else 0


def _listed(ports: Iterable[NicPort]) -> str:
    return ", ".join(sorted(port.name for port in ports))

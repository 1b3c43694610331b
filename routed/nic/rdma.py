"""What a server has for RDMA (RoCE) in pods: read from sysfs, configfs and proc, and one question to the kernel.

Changes nothing. What a device's driver does about congestion (PFC, trust in DSCP) is in none of these places.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from routed.attach.errors import KernelError
from routed.attach.rdma import Mode, Rdma, device_name
from routed.attach.sysfs import Pf
from routed.doctor.facts import Unseen

ROCE_V2 = "RoCE v2"
CORE_MODULES = ("ib_core", "ib_uverbs", "rdma_cm", "rdma_ucm")
"""What programs in pods reach a device by, and connect by."""
DRIVERS = {"mlx5_core": "mlx5_ib", "ice": "irdma", "bnxt_en": "bnxt_re", "xsc_eth": "xsc_ib"}
"""Driver of the function -> driver of its RDMA device."""
_RUNTIMES = frozenset({"containerd", "crio", "dockerd"})
_MEMLOCK = re.compile(r"^Max locked memory\s+(\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RdmaFound:
    """A server."""

    mode: Mode | Unseen
    missing_modules: tuple[str, ...]
    """That are not loaded, of `CORE_MODULES` and the drivers of the PFs' RDMA devices."""
    devices: Mapping[str, str | None]
    """By PF and VF that the server itself has now: its RDMA device."""
    gid_types: Mapping[str, frozenset[str]]
    """By RDMA device: the types of its addresses, such as `ROCE_V2`; none while its network device is down."""
    default_types: Mapping[str, str]
    """By RDMA device: what connections (RDMA-CM) use unless they say otherwise, where configfs tells."""
    memlock: Mapping[str, int | None] | Unseen
    """By container runtime: how much its containers may pin, bytes; None for any amount."""


def look(tree: Path, proc: Path, pfs: Iterable[Pf]) -> RdmaFound:
    """Look at PFs and their VFs; ``tree`` is like /sys and ``proc`` like /proc."""
    pfs = tuple(pfs)
    own = [pf.address for pf in pfs] + [vf.address for pf in pfs for vf in pf.vfs if vf.free]
    devices = {address: device_name(address, tree) for address in own}
    names = sorted({name for name in devices.values() if name is not None})
    wanted = (*CORE_MODULES, *sorted({DRIVERS[pf.driver] for pf in pfs if pf.driver in DRIVERS}))
    return RdmaFound(
        mode=_mode(),
        missing_modules=tuple(module for module in wanted if not (tree / "module" / module).is_dir()),
        devices=devices,
        gid_types={name: frozenset(_gid_types(tree, name)) for name in names},
        default_types=dict(_default_types(tree, names)),
        memlock=_memlock(proc),
    )


def _mode() -> Mode | Unseen:
    try:
        with Rdma() as rdma:
            return rdma.mode()
    except KernelError as error:
        return Unseen(str(error))


def _gid_types(tree: Path, name: str) -> Iterator[str]:
    for file in (tree / "class/infiniband" / name / "ports/1/gid_attrs/types").glob("*"):
        text = _read(file)  # an entry without an address cannot be read
        if text:
            yield text


def _default_types(tree: Path, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        text = _read(tree / "kernel/config/rdma_cm" / name / "ports/1/default_roce_mode")
        if text:
            yield name, text


def _memlock(proc: Path) -> Mapping[str, int | None] | Unseen:
    found: dict[str, int | None] = {}
    for folder in proc.glob("[0-9]*"):
        name = _read(folder / "comm")
        limit = _MEMLOCK.search(_read(folder / "limits")) if name in _RUNTIMES else None
        if limit is not None:
            found[name] = None if limit[1] == "unlimited" else int(limit[1])
    return found or Unseen("no container runtime can be seen from here")


def _read(file: Path) -> str:
    """Return a file's text; empty when it has none for us."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""

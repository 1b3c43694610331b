"""Every check of `routed doctor nic --rdma`, over trees like those of the kernel, and what it says to do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routed.attach.rdma import Mode
from routed.doctor.facts import Unseen
from routed.doctor.findings import Finding, Level
from routed.doctor.rdma import judge
from routed.nic.found import Found
from routed.nic.rdma import CORE_MODULES, DRIVERS, ROCE_V2, RdmaFound, look
from tests.fakes.nics import Machine
from tests.unit.nic.test_doctor_nic import BRIDGE, ROOT, here, ready, routed

ROCE_V1 = "IB/RoCE v1"
MODULES = (*CORE_MODULES, "mlx5_ib")
PF, VF = "0000:03:00.0", "0000:03:01.0"


@dataclass
class RdmaTree:
    """The part of /sys and /proc that RDMA drivers and container runtimes make."""

    tree: Path
    proc: Path

    def add(self, address: str, name: str, *types: str) -> None:
        (self.tree / "bus/pci/devices" / address / "infiniband" / name).mkdir(parents=True)
        folder = self.tree / "class/infiniband" / name / "ports/1/gid_attrs/types"
        folder.mkdir(parents=True)
        for number, text in enumerate(types):
            (folder / str(number)).write_text(f"{text}\n")

    def load(self, *modules: str) -> None:
        for module in modules:
            (self.tree / "module" / module).mkdir(parents=True)

    def default(self, name: str, text: str) -> None:
        folder = self.tree / "kernel/config/rdma_cm" / name / "ports/1"
        folder.mkdir(parents=True)
        (folder / "default_roce_mode").write_text(f"{text}\n")

    def run(self, pid: int, name: str, limit: str) -> None:
        folder = self.proc / str(pid)
        folder.mkdir(parents=True)
        (folder / "comm").write_text(f"{name}\n")
        (folder / "limits").write_text(
            "Limit                     Soft Limit           Hard Limit           Units     \n"
            "Max processes             unlimited            unlimited            processes \n"
            f"Max locked memory         {limit:<20} {limit:<20} bytes     \n"
        )


async def equipped(tmp_path: Path) -> tuple[Machine, RdmaTree]:
    """Return a server that `routed nic setup` has made ready, with RDMA devices."""
    target = await ready(tmp_path)
    made = RdmaTree(target.server.tree, tmp_path / "proc")
    made.load(*MODULES)
    for number, pf in enumerate((await target.look()).pfs):
        made.add(pf.address, f"mlx5_{number}", ROCE_V1, ROCE_V2)
        for vf in pf.vfs:
            made.add(vf.address, f"mlx5_{number}v{vf.index}", ROCE_V2)
    made.run(1, "systemd", "65536")
    made.run(712, "containerd", "unlimited")
    made.run(713, "kubelet", "65536")
    return target, made


async def seen(tmp_path: Path) -> tuple[Found, RdmaFound]:
    target, made = await equipped(tmp_path)
    found = await target.look()
    return found, replace(look(made.tree, made.proc, found.pfs), mode=Mode.EXCLUSIVE)


def complaints(found: Found, rdma: RdmaFound) -> list[Finding]:
    """Return all but the one thing that nobody can see."""
    return [
        one
        for one in judge(found, rdma, BRIDGE)
        if one.level is not Level.OK and not one.check.startswith("rdma-pause")
    ]


async def test_a_server_that_is_ready_for_rdma_has_nothing_wrong(tmp_path: Path) -> None:
    found, rdma = await seen(tmp_path)
    assert complaints(found, rdma) == []
    shown = {finding.check: finding for finding in judge(found, rdma, BRIDGE)}
    assert shown[f"rdma-devices {PF}"].found == "4 VFs, mlx5_0"
    assert shown["rdma-memory containerd"].level is Level.OK
    assert shown["rdma-pause ens3f0"].level is Level.WARNING, "said, not seen"
    assert "mlnx_qos -i ens3f0" in shown["rdma-pause ens3f0"].advice
    assert rdma.gid_types["mlx5_0"] == {ROCE_V1, ROCE_V2}


async def test_the_page_names_every_check(tmp_path: Path) -> None:
    page = (ROOT / "docs/sriov.md").read_text()
    found, rdma = await seen(tmp_path)
    shown = {finding.check.split()[0] for finding in judge(found, rdma, BRIDGE)}
    assert set(re.findall(r"^\| `(rdma-[a-z]+)", page, flags=re.MULTILINE)) == shown


async def test_a_vf_in_a_pod_is_not_missed(tmp_path: Path) -> None:
    target, made = await equipped(tmp_path)
    target.server.move_away("ens3f0v2")
    found = await target.look()
    address = found.pfs[0].vfs[2].address
    (made.tree / "bus/pci/devices" / address / "infiniband/mlx5_0v2").rmdir()
    rdma = replace(look(made.tree, made.proc, found.pfs), mode=Mode.EXCLUSIVE)
    assert complaints(found, rdma) == []
    assert address not in rdma.devices


async def test_what_the_trees_say_is_what_is_seen(tmp_path: Path) -> None:
    target, made = await equipped(tmp_path)
    made.default("mlx5_0", ROCE_V1)
    made.run(800, "crio", "8388608")
    (made.tree / "module/rdma_ucm").rmdir()
    (made.tree / "bus/pci/devices" / VF / "infiniband/mlx5_0v0").rmdir()
    found = await target.look()
    rdma = look(made.tree, made.proc, found.pfs)
    assert rdma.missing_modules == ("rdma_ucm",)
    assert (rdma.devices[VF], rdma.devices[PF]) == (None, "mlx5_0")
    assert rdma.default_types == {"mlx5_0": ROCE_V1}
    assert rdma.memlock == {"containerd": None, "crio": 8388608}
    assert isinstance(rdma.mode, Mode | Unseen)


Edit = Callable[[RdmaFound], RdmaFound]


def devices(*addresses: str) -> Edit:
    """These have none; all of the first port when there are two."""

    def edit(rdma: RdmaFound) -> RdmaFound:
        missing = [one for one in rdma.devices if one.startswith(addresses)]
        return replace(rdma, devices={**rdma.devices, **dict.fromkeys(missing)})

    return edit


def types(*said: str) -> Edit:
    return lambda rdma: replace(rdma, gid_types={**rdma.gid_types, "mlx5_0": frozenset(said)})


CASES: list[tuple[Edit, str, Level, str, str]] = [
    (
        lambda r: replace(r, missing_modules=("ib_uverbs", "mlx5_ib")),
        "rdma-modules",
        Level.ERROR,
        "not loaded: ib_uverbs mlx5_ib",
        "`modprobe -a ib_uverbs mlx5_ib`",
    ),
    (
        lambda r: replace(r, mode=Mode.SHARED),
        "rdma-mode",
        Level.ERROR,
        "shared",
        "`rdma system set netns exclusive`, which works while there is no other network namespace",
    ),
    (lambda r: replace(r, mode=Unseen("no RDMA")), "rdma-mode", Level.UNKNOWN, "no RDMA", "`rdma system`"),
    (
        devices(VF),
        f"rdma-devices {PF}",
        Level.ERROR,
        "1 of 4 VFs have none",
        f"for vf in {VF}; do devlink dev param set pci/$vf name enable_roce value true cmode driverinit",
    ),
    (devices("0000:03:00.0", "0000:03:01"), f"rdma-devices {PF}", Level.ERROR, "neither", f"lspci -k -s {PF}"),
    (types(ROCE_V1), "rdma-type mlx5_0", Level.ERROR, "IB/RoCE v1 alone", "class/infiniband/mlx5_0/ports/1/gid_attrs"),
    (
        lambda r: replace(r, default_types={"mlx5_0": ROCE_V1}),
        "rdma-type mlx5_0",
        Level.ERROR,
        "connections use IB/RoCE v1",
        "echo 'RoCE v2' > /sys/kernel/config/rdma_cm/mlx5_0/ports/1/default_roce_mode",
    ),
    (
        lambda r: replace(r, memlock={"containerd": 65536, "dockerd": None}),
        "rdma-memory containerd",
        Level.ERROR,
        "65536 bytes",
        "printf '[Service]\\nLimitMEMLOCK=infinity\\n' > /etc/systemd/system/containerd.service.d/memlock.conf",
    ),
    (lambda r: replace(r, memlock=Unseen("none")), "rdma-memory", Level.UNKNOWN, "none", "pidof containerd"),
]


@pytest.mark.parametrize(("edit", "check", "level", "found", "advice"), CASES)
async def test_what_is_missing_is_said_with_what_mends_it(
    tmp_path: Path, *, edit: Edit, check: str, level: Level, found: str, advice: str
) -> None:
    server, rdma = await seen(tmp_path)
    (finding,) = complaints(server, edit(rdma))
    assert (finding.check, finding.level) == (check, level)
    assert found in finding.found
    assert advice in finding.advice


@pytest.mark.parametrize(("mtu", "level"), [(1500, Level.WARNING), (4199, Level.WARNING), (4200, Level.OK)])
async def test_the_largest_messages_have_to_fit(tmp_path: Path, mtu: int, level: Level) -> None:
    server, rdma = await seen(tmp_path)
    port = replace(server.ports["ens3f1"], mtu=mtu)
    server = replace(server, ports={**server.ports, "ens3f1": port})
    (finding,) = (one for one in judge(server, rdma, BRIDGE) if one.check == "rdma-mtu ens3f1")
    assert (finding.level, finding.found.startswith(str(mtu))) == (level, True)


async def test_a_device_that_is_down_has_no_type_and_none_is_asked_for(tmp_path: Path) -> None:
    server, rdma = await seen(tmp_path)
    assert complaints(server, types()(rdma)) == []


@settings(max_examples=20, deadline=None)
@given(
    st.builds(
        RdmaFound,
        mode=st.sampled_from([*Mode, Unseen("?")]),
        missing_modules=st.lists(st.sampled_from((*CORE_MODULES, *DRIVERS.values())), unique=True).map(tuple),
        devices=st.dictionaries(st.sampled_from([PF, VF, "0000:03:01.1"]), st.sampled_from([None, "mlx5_0", "mlx5_1"])),
        gid_types=st.fixed_dictionaries(
            dict.fromkeys(["mlx5_0", "mlx5_1"], st.frozensets(st.sampled_from([ROCE_V1, ROCE_V2])))
        ),
        default_types=st.dictionaries(st.sampled_from(["mlx5_0", "mlx5_1"]), st.sampled_from([ROCE_V1, ROCE_V2])),
        memlock=st.dictionaries(st.sampled_from(["containerd", "crio"]), st.none() | st.integers(0, 2**63)),
    )
)
async def test_whatever_is_found_every_complaint_says_what_to_do(
    tmp_path_factory: pytest.TempPathFactory, rdma: RdmaFound
) -> None:
    server = await (await ready(tmp_path_factory.mktemp("server"))).look()
    for finding in judge(server, rdma, BRIDGE):
        assert bool(finding.advice) == (finding.level is not Level.OK), finding
    reaches = rdma.mode is Mode.EXCLUSIVE and not rdma.missing_modules
    levels = [one.level for one in judge(server, rdma, BRIDGE) if one.check in ("rdma-mode", "rdma-modules")]
    assert (set(levels) == {Level.OK}) == reaches


def test_only_who_asks_is_told_of_rdma(tmp_path: Path) -> None:
    file = here(tmp_path)
    shown = []
    for options in ((), ("--rdma",)):
        done = routed("doctor", "nic", "--config", file, "--sysfs", tmp_path, "-o", "json", *options)
        assert (done.returncode, done.stderr) == (1, "")
        checks = [one["check"] for one in json.loads(done.stdout)["findings"]]
        shown.append([check for check in checks if check.startswith("rdma-")])
    assert shown[0] == []
    assert shown[1][:2] == ["rdma-modules", "rdma-mode"]

"""What our netlink says to a real kernel with RDMA devices, and what that answers: Soft-RoCE on a port of the NIC."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from routed.attach.errors import KernelError, RdmaShared
from routed.attach.rdma import Mode, Rdma, RdmaDevice, give
from routed.nic.rdma import ROCE_V2, _default_types, _gid_types, look
from tests.nic_lab.card import DEVICES, PFS

pytestmark = pytest.mark.nic
CONFIGFS = Path("/sys/kernel/config")


def run(*command: str) -> None:
    subprocess.run(command, check=True)


@pytest.fixture(scope="module", autouse=True)
def drivers() -> None:
    run("modprobe", "--all", "rdma_rxe", "rdma_ucm")


@pytest.fixture
def device() -> Iterator[str]:
    run("rdma", "link", "add", "rxe0", "type", "rxe", "netdev", port(0))
    yield "rxe0"
    run("rdma", "link", "delete", "rxe0")


@pytest.fixture
def exclusive() -> Iterator[None]:
    run("rdma", "system", "set", "netns", "exclusive")
    yield
    run("rdma", "system", "set", "netns", "shared")


@pytest.fixture
def pod() -> Iterator[int]:
    run("ip", "netns", "add", "pod")
    opened = os.open("/run/netns/pod", os.O_RDONLY)
    yield opened
    os.close(opened)
    run("ip", "netns", "del", "pod")


def port(number: int) -> str:
    [path] = (DEVICES / PFS[number] / "net").iterdir()
    return path.name


def index(number: int) -> int:
    return int(Path("/sys/class/net", port(number), "ifindex").read_text())


def test_the_mode_is_what_rdma_says(request: pytest.FixtureRequest) -> None:
    with Rdma() as rdma:
        assert rdma.mode() is Mode.SHARED
        request.getfixturevalue("exclusive")
        assert rdma.mode() is Mode.EXCLUSIVE


@pytest.mark.usefixtures("exclusive")
def test_a_device_is_found_by_the_port_beside_it(device: str) -> None:
    with Rdma() as rdma:
        assert [one.name for one in rdma.devices()] == [device]
        found = rdma.own_device_of(index(0))
        assert found is not None
        assert found.name == device
        assert rdma.own_device_of(index(1)) is None


def test_what_is_shared_belongs_to_nobody_and_is_refused(device: str, pod: int) -> None:
    with Rdma() as rdma:
        [found] = rdma.devices()
        assert found.name == device
        assert rdma.own_device_of(index(0)) is None
        with pytest.raises(RdmaShared, match="rdma system set netns exclusive"):
            give(rdma, rdma, PFS[0], index(0), pod)
        with pytest.raises(KernelError) as caught:
            rdma.move(found, pod)
        assert caught.value.code == errno.EOPNOTSUPP
        assert rdma.devices() == [found]


@pytest.mark.usefixtures("exclusive")
def test_software_devices_cannot_be_moved_and_the_driver_is_blamed(device: str, pod: int) -> None:
    with Rdma() as rdma:
        [found] = rdma.devices()
        with pytest.raises(KernelError, match=f"move RDMA device {device} .*its driver cannot do that") as caught:
            rdma.move(found, pod)
        assert caught.value.code == errno.EOPNOTSUPP
        assert rdma.devices() == [found]


def test_a_device_that_is_not_there_has_no_port_and_cannot_be_moved(pod: int) -> None:
    gone = RdmaDevice(4711, "gone")
    with Rdma() as rdma:
        assert rdma.devices() == []
        assert rdma._netdevs(gone) == []
        with pytest.raises(KernelError) as caught:
            rdma.move(gone, pod)
        assert caught.value.code == errno.EINVAL


@pytest.fixture
def manager(device: str) -> Iterator[None]:
    """The settings of RDMA-CM for a device."""
    run("mount", "-t", "configfs", "configfs", str(CONFIGFS))
    (CONFIGFS / "rdma_cm" / device).mkdir()
    yield
    (CONFIGFS / "rdma_cm" / device).rmdir()
    run("umount", str(CONFIGFS))


@pytest.mark.usefixtures("manager")
def test_the_doctor_reads_what_this_kernel_shows(device: str) -> None:
    found = look(Path("/sys"), Path("/proc"), ())
    assert (found.mode, found.missing_modules) == (Mode.SHARED, ())
    run("ip", "link", "set", port(0), "up")
    assert frozenset(_gid_types(Path("/sys"), device)) == {ROCE_V2}
    assert dict(_default_types(Path("/sys"), [device])) == {device: ROCE_V2}
    (CONFIGFS / "rdma_cm" / device / "ports/1/default_roce_mode").write_text(f"{ROCE_V2}\n")  # the advice works

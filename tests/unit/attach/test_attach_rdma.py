"""A VF's RDMA device goes into a pod and comes back, on a kernel that answers over netlink as Linux does."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from routed.attach.errors import KernelError, RdmaMissing, RdmaShared
from routed.attach.rdma import (
    NETLINK_RDMA,
    Mode,
    Rdma,
    RdmaDevice,
    device_name,
    give,
    take_back,
)
from tests.fakes.rdma import RdmaKernel, namespace

VF, OTHER = "0000:03:00.2", "0000:03:00.3"
VF_IFINDEX, OTHER_IFINDEX = 21, 22


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[RdmaKernel]:
    for name in ("home", "pod"):
        (tmp_path / name).touch()
    kernel = RdmaKernel(namespace(tmp_path / "home"), tmp_path / "sys")
    kernel.add("mlx5_3", OTHER, OTHER_IFINDEX)
    kernel.add("mlx5_2", VF, VF_IFINDEX)
    yield kernel
    kernel.close()


@contextmanager
def both(kernel: RdmaKernel) -> Iterator[tuple[Rdma, Rdma, int, int]]:
    """The server's and the pod's sides, and both namespaces' files."""
    sides = [kernel.tree.with_name(name) for name in ("home", "pod")]
    descriptors = [os.open(path, os.O_RDONLY) for path in sides]
    try:
        with kernel.connect(sides[0]) as home, kernel.connect(sides[1]) as inside:
            yield home, inside, *descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def names(rdma: Rdma) -> list[str]:
    return [device.name for device in rdma.devices()]


def test_the_device_of_the_vf_goes_and_no_other(kernel: RdmaKernel) -> None:
    with both(kernel) as (home, pod, _, netns):
        assert home.mode() is Mode.EXCLUSIVE
        assert give(home, pod, VF, VF_IFINDEX, netns) == RdmaDevice(2, "mlx5_2")
        assert (names(home), names(pod)) == (["mlx5_3"], ["mlx5_2"])
        assert device_name(VF, kernel.tree) is None, "sysfs shows each namespace its own"


def test_what_was_given_may_be_given_again(kernel: RdmaKernel) -> None:
    with both(kernel) as (home, pod, _, netns):
        for _ in range(2):
            assert give(home, pod, VF, VF_IFINDEX, netns) == RdmaDevice(2, "mlx5_2")
        assert names(pod) == ["mlx5_2"]


def test_it_comes_back_once(kernel: RdmaKernel) -> None:
    with both(kernel) as (home, pod, own, netns):
        give(home, pod, VF, VF_IFINDEX, netns)
        assert take_back(pod, VF_IFINDEX, own) == RdmaDevice(2, "mlx5_2")
        assert take_back(pod, VF_IFINDEX, own) is None
        assert (names(home), names(pod)) == (["mlx5_3", "mlx5_2"], [])
        assert device_name(VF, kernel.tree) == "mlx5_2"


def test_only_the_device_that_goes_with_the_interface_comes_back(kernel: RdmaKernel) -> None:
    with both(kernel) as (home, pod, own, netns):
        give(home, pod, VF, VF_IFINDEX, netns)
        give(home, pod, OTHER, OTHER_IFINDEX, netns)
        take_back(pod, OTHER_IFINDEX, own)
        assert (names(home), names(pod)) == (["mlx5_3"], ["mlx5_2"])


def test_after_the_pods_namespace_has_died_it_can_be_given_to_the_next(kernel: RdmaKernel) -> None:
    with both(kernel) as (home, pod, _, netns):
        give(home, pod, VF, VF_IFINDEX, netns)
        kernel.end(namespace(kernel.tree.with_name("pod")))
        assert names(home) == ["mlx5_3", "mlx5_2"]
        give(home, pod, VF, VF_IFINDEX, netns)
        assert names(pod) == ["mlx5_2"]


def test_shared_devices_are_refused_with_the_command_that_mends_it(kernel: RdmaKernel) -> None:
    kernel.shared = True
    with both(kernel) as (home, pod, _, netns):
        with pytest.raises(RdmaShared, match=r"`rdma system set netns exclusive`.*netns_mode=0.*restart the server"):
            give(home, pod, VF, VF_IFINDEX, netns)
        with pytest.raises(KernelError, match=r"move RDMA device mlx5_2.*devices are shared"):
            home.move(RdmaDevice(2, "mlx5_2"), netns)
    assert [device.namespace for device in kernel.devices] == [kernel.home] * 2


def test_a_driver_that_cannot_move_its_device_is_said_to(kernel: RdmaKernel) -> None:
    kernel.add("rxe0", "0000:05:00.2", 23, movable=False)
    with both(kernel) as (home, pod, _, netns), pytest.raises(KernelError, match="its driver cannot") as caught:
        give(home, pod, "0000:05:00.2", 23, netns)
    assert caught.value.code == errno.EOPNOTSUPP


def test_a_vf_whose_device_is_not_back_yet_is_waited_for(kernel: RdmaKernel) -> None:
    """Another pod's namespace is still dying: this passes, and no other device is taken instead."""
    (elsewhere := kernel.tree.with_name("before")).touch()
    netns = os.open(elsewhere, os.O_RDONLY)
    try:
        with kernel.connect(kernel.tree.with_name("home")) as home:
            home.move(RdmaDevice(2, "mlx5_2"), netns)
    finally:
        os.close(netns)
    with both(kernel) as (home, pod, _, netns):
        with pytest.raises(RdmaMissing, match=f"{VF} has no RDMA device"):
            give(home, pod, VF, VF_IFINDEX, netns)
        assert names(pod) == []
        kernel.end(namespace(elsewhere))
        give(home, pod, VF, VF_IFINDEX, netns)
        assert names(pod) == ["mlx5_2"]


def test_a_kernel_without_rdma_says_what_to_load() -> None:
    """On a kernel that has it, there is nothing to complain of."""
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_RDMA).close()
    except OSError:
        with pytest.raises(KernelError, match="modprobe ib_core"):
            Rdma()
    else:
        with Rdma() as rdma:
            assert rdma.mode() in Mode

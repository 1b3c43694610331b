"""What a real kernel lets be done with RDMA devices and network namespaces: Soft-RoCE on a port of the NIC."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.nic_lab.card import PFS, device_of

pytestmark = pytest.mark.nic


def rdma(*arguments: str) -> str:
    """Return what rdma(8) complains of; empty when it has done it."""
    done = subprocess.run(["rdma", *arguments], capture_output=True, text=True, check=False)
    assert bool(done.returncode) == bool(done.stderr), done
    return done.stderr.strip()


def mode() -> str:
    return subprocess.run(["rdma", "system"], capture_output=True, text=True, check=True).stdout.split()[1]


@pytest.fixture(scope="module", autouse=True)
def driver() -> None:
    subprocess.run(["modprobe", "rdma_rxe"], check=True)


@pytest.fixture
def soft_roce() -> Iterator[str]:
    assert rdma("link", "add", "rxe0", "type", "rxe", "netdev", device_of(PFS[0])) == ""
    yield "rxe0"
    assert rdma("link", "delete", "rxe0") == ""


@pytest.fixture
def exclusive() -> Iterator[None]:
    assert mode() == "shared"
    assert rdma("system", "set", "netns", "exclusive") == ""
    yield
    assert rdma("system", "set", "netns", "shared") == ""


@pytest.fixture
def pod() -> Iterator[str]:
    subprocess.run(["ip", "netns", "add", "pod"], check=True)
    yield "pod"
    subprocess.run(["ip", "netns", "del", "pod"], check=True)


@pytest.mark.usefixtures("exclusive")
def test_the_mode_can_be_set_while_there_is_no_other_namespace() -> None:
    assert mode() == "exclusive"


@pytest.mark.usefixtures("pod")
def test_the_mode_cannot_be_set_while_there_is_another_namespace() -> None:
    assert rdma("system", "set", "netns", "exclusive") == "error: Device or resource busy"
    assert mode() == "shared"


def test_a_device_cannot_be_moved_in_shared_mode(soft_roce: str, pod: str) -> None:
    assert rdma("dev", "set", soft_roce, "netns", pod) == "error: Operation not supported"


@pytest.mark.usefixtures("exclusive")
def test_soft_roce_cannot_be_moved_in_exclusive_mode_either(soft_roce: str, pod: str) -> None:
    assert mode() == "exclusive"
    assert rdma("dev", "set", soft_roce, "netns", pod) == "error: Operation not supported"

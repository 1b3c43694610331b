"""A server with a real SR-IOV NIC of two ports, without a switchdev mode: what runs inside (tests/kernel/relay.py).

A test with the mark `nic` runs in the machine, as root, with the checkout and this machine's programs; /run, /tmp and
/srv are memory, everything else is there to read. `modprobe NAME` finds Debian's modules.
``make nic-lab ARGS="-k NAME"`` runs one; what it prints is in its report, outside, when it fails.
"""

from __future__ import annotations

import os

import pytest

from tests.fixtures.pods import pods
from tests.kernel.relay import FOLDER, Inside, Outside
from tests.nic_lab.qemu import NicMachine, missing

__all__ = ["pods"]


def pytest_configure(config: pytest.Config) -> None:
    """Take the tests' reports to those outside, or the tests to those inside."""
    inside = FOLDER in os.environ
    config.pluginmanager.register(Inside(config) if inside else Outside(config, "nic", NicMachine, missing))

"""Fixtures of the tests on real components."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.pods import pods
from tests.system.ovs_instance import Ovs, network_namespace, open_vswitch

__all__ = ["pods"]

_COUNT = itertools.count()


@pytest.fixture
def ovs(tmp_path: Path) -> Iterator[Ovs]:
    """Yield a private Open vSwitch in a namespace of its own, without any bridge."""
    name = f"ovs-{os.getpid()}-{next(_COUNT)}"
    with network_namespace(name), open_vswitch(name, tmp_path / "ovs") as instance:
        yield instance

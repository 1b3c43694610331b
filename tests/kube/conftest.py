"""The control plane of the tests: one per run, with the project's own resources installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kube.control_plane import ControlPlane
from tests.kube.installed import install


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run these after the fabric's tests where one process has both (tests/sharing.py)."""
    items.sort(key=lambda item: Path(__file__).parent in item.path.parents)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane without anything of this project's in it."""
    with ControlPlane(tmp_path_factory.mktemp("kube")) as control:
        print(f"control plane: ready in {control.started_in_s:.1f} s", file=sys.__stderr__)
        yield control


@pytest.fixture(scope="session")
def cluster(control_plane: ControlPlane) -> ControlPlane:
    """The control plane with the project's resources and access rules."""
    install(control_plane)
    return control_plane

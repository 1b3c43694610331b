"""The lab with an SR-IOV NIC, where it is not run: where packages come from, what is said when they are not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nic_lab.apt import PackagesError, sources

TARGETS = (
    "bookworm-security main http://mirror.example/debian-security/",
    "bookworm contrib http://elsewhere.example/debian/",
    "bookworm main http://mirror.example/debian/",
    "nodistro main https://other.example/",
)


def test_packages_come_from_the_archive_that_the_machines_own_release_comes_from() -> None:
    lines = sources(TARGETS, "bookworm").splitlines()
    assert "URIs: http://mirror.example/debian/" in lines
    assert "Suites: bookworm bookworm-backports" in lines


@pytest.mark.parametrize("release", ["jammy", ""])
def test_a_machine_without_debians_archive_is_told_so(release: str) -> None:
    with pytest.raises(PackagesError, match="no source of this machine"):
        sources(TARGETS, release)


def test_without_the_packages_its_tests_are_skipped_and_say_how_to_get_them(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/nic_lab/test_nic_rdma.py"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "make nic-lab fetches" in done.stdout
    assert "passed" not in done.stdout

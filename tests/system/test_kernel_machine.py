"""The machine that tests/kernel run in: what it says when it fails, and that it ends with whoever started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fabric import eventually
from tests.kernel.machine import Machine, MachineError, missing

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]

STARTER = """
import sys, time
from pathlib import Path
from tests.kernel.machine import Machine
Machine(Path(sys.argv[1]), ["--co"], {})
print("started", flush=True)
time.sleep(600)
"""
SLOW = """
import pytest

@pytest.mark.kernel
@pytest.mark.timeout(0.2)  # a machine takes longer to boot
@pytest.mark.parametrize("number", [1, 2])
def test_inside(number): ...

def test_outside(): ...
"""


def inhabitants(folder: Path) -> list[int]:
    """Return the processes that have this folder on their command line."""
    mark = f"uml_dir={folder}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for pid in inhabitants(tmp_path):
        os.kill(pid, signal.SIGKILL)


def test_without_the_package_the_kernels_tests_are_skipped_and_say_what_is_missing() -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/kernel"]
    done = subprocess.run(command, env={"PATH": "/nonexistent"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "user-mode-linux" in done.stdout
    assert "passed" not in done.stdout


def test_a_run_that_reports_nothing_says_why(folder: Path) -> None:
    machine = Machine(folder, ["--no-such-option"], {"HOME": "/root"})
    assert list(machine.lines("reports", 60)) == []
    assert "unrecognized arguments: --no-such-option" in machine.tail()
    eventually(lambda: inhabitants(folder) == [], "nothing is left")


def test_a_machine_that_hangs_is_noticed_and_ends(folder: Path) -> None:
    machine = Machine(folder, ["--co"], {"HOME": "/root"})
    with pytest.raises(MachineError, match=r"nothing has happened for 0\.1 s"):
        list(machine.lines("reports", 0.1))
    assert inhabitants(folder)
    machine.kill()
    assert inhabitants(folder) == []


def test_a_run_that_takes_longer_than_a_test_may_fails_tests_and_ends_as_ever(tmp_path: Path) -> None:
    file = tmp_path / "test_slow.py"
    file.write_text(SLOW)
    options = ["-c", "pyproject.toml", "-p", "no:cacheprovider", "-p", "tests.kernel.conftest"]
    command = [sys.executable, "-m", "pytest", *options, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "INTERNALERROR" not in done.stdout + done.stderr
    assert "1 passed, 2 errors" in done.stdout
    assert "the machine has ended" in done.stdout, "which cannot see the file"


def test_a_machine_ends_with_whoever_started_it(folder: Path) -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(folder)], stdout=subprocess.PIPE)
    with starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"started\n"
        eventually(lambda: len(inhabitants(folder)) > 1, "the machine's processes")
        starter.kill()
    eventually(lambda: inhabitants(folder) == [], "nothing is left")

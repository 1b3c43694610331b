"""Where figures were taken: a figure without its machine says nothing."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

_TOOLS = {
    "Open vSwitch": ("ovs-vswitchd", "--version"),
    "FRR": ("/usr/lib/frr/bgpd", "--version"),
    "gobgpd": ("gobgpd", "--version"),
    "CNI plugins": ("dpkg-query", "--show", "--showformat=${Version}", "containernetworking-plugins"),
}


def describe() -> dict[str, str]:
    """Return what the machine is, as much of it as this process may use, and the versions of what ran on it."""
    model = _first(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory_kib = int(_first(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text()))
    return {
        "processor": f"{len(os.sched_getaffinity(0))} cores, {model}",
        "memory": f"{memory_kib / 2**20:.0f} GiB",
        "kernel": platform.release(),
        "load when it began": f"{os.getloadavg()[0]:.1f}",
        "ExaBGP": version("exabgp"),
        **{name: _version(*command) for name, command in _TOOLS.items()},
    }


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"no {pattern!r} in {text[:200]!r}")
    return found[1]


def _version(*command: str) -> str:
    return _first(r"(\d+\.\d+(?:\.\d+)?)", subprocess.run(command, check=True, capture_output=True, text=True).stdout)

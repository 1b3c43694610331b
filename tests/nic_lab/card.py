"""The NIC of the machine: its functions, and what the kernel says of them."""

from __future__ import annotations

from pathlib import Path

PFS = ("0000:01:00.0", "0000:01:00.1")
"""Its ports."""
DEVICES = Path("/sys/bus/pci/devices")

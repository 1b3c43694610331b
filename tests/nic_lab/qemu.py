"""A machine with a NIC that has SR-IOV: QEMU emulates Intel's 82576 (`igb`) and a processor, on this machine's files.

Two ports of one card, with seven VFs each; the driver knows no switchdev mode. No KVM is needed: ten times slower.
Source: docs.qemu.org, System Emulation, igb; Linux Documentation/filesystems/9p.rst.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.kernel.machine import Machine
from tests.nic_lab.packages import unpacked

INIT = Path(__file__).with_name("init.py")
MEMORY = "1024M"
PORTS = ("02:00:00:00:aa:01", "02:00:00:00:aa:02")
"""MAC addresses of the NIC's ports."""
VIRTUALISATION = ("-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,la57=off", "-smp", "2")


def missing() -> str | None:
    """Return why there can be no machine here; None when there can."""
    if unpacked() is None:
        return "no QEMU with igb here: make nic-lab fetches Debian's, 240 MB"
    return None if os.geteuid() == 0 else "QEMU shows the machine files that only root may read"


class NicMachine(Machine):
    """A machine that runs pytest once."""

    def command(self) -> list[str]:
        """Return what starts QEMU, with the machine's console on standard output."""
        got = unpacked()
        assert got is not None, "who starts a machine has asked whether one can be"
        kernel = ["-kernel", str(got.kernel), "-initrd", str(got.initramfs)]
        kernel += ["-append", f"console=ttyS0 quiet panic=-1 -- {sys.executable} {INIT} {self.folder} {got.folder}"]
        files = ["-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"]
        files += ["-virtfs", f"local,path={self.folder},mount_tag=folder,security_model=none"]
        nic = ["-device", "pcie-root-port,id=root"]
        for function, mac in enumerate(PORTS):
            nic += ["-netdev", f"hubport,id=cable{function},hubid={function}"]
            following = "x-pcie-ari-nextfn-1=on," if function == 0 else ""
            place = f"bus=root,addr=0.{function},multifunction=on,{following}"
            nic += ["-device", f"igb,{place}romfile=,netdev=cable{function},mac={mac}"]
        firmware = [word for folder in got.firmware for word in ("-L", str(folder))]
        general = ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio", "-m", MEMORY]
        environment = ["env", f"LD_LIBRARY_PATH={got.libraries}"]
        return [*environment, str(got.program), *firmware, *VIRTUALISATION, *general, *kernel, *files, *nic]

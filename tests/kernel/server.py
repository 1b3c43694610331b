"""A server whose bridge is the kernel's, as those see it who look for offload."""

from __future__ import annotations

import re
from pathlib import Path

from tests.servers import Pod, Server


class KernelServer(Server):
    """A server of containerlab/kernel.clab.yml."""

    def bond(self) -> str:
        """Return what the bonding driver says of the uplink."""
        return Path(f"/proc/{self.node.pid}/net/bonding/bond0").read_text()

    def partners(self) -> list[tuple[str, str]]:
        """Return the LACP system and port number of each member's partner."""
        found = re.findall(
            r"details partner lacp pdu:.*?system mac address: (\S+).*?port number: (\d+)", self.bond(), re.DOTALL
        )
        return [(system, port) for system, port in found]

    def bonded(self) -> bool:
        """Tell whether both members carry, in one aggregator."""
        return "Number of ports: 2" in self.bond() and self.bond().count("MII Status: up") == 3

    def megaflows_of(self, pod: Pod) -> list[str]:
        """Return what the datapath forwards from and to a pod; without what it drops."""
        names = (f"in_port({pod.port})", f",{pod.port}", f":{pod.port}")
        return [flow for flow in self.megaflows() if any(name in flow for name in names) and "actions:drop" not in flow]

    def megaflows(self) -> list[str]:
        """Return what the datapath forwards by now, all of it."""
        dump = self.node.run(["ovs-appctl", "dpctl/dump-flows", "-m", "--names", "type=all"]).stdout
        return dump.splitlines()

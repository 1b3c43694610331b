"""routed itself as a contender: a private Open vSwitch, the agent on a rack's host, its CNI shim."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from ipaddress import IPv4Network
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Self

import yaml

from containerlab.driver import CniError, Plugin
from tests.bench.contenders import Contender, pods
from tests.bench.figures import OURS, UNPLUGGED
from tests.bench.namespace import named
from tests.bench.speakers import Announced
from tests.fixtures.pods import unmount
from tests.fixtures.tors import HOST_ASN, HOST_V4, Rack, run, until
from tests.system.ovs_instance import Ovs, open_vswitch

if TYPE_CHECKING:
    from collections.abc import Iterator

SHIM = Path(__file__).parents[2] / "build" / "routed-cni"
READY_SLOTS = 64
"""More than one round attaches: a server keeps as many wires ready as it expects pods to start together."""

_GATEWAY = "10.99.0.254"
_START_TIMEOUT_S = 60.0


class Attaching:
    """Announces as users do: an ADD announces the address that it hands out, a DEL takes it back."""

    name = OURS

    def __init__(self, rack: Rack, plugin: Plugin, pod: Path) -> None:
        self.rack = rack
        self._plugin = plugin
        self._pod = pod
        self._numbers = count()
        self._attached = ""

    def announce(self) -> Announced:
        """Attach the pod."""
        self._attached = f"route-{next(self._numbers)}"
        called_ns = time.time_ns()
        result = self._plugin.add(self._attached, self._pod)
        returned_ns = time.time_ns()
        return Announced(IPv4Network(result.addresses[0].ip), called_ns, returned_ns)

    def withdraw(self, _: Announced) -> None:
        """Detach the pod."""
        self._plugin.delete(self._attached, self._pod)


@contextmanager
def routed(rack: Rack, size: int, ready_slots: int = READY_SLOTS) -> Iterator[Contender]:
    """Run the agent on the rack's host; yields when it serves and its stock is plugged.

    Without a stock, each round of calls begins with a new agent and nothing plugged: an agent keeps what it plugged.
    """
    directory = rack.run_dir / "routed"
    plugin = Plugin(
        SHIM,
        {"cniVersion": "1.1.0", "name": "bench", "type": "routed"},
        env={"ROUTED_CNI_SOCKET": str(directory / "cni.sock"), "ROUTED_CNI_QUEUE": str(directory / "queue")},
    )
    with (
        pods(directory, size) as namespaces,
        open_vswitch(rack.host, directory / "ovs") as ovs,
    ):
        _bridge(rack, ovs)
        config = directory / "rack.yaml"
        config.write_text(yaml.safe_dump(_rack_file(rack, directory, ready_slots)))
        with _Agent(rack, config, ovs, plugin) as agent:
            agent.start()
            until(lambda: len(_plugged(ovs)) >= ready_slots, "wires are plugged", _START_TIMEOUT_S)
            host = named(rack.host)
            if ready_slots:
                yield Contender(OURS, host, plugin, namespaces)
            else:
                yield Contender(UNPLUGGED, host, plugin, namespaces, agent.begin_anew)


class _Agent:
    """The agent in the host's namespace; a failure in its time shows the end of its log."""

    def __init__(self, rack: Rack, config: Path, ovs: Ovs, plugin: Plugin) -> None:
        self._ovs, self._plugin, self._folder = ovs, plugin, config.parent
        self._log = config.parent / "agent.log"
        program = str(Path(sys.executable).with_name("routed"))
        enter = ["nsenter", f"--net={named(rack.host)}"]
        self._command = [*enter, program, "agent", "--config", str(config), "--server", "bench"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it serves."""
        with self._log.open("ab") as output:
            process = self._process = subprocess.Popen(self._command, stdout=output, stderr=output)
        until(lambda: _serves(process, self._plugin), "the agent serves", _START_TIMEOUT_S)

    def stop(self) -> None:
        """End it, and what it leaves to the next one: its wires, with the namespace that holds their inner ends."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        unmount(self._folder / "run" / "slots")

    def begin_anew(self) -> None:
        """Replace it by one that finds nothing plugged."""
        self.stop()
        self._ovs.vsctl("show", *(word for port in _plugged(self._ovs) for word in ("--", "del-port", "br0", port)))
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, (AssertionError, CniError, TimeoutError)):
            error.add_note(f"the agent's log ends with:\n{self._log.read_text()[-4000:]}")
        self.stop()


def _bridge(rack: Rack, ovs: Ovs) -> None:
    """Make the bridge, with an uplink at whose far end (in the first ToR) the gateway answers."""
    ovs.add_bridge("br0", "fail_mode=secure")
    run("ip", "-n", rack.host, "link", "add", "up0", "type", "veth", "peer", "name", "gw0", "netns", rack.tors[0].netns)
    ovs.silence("up0")
    run("ip", "-n", rack.host, "link", "set", "up0", "up", "arp", "off")
    ovs.vsctl("add-port", "br0", "up0", "--", "set", "interface", "up0", "ofport_request=1")
    run("ip", "-n", rack.host, "address", "add", f"{HOST_V4}/24", "dev", "br0")
    run("ip", "-n", rack.host, "link", "set", "br0", "up")
    run("ip", "-n", rack.tors[0].netns, "address", "add", f"{_GATEWAY}/24", "dev", "gw0")
    run("ip", "-n", rack.tors[0].netns, "link", "set", "gw0", "up")


def _rack_file(rack: Rack, directory: Path, ready_slots: int) -> dict[str, object]:
    return {
        "rack": "bench",
        "tors": [{"name": tor.name, "asn": tor.asn, "address": str(tor.address)} for tor in rack.tors],
        "hosts": [{"prefix": "10.99.0.0/24", "gateway": _GATEWAY}],
        "pools": [{"prefix": "10.101.0.0/21", "gateway": "10.101.0.1"}],  # what cools down must not run a round dry
        "servers": {"bench": {"addresses": [HOST_V4]}},
        "bgp": {"asn": HOST_ASN, "listen_port": None},
        "bridge": {"name": "br0", "uplink": "up0", "ready_slots": ready_slots},
        "cni": {"socket": str(directory / "cni.sock"), "queue": str(directory / "queue")},
        "paths": {"state": str(directory / "state"), "run": str(directory / "run"), "ovs": str(directory / "ovs")},
    }


def _serves(agent: subprocess.Popen[bytes], plugin: Plugin) -> bool:
    assert agent.poll() is None, "the agent ended"
    try:
        plugin.status()
    except CniError:
        return False
    return True


def _plugged(ovs: Ovs) -> list[str]:
    return [port for port in ovs.vsctl("list-ports", "br0").split() if port.startswith("rt")]

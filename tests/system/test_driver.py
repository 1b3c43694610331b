"""The plain CNI driver against Debian's reference plugins."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from containerlab.driver import DEBIAN_PLUGINS, Chain, CniError, Plugin, network_namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.system


@pytest.fixture
def scratch() -> Iterator[Path]:
    with TemporaryDirectory(prefix="cni-test-") as path:
        yield Path(path)


@pytest.fixture
def bridge(scratch: Path) -> Iterator[Plugin]:
    with network_namespace(scratch / "host") as host:
        ipam = {"type": "host-local", "dataDir": str(scratch / "leases"), "subnet": "10.88.0.0/30"}
        conf: dict[str, Any] = {"cniVersion": "1.0.0", "name": "test", "type": "bridge", "bridge": "cni0", "ipam": ipam}
        yield Plugin(DEBIAN_PLUGINS / "bridge", conf, prefix=("nsenter", f"--net={host}"))


@pytest.fixture
def pod(scratch: Path) -> Iterator[Path]:
    with network_namespace(scratch / "pod") as netns:
        yield netns


def test_add_check_delete(bridge: Plugin, pod: Path) -> None:
    result = bridge.add("c1", pod)
    assert [str(address) for address in result.addresses] == ["10.88.0.2/30"]
    bridge.after(result).check("c1", pod)
    bridge.delete("c1", pod)
    with pytest.raises(CniError):
        bridge.after(result).check("c1", pod)


def test_a_plugin_error_has_code_and_words(bridge: Plugin, pod: Path, scratch: Path) -> None:
    bridge.add("c1", pod)
    with (
        network_namespace(scratch / "late") as late,
        pytest.raises(CniError, match="no IP addresses available") as error,
    ):
        bridge.add("c2", late)
    assert error.value.code > 0


def test_delete_without_a_netns_frees_the_address(bridge: Plugin, pod: Path, scratch: Path) -> None:
    bridge.add("c1", pod)
    assert (scratch / "leases/test/10.88.0.2").exists()
    bridge.delete("c1", None)
    assert not (scratch / "leases/test/10.88.0.2").exists()


def test_a_chain_hands_the_result_on(bridge: Plugin, pod: Path) -> None:
    tuning = {"cniVersion": "1.0.0", "name": "test", "type": "tuning", "mac": "0a:58:00:00:00:01"}
    chain = Chain((bridge, Plugin(DEBIAN_PLUGINS / "tuning", tuning, prefix=bridge.prefix)))
    result = chain.add("c1", pod, args={"IgnoreUnknown": "1"})
    assert [str(address) for address in result.addresses] == ["10.88.0.2/30"]
    assert "0a:58:00:00:00:01" in [interface["mac"] for interface in result.raw["interfaces"]]
    chain.delete("c1", pod)


def test_version_lists_what_the_plugin_speaks(bridge: Plugin) -> None:
    assert "1.0.0" in bridge.version()


def test_a_plugin_that_says_nothing_is_quoted(pod: Path) -> None:
    with pytest.raises(CniError, match="status 1") as error:
        Plugin(Path("/bin/false"), {}).add("c1", pod)
    assert error.value.code == 0


def test_gc_says_which_attachments_stay(scratch: Path) -> None:
    plugin = scratch / "recorder"
    plugin.write_text(f"#!/bin/sh\necho $CNI_COMMAND > {scratch}/command; cat > {scratch}/stdin\n")
    plugin.chmod(0o755)
    Plugin(plugin, {"name": "test"}).gc([("c1", "eth0")])
    assert (scratch / "command").read_text() == "GC\n"
    assert json.loads((scratch / "stdin").read_text()) == {
        "name": "test",
        "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}],
    }

"""A server whose name nobody can resolve, because its network is what ExaBGP is about to bring."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bgp import launch

pytestmark = pytest.mark.system
NAMESPACE = "routed-noname"
PATIENCE_S = 4
"""Below the resolver's default timeout of 5 s."""


@pytest.fixture
def nameless(tmp_path: Path) -> Iterator[Sequence[str]]:
    """A command prefix: a network whose name server never answers, and a host name that is in no file."""
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("nameserver 192.0.2.53\n")
    subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
    try:
        batch = "link add out type veth peer name far\nlink set out up\nlink set far up\nroute add default dev out\n"
        subprocess.run(["ip", "-n", NAMESPACE, "-batch", "-"], input=batch, text=True, check=True)
        script = f'mount --bind {resolver} /etc/resolv.conf && hostname nobody-knows && exec "$@"'
        enter = ["nsenter", f"--net=/run/netns/{NAMESPACE}", "unshare", "--mount", "--uts"]
        yield (*enter, "sh", "-c", script, "sh", sys.executable, "-P")
    finally:
        subprocess.run(["ip", "netns", "del", NAMESPACE], check=True)


def test_exabgp_starts_although_no_name_server_answers(nameless: Sequence[str]) -> None:
    command = [*nameless, str(Path(launch.__file__)), "version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert "5.0.15" in done.stdout


def test_without_the_launcher_it_waits_for_the_resolver(nameless: Sequence[str]) -> None:
    command = [*nameless, str(Path(sys.executable).with_name("exabgp")), "version"]
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE_S)

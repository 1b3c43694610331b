"""Shared by the tests that need the whole fabric: one lab per test run, and a plain BGP speaker for its servers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from containerlab.lab import Lab
from containerlab.runners import Runner

_T = TypeVar("_T")
EXABGP = "exabgp"
"""In the PATH of a server."""
TORS = {"s11": ("r1a", "r1b"), "s12": ("r1a", "r1b"), "s21": ("r2a", "r2b"), "s22": ("r2a", "r2b")}
ADDRESSES = {"s11": "10.1.0.11", "s12": "10.1.0.12", "s21": "10.2.0.21", "s22": "10.2.0.22"}
IPV6 = {"s11": "fd00:1::11", "s12": "fd00:1::12", "s21": "fd00:2::21", "s22": "fd00:2::22"}
LOOPBACKS = {"r1a": "10.255.1.1", "r1b": "10.255.1.2", "r2a": "10.255.2.1", "r2b": "10.255.2.2"}
TAKEN = {"Established", "Idle (PfxCt)"}
"""States of a session that a ToR took; with too many routes it is over before one looks."""
ASNS = {"r1a": 65011, "r1b": 65012, "r2a": 65021, "r2b": 65022}


@pytest.fixture(scope="session")
def runner(pytestconfig: pytest.Config) -> Runner:
    """Who realises the fabric."""
    return Runner(pytestconfig.getoption("runner"))


@pytest.fixture(scope="session")
def lab(runner: Runner) -> Iterator[Lab]:
    """Two racks, converged; tests that disturb them put them right again."""
    with runner.lab.up(name=f"test-{os.getpid()}") as up:
        up.wait_ready()
        yield up


def eventually(condition: Callable[[], _T | None], what: str | Callable[[], str], timeout_s: float = 30) -> _T:
    """Poll until the condition is true and return what it gave; fail with what was waited for otherwise."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what if isinstance(what, str) else what()}: not within {timeout_s} s"
        time.sleep(0.1)  # between two looks, not instead of one
    return value


def session(lab: Lab, tor: str, server: str) -> str:
    """Return the state of a server's BGP session as its ToR sees it."""
    summary = lab.vtysh_json(tor, "show bgp ipv4 unicast summary")
    return str(summary["peers"][ADDRESSES[server]]["state"])


@contextlib.contextmanager
def announcing(
    lab: Lab, server: str, routes: dict[str, list[str]], *, graceful_restart_s: int | None = None
) -> Iterator[subprocess.Popen[Any]]:
    """Announce routes from a server to both its ToRs; a route is what ExaBGP calls one, keyed by family.

    Yields the speaker, once both ToRs took its session.
    """
    restart = f"capability {{ graceful-restart {graceful_restart_s}; }} " if graceful_restart_s else ""
    families = "".join(
        f"{family} {{ {''.join(f'unicast {route}; ' for route in of)}}} " for family, of in routes.items()
    )
    neighbours = "".join(
        f"neighbor {LOOPBACKS[tor]} {{ router-id {ADDRESSES[server]}; local-address {ADDRESSES[server]}; "
        f"local-as 65500; peer-as {ASNS[tor]}; hold-time 9; listen 179; {restart}"
        f"family {{ ipv4 unicast; ipv6 unicast; }} announce {{ {families}}} }}\n"
        for tor in TORS[server]
    )
    node = lab.node(server)
    node.path("/run/announcing.conf").write_text(neighbours)
    environment = {"exabgp_daemon_user": "root", "exabgp_api_cli": "false", "exabgp_log_destination": "stdout"}
    with node.path("/run/announcing.log").open("w") as log:
        speaker = node.popen(
            [EXABGP, "server", "/run/announcing.conf"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        for tor in TORS[server]:
            eventually(lambda tor=tor: session(lab, tor, server) in TAKEN, f"{server}'s session with {tor}")
        yield speaker
    finally:
        speaker.kill()
        speaker.wait()
        for tor in TORS[server]:
            eventually(
                lambda tor=tor: session(lab, tor, server) != "Established", f"end of {server}'s session with {tor}"
            )
            lab.vtysh(tor, f"clear bgp {ADDRESSES[server]}")

"""Sessions: passwords, switches that come back, changes of the configuration, the drain, another kind of receiver."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from bgp import config
from bgp.errors import PasswordError
from bgp.model import Neighbor, SessionState
from tests.fixtures.speakers import (
    BareExabgp,
    arrived,
    both_up,
    prefixes,
    silence,
    speaker_config,
    speaking,
    to_all,
    wired_rack,
)
from tests.fixtures.tors import HOST_ASN, HOST_V4, FibWatch, Rack, eventually, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from bgp.speaker import Speaker
    from tests.fixtures.tors import Tor

pytestmark = pytest.mark.system

ROUTES = prefixes(60)


@pytest.fixture
async def rack() -> AsyncIterator[Rack]:
    async with wired_rack() as rack:
        yield rack


def _neighbors(rack: Rack, *passwords: str | None) -> tuple[Neighbor, ...]:
    pairs = zip(rack.tors, passwords, strict=True)
    return tuple(Neighbor(tor.address, tor.asn, tor.name, password) for tor, password in pairs)


def _states(speaker: Speaker) -> list[SessionState]:
    return [status.state for status in speaker.neighbors().values()]


async def test_the_right_password_comes_up_and_the_wrong_one_does_not(rack: Rack) -> None:
    for tor in rack.tors:
        tor.password = "abcdef0123456789"  # noqa: S105  hexadecimal: would be decoded if ExaBGP were left to guess
    rack.start()
    async with speaking(rack, neighbors=_neighbors(rack, rack.tors[0].password, "another")) as speaker:
        await speaker.upsert(to_all(rack, ROUTES))
        await eventually(lambda: _states(speaker)[0] is SessionState.UP, "the session with the right password is up")
        await eventually(lambda: len(rack.tors[0].rib()) == len(ROUTES), "its routes have arrived")
        assert _states(speaker)[1] is SessionState.DOWN
        assert not rack.tors[1].rib()
        file = (rack.run_dir / "speaker" / "exabgp.conf").stat()
        assert (file.st_mode & 0o037, file.st_gid) == (0, 0), "the password is in this file"


async def test_a_corrected_password_reaches_a_running_exabgp_without_touching_the_other_session(rack: Rack) -> None:
    rack.tors[1].password = "right"  # noqa: S105
    rack.start()
    # ExaBGP forgets a reload until its attempt to connect has failed: let that be soon.
    run("ip", "netns", "exec", rack.host, "sysctl", "-qw", "net.ipv4.tcp_syn_retries=1")
    async with speaking(rack, neighbors=_neighbors(rack, None, "wrong")) as speaker:
        await speaker.upsert(to_all(rack, ROUTES))
        await eventually(lambda: len(rack.tors[0].rib()) == len(ROUTES), "one switch has all routes")
        pid = speaker.pid
    async with speaking(rack, neighbors=_neighbors(rack, None, "right")) as speaker:
        await speaker.upsert(to_all(rack, ROUTES))
        await eventually(lambda: _states(speaker)[1] is SessionState.UP, "the second session is up", 40)
        await arrived(rack, to_all(rack, ROUTES))
        assert speaker.pid == pid
        assert rack.tors[0].session()["connectionsEstablished"] == 1


async def test_a_missing_or_empty_password_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PasswordError, match="nowhere"):
        config.read_password(tmp_path / "nowhere")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(PasswordError, match="empty"):
        config.read_password(tmp_path / "empty")


async def test_a_switch_that_comes_back_is_served_in_seconds(rack: Rack) -> None:
    rack.start()
    tor = rack.tors[0]
    async with speaking(rack) as speaker:
        await speaker.upsert(to_all(rack, ROUTES))
        await arrived(rack, to_all(rack, ROUTES))
        tor.stop("bgpd")
        await eventually(lambda: _states(speaker)[0] is SessionState.DOWN, "the session is seen to be down")
        status = speaker.neighbors()[tor.address]
        assert status.reason
        assert not status.end_of_rib
        # Changes of this time: an attribute, a withdraw, a route that was there and is there again.
        await speaker.upsert(to_all(rack, ROUTES[:20], med=5))
        await speaker.remove(to_all(rack, ROUTES[40:]).keys())
        await speaker.upsert(to_all(rack, ROUTES[40:50], med=6))
        wanted = to_all(rack, ROUTES[:20], med=5) | to_all(rack, ROUTES[20:40]) | to_all(rack, ROUTES[40:50], med=6)
        tor.start("bgpd")
        await arrived(rack, wanted)
        await eventually(lambda: both_up(speaker), "End-of-RIB left again")
        assert [status.ups for status in speaker.neighbors().values()] == [2, 1]


async def test_exabgp_listens_only_when_it_should(rack: Rack) -> None:
    rack.start()
    async with speaking(rack, listen_port=None) as speaker:
        await eventually(lambda: both_up(speaker), "both sessions are up")
        assert not run("ip", "netns", "exec", rack.host, "ss", "-Hltn", "sport", "=", "179")
    await silence(rack)
    async with speaking(rack) as speaker:
        await eventually(lambda: both_up(speaker), "both sessions are up")
        assert run("ip", "netns", "exec", rack.host, "ss", "-Hltn", "sport", "=", "179")


async def test_a_changed_configuration_goes_from_switch_to_switch(rack: Rack) -> None:
    rack.start()
    async with speaking(rack) as speaker:
        await speaker.upsert(to_all(rack, ROUTES))
        await arrived(rack, to_all(rack, ROUTES))
        await eventually(lambda: all(tor.fib() == set(ROUTES) for tor in rack.tors), "both switches forward")
        pid = speaker.pid
    watches = [FibWatch(tor) for tor in rack.tors]
    try:
        async with speaking(rack, hold_time_s=6, graceful_restart_s=20, authoritative=False) as speaker:
            lowest = 2
            await speaker.upsert(to_all(rack, ROUTES))
            speaker.authoritative()

            def applied() -> bool:
                nonlocal lowest
                lowest = min(lowest, _states(speaker).count(SessionState.UP))
                return all(status.ups == 2 for status in speaker.neighbors().values()) and both_up(speaker)

            await eventually(applied, "both switches have the new configuration", 20)
            assert lowest == 1, "never both at once"
            assert speaker.pid == pid
            assert [tor.session()["bgpTimerHoldTimeMsecs"] for tor in rack.tors] == [6000, 6000]
            await arrived(rack, to_all(rack, ROUTES))
        assert [watch.deleted() for watch in watches] == [0, 0]
    finally:
        for watch in watches:
            watch.close()


async def test_a_neighbour_that_exabgp_knew_by_another_identity_is_told_everything_anew(rack: Rack) -> None:
    rack.start()
    async with speaking(rack) as speaker:
        await speaker.upsert(to_all(rack, ROUTES))
        await arrived(rack, to_all(rack, ROUTES))
    base = speaker_config(rack)
    async with speaking(rack, router_id=base.router_id + 100) as speaker:
        await speaker.upsert(to_all(rack, ROUTES))
        await eventually(
            lambda: both_up(speaker) and all(s.ups == 2 for s in speaker.neighbors().values()), "rolled", 20
        )
        await arrived(rack, to_all(rack, ROUTES))
        assert [tor.session()["remoteRouterId"] for tor in rack.tors] == [str(base.router_id + 100)] * 2


async def test_a_removed_and_a_new_neighbour(rack: Rack) -> None:
    rack.start()
    both = _neighbors(rack, None, None)
    async with speaking(rack, neighbors=both[:1]) as speaker:
        await eventually(lambda: both_up(speaker), "one session is up")
        pid = speaker.pid
    async with speaking(rack, neighbors=both[1:]) as speaker:
        await speaker.upsert(
            {key: value for key, value in to_all(rack, ROUTES).items() if key.neighbor == both[1].address}
        )
        await eventually(lambda: both_up(speaker), "the new session is up", 20)
        await eventually(lambda: len(rack.tors[1].rib()) == len(ROUTES), "its routes have arrived")
        await eventually(lambda: not rack.tors[0].established(), "the removed session has ended", 20)
        assert speaker.pid == pid


async def test_exabgp_forgets_a_reload_while_a_route_waits(rack: Rack) -> None:
    rack.tors[0].start()
    rack.tors[1].password = "so that no session comes up".replace(" ", "")
    rack.tors[1].start()
    base = speaker_config(rack, neighbors=_neighbors(rack, None, None))
    async with BareExabgp(rack, config.sections(base).values()) as exabgp:
        await eventually(lambda: exabgp.ups() == 1, "one session is up")
        exabgp.write([f"neighbor {rack.tors[1].address} announce route 10.101.0.1/32 next-hop {HOST_V4}"])
        await eventually(lambda: exabgp.answers() == ["done"], "a route waits for a session that never comes")
        changed = dataclasses.replace(base, hold_time_s=6)
        exabgp.process.write(config.sections(changed).values())
        exabgp.process.reload()
        exabgp.write(["show neighbor configuration"])
        await eventually(lambda: len(exabgp.answers()) == 2, "ExaBGP shows its configuration")
        assert not any("hold-time 6" in line for line in exabgp.lines)


async def test_drain_tells_both_switches_before_exabgp_ends(rack: Rack) -> None:
    rack.start()
    async with speaking(rack) as speaker:
        await speaker.upsert(to_all(rack, ROUTES))
        await arrived(rack, to_all(rack, ROUTES))
        pid = speaker.pid
        assert pid is not None
        await speaker.drain()
        # With graceful restart the switches would keep for 30 s what they were not told to drop.
        await eventually(lambda: not any(tor.rib() or tor.fib() for tor in rack.tors), "both dropped all routes", 10)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_drain_does_not_wait_for_a_switch_that_is_down(rack: Rack) -> None:
    rack.tors[0].start()
    async with speaking(rack) as speaker:
        await speaker.upsert(to_all(rack, ROUTES))
        await eventually(lambda: len(rack.tors[0].rib()) == len(ROUTES), "one switch has all routes")
        await speaker.drain()
        await eventually(lambda: not rack.tors[0].rib(), "and has none", 10)


async def test_killing_exabgp_instead_of_draining_leaves_stale_routes(rack: Rack) -> None:
    rack.start()
    async with speaking(rack) as speaker:
        await speaker.upsert(to_all(rack, ROUTES))
        await arrived(rack, to_all(rack, ROUTES))
    await silence(rack)
    await eventually(lambda: not any(tor.established() for tor in rack.tors), "both sessions have ended")
    assert all(len(tor.rib()) == len(ROUTES) for tor in rack.tors)


async def test_generalised_ttl_security(rack: Rack) -> None:
    for tor in rack.tors:
        tor.extra = (f"no neighbor {HOST_V4} ebgp-multihop", f"neighbor {HOST_V4} ttl-security hops 1")
    rack.start()
    direct = tuple(dataclasses.replace(neighbor, direct=True) for neighbor in _neighbors(rack, None, None))
    async with speaking(rack, neighbors=direct) as speaker:
        await speaker.upsert(to_all(rack, ROUTES))
        await arrived(rack, to_all(rack, ROUTES))
    await silence(rack)
    await eventually(lambda: not any(tor.established() for tor in rack.tors), "both sessions have ended")
    async with BareExabgp(rack):
        await eventually(lambda: _retried(rack) >= 2, "what was sent to both switches is sent again and again")
        assert not any(tor.established() for tor in rack.tors), "the default TTL is refused"


def _retried(rack: Rack) -> int:
    """Return how many connections of the server have sent something twice and wait for an answer."""
    shown = run("ip", "netns", "exec", rack.host, "ss", "-Htnao")
    return sum("timer:(on" in line and not line.rstrip().endswith(",0)") for line in shown.splitlines())


BIRD = """
log "{dir}/bird.log" all;
router id {address};
protocol device {{}}
protocol bgp server {{
    local {address} as {asn};
    neighbor {host} as {host_asn};
    multihop 3;
    hold time 9;
    connect retry time 1;
    ipv4 {{ import all; export none; gateway recursive; }};
    ipv6 {{ import all; export none; gateway recursive; }};
}}
"""


async def test_bird_as_receiver(rack: Rack) -> None:
    frr, other = rack.tors
    frr.start()
    other.run_dir.mkdir()
    conf = other.run_dir / "bird.conf"
    conf.write_text(
        BIRD.format(dir=other.run_dir, address=other.address, asn=other.asn, host=HOST_V4, host_asn=HOST_ASN)
    )
    socket = other.run_dir / "bird.ctl"
    bird = subprocess.Popen(  # noqa: ASYNC220  the start of a daemon does not wait
        ["ip", "netns", "exec", other.netns, "bird", "-f", "-c", str(conf), "-s", str(socket)]
    )
    try:
        async with speaking(rack) as speaker:
            await speaker.upsert(to_all(rack, ROUTES))
            await eventually(lambda: _bird(socket) == _expected(other, ROUTES, 100), "BIRD has all routes")
            await speaker.upsert(to_all(rack, ROUTES[:30], med=9))
            await speaker.remove(to_all(rack, ROUTES[30:]).keys())
            await eventually(lambda: _bird(socket) == _expected(other, ROUTES[:30], 9), "BIRD has what is left")
            pid = speaker.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: speaker.pid not in {pid, None} and both_up(speaker), "the next ExaBGP told all")
            await eventually(lambda: _bird(socket) == _expected(other, ROUTES[:30], 9), "BIRD still has it")
    finally:
        bird.kill()
        bird.wait()


def _expected(_tor: Tor, routes: Sequence[object], med: int) -> dict[str, int]:
    return {str(prefix): med for prefix in routes}


def _bird(socket: Path) -> dict[str, int]:
    """Return prefix and MED of every route in BIRD."""
    shown = run("birdc", "-s", str(socket), "show", "route", "all", check=False)
    found: dict[str, int] = {}
    prefix = ""
    for line in shown.splitlines():
        words = line.split()
        if "unicast" in words or "unreachable" in words:
            prefix = words[0]
        elif words[:1] == ["BGP.med:"]:
            found[prefix] = int(words[1])
    return found

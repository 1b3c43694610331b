"""What two real switches end up with, after operations in any order: the traps of ExaBGP's command line."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bgp import config, text
from bgp.errors import InvalidRouteError
from bgp.model import Attributes, RouteKey
from tests.fixtures.speakers import (
    BareExabgp,
    arrived,
    attributes,
    both_up,
    prefixes,
    speaker_config,
    speaking,
    to_all,
    wired_rack,
)
from tests.fixtures.tors import Rack, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from bgp.model import IPAddress, IPNetwork

pytestmark = pytest.mark.system

COMMUNITIES = {10: ("65001:10",), 20: ("65001:20", "65535:0"), 30: ("65001:1:30",)}


@pytest.fixture
async def rack() -> AsyncIterator[Rack]:
    async with wired_rack() as rack:
        rack.start()
        yield rack


def _wishes(rack: Rack, rng: random.Random, count: int) -> list[tuple[RouteKey, Attributes | None]]:
    """Return random announces, changes of attributes and withdraws of a few prefixes."""
    some = prefixes(25)
    wishes: list[tuple[RouteKey, Attributes | None]] = []
    for _ in range(count):
        prefix, med = rng.choice(some), rng.choice([10, 20, 30, None])
        value = None if med is None else attributes(prefix, med, COMMUNITIES[med])
        wishes.append((RouteKey(rng.choice(rack.tors).address, prefix), value))
    return wishes


def _result(wishes: list[tuple[RouteKey, Attributes | None]]) -> dict[RouteKey, Attributes]:
    return {key: value for key, value in dict(wishes).items() if value is not None}


async def test_any_order_of_operations_ends_with_the_desired_routes_on_both_switches(rack: Rack) -> None:
    rng = random.Random(2)  # noqa: S311  a reproducible order, no secret
    async with speaking(rack) as speaker:
        history: list[tuple[RouteKey, Attributes | None]] = []
        for round_number in range(12):
            wishes = _wishes(rack, rng, 300)
            history += wishes
            while wishes:
                size = rng.randrange(1, 30)
                batch = dict(wishes[:size])
                del wishes[:size]
                gone = [key for key, value in batch.items() if value is None]
                there = {key: value for key, value in batch.items() if value is not None}
                async with asyncio.TaskGroup() as group:
                    group.create_task(speaker.remove(gone))
                    group.create_task(speaker.upsert(there))
                if round_number % 4 == 3 and rng.random() < 0.2:
                    rng.choice(rack.tors).vtysh("clear bgp *")
            wanted = _result(history)
            await arrived(rack, wanted)
            assert dict(await speaker.observe()) == wanted
        key, value = next(item for item in wanted.items() if item[1].communities)
        tor = next(tor for tor in rack.tors if tor.address == key.neighbor)
        assert {word.replace("gracefulShutdown", "65535:0") for word in tor.communities(key.prefix)} == set(
            value.communities
        )


async def test_the_obvious_way_ends_with_other_routes_than_desired(rack: Rack) -> None:
    rng = random.Random(2)  # noqa: S311  a reproducible order, no secret
    async with BareExabgp(rack) as exabgp:
        await eventually(lambda: exabgp.ups() == 2, "both sessions are up")
        last: dict[RouteKey, Attributes] = {}
        right = lines = 0
        wanted: dict[RouteKey, Attributes] = {}
        for _ in range(4):
            burst = []
            for key, value in _wishes(rack, rng, 300):
                if value is not None:
                    burst.append(text.announce([key.neighbor], [key.prefix], value))
                    last[key] = wanted[key] = value
                elif key in last:
                    burst.append(text.withdraw([key.neighbor], [key.prefix], last[key]))
                    wanted.pop(key, None)
            exabgp.write(burst)
            lines += len(burst)
            await eventually(lambda: len(exabgp.answers()) == lines, "every line is answered")  # noqa: B023
            with contextlib.suppress(AssertionError):
                await arrived(rack, wanted, within_s=1.5)
                right += 1
        assert set(exabgp.answers()) == {"done"}, "and ExaBGP saw nothing wrong"
        assert right < 4


async def test_errors_overtake_acknowledgements_and_cost_nothing(rack: Rack) -> None:
    async with BareExabgp(rack) as exabgp:
        await eventually(lambda: exabgp.ups() == 2, "both sessions are up")
        key, value = next(iter(to_all(rack, prefixes(1)).items()))
        routes = [text.announce([key.neighbor], [prefix], value) for prefix in prefixes(150) if prefix.version == 4]
        exabgp.write([*routes, "no such command"])
        await eventually(lambda: len(exabgp.answers()) == len(routes) + 1, "every line is answered")
        assert exabgp.answers().index("error") < len(routes), "the trap is there"
    async with speaking(rack) as speaker:
        wanted = to_all(rack, prefixes(150))
        asking = asyncio.create_task(speaker.upsert(wanted))
        while not asking.done():
            conversation = await speaker._attached()
            assert await conversation.ask("no such command") is None
        assert not await asking
        await arrived(rack, wanted)


async def test_a_refused_line_among_good_ones_is_found_and_named(rack: Rack, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = RouteKey(rack.tors[0].address, prefixes(1)[0])
    good = to_all(rack, prefixes(60, start=1))
    spoken = text.announce

    def misspoken(neighbors: Sequence[IPAddress], prefixes: Sequence[IPNetwork], value: Attributes) -> str:
        line = spoken(neighbors, prefixes, value)
        return line.replace("next-hop", "next-hopp") if bad.prefix in prefixes else line

    monkeypatch.setattr(text, "announce", misspoken)
    async with speaking(rack) as speaker:
        failures = await speaker.upsert({bad: attributes(bad.prefix)} | good)
        assert list(failures) == [bad]
        await arrived(rack, good)


async def test_a_helper_that_does_not_read_stops_exabgp_and_ours_does_not(rack: Rack) -> None:
    deaf = rack.run_dir / "deaf.py"
    deaf.write_text("import os\nwhile True:\n    os.write(1, b'version\\n' * 100)\n")
    process = BareExabgp(rack).process
    process.socket.parent.mkdir(exist_ok=True)
    sections = config.sections(speaker_config(rack)).values()
    process.configuration.write_text(config.render(sections, [sys.executable, str(deaf)]))
    process.spawn()
    try:
        stack = Path(f"/proc/{process.pid}/wchan")
        await eventually(lambda: "pipe" in stack.read_text() and "write" in stack.read_text(), "ExaBGP hangs in write")
    finally:
        await process.kill()
    async with speaking(rack) as speaker:
        await eventually(lambda: both_up(speaker), "both sessions are up")
        conversation = await speaker._attached()
        pid, wanted = speaker.pid, to_all(rack, prefixes(100))
        reading = conversation._channel._reader
        for _ in range(50):
            await speaker.upsert(wanted)
            await speaker.remove(wanted)
        assert reading is conversation._channel._reader
        assert speaker.pid == pid
        assert [status.ups for status in speaker.neighbors().values()] == [1, 1]
        await arrived(rack, {})


@pytest.mark.parametrize("word", ["65001:0 shutdown", "graceful-shutdown", "65001:1] ; shutdown"])
async def test_words_that_exabgp_takes_for_commands_do_not_get_there(rack: Rack, word: str) -> None:
    with pytest.raises(InvalidRouteError):
        attributes(prefixes(1)[0], 1, (word,))
    async with BareExabgp(rack) as exabgp:
        exabgp.write(["announce route 10.101.0.1/32 next-hop 10.99.0.1 community [graceful-shutdown ]"])
        await eventually(
            lambda: any('"notification": "shutdown"' in line for line in exabgp.lines), "the trap is there"
        )


async def test_every_line_we_write_is_the_command_it_looks_like() -> None:
    import exabgp.reactor.api  # noqa: F401  registers the commands
    from exabgp.reactor.api.command import Command

    def understood(line: str) -> str:
        words: tuple[str, ...] = tuple(Command.functions)
        return next(word for word in words if word == line or line.endswith(" " + word) or word + " " in line)

    address, other = ip_address("10.99.0.11"), ip_address("10.99.0.12")
    for prefix in prefixes(10):
        value = attributes(prefix, 4294967295, ("65535:65535", "4294967295:4294967295:4294967295"))
        assert understood(text.announce([address, other], [prefix], value)) == "announce attributes"
        assert understood(text.withdraw([address, other], [prefix], value)) == "withdraw attributes"
        assert understood(text.end_of_rib(address, prefix.version)) == "announce eor"

"""Commands: their words, and what is said when they do not answer."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from routed.audit.sources import CouldNotObserve
from routed.audit.sources.command import Command, filled


async def failure(command: Command, *words: str) -> str:
    with pytest.raises(CouldNotObserve) as caught:
        await command.run(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def shell(text: str, timeout_s: float = 30) -> Command:
    return Command(("sh", "-c", text), timeout_s)


async def test_words_arrive_as_they_are() -> None:
    say = Command((sys.executable, "-c", "import sys; print(sys.argv[1:])"), 30)
    assert await say.run("-c", "show; $HOME *") == "['-c', 'show; $HOME *']\n"


async def test_a_large_answer_arrives_whole() -> None:
    assert len(await Command((sys.executable, "-c", "print('x' * 5_000_000)"), 30).run()) == 5_000_001


async def test_what_is_not_there_is_said() -> None:
    assert "cannot be run: No such file or directory; is no-such-tool installed" in await failure(
        Command(("no-such-tool", "x"), 5)
    )


async def test_a_failure_shows_its_status_and_last_line() -> None:
    assert (await failure(shell("echo first >&2; echo 'it is broken' >&2; exit 3"))).endswith(
        "exit status 3: it is broken"
    )
    assert (await failure(shell("echo '% Unknown command'; exit 1"))).endswith("exit status 1: % Unknown command")
    assert (await failure(shell("exit 1"))).endswith("exit status 1: it said nothing")
    assert "killed by signal 9" in await failure(shell("kill -9 $$"))


async def test_nobody_can_be_asked() -> None:
    assert "no terminal" in await failure(shell("read line < /dev/tty || { echo no terminal >&2; exit 1; }"))


async def test_one_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    told = tmp_path / "child"
    os.mkfifo(told)
    look = asyncio.create_task(failure(shell(f"sleep 1000 & echo $! > {told}; wait", timeout_s=0.5)))
    child = int(await asyncio.to_thread(told.read_text))
    assert "no answer within 0.5 s" in await look
    async with asyncio.timeout(10):
        while Path(f"/proc/{child}").exists() and _state(child) != "Z":
            await asyncio.sleep(0.01)


async def test_a_cancelled_look_leaves_nothing(tmp_path: Path) -> None:
    told = tmp_path / "child"
    os.mkfifo(told)
    look = asyncio.create_task(shell(f"echo $$ > {told}; sleep 1000").run())
    child = int(await asyncio.to_thread(told.read_text))
    look.cancel()
    with pytest.raises(asyncio.CancelledError):
        await look
    assert not Path(f"/proc/{child}").exists()


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def test_ssh_gets_words_for_a_shell_and_may_not_ask() -> None:
    command = Command(("ssh", "r1a", "sudo", "vtysh"), 5)
    assert command.words("-c", "show bgp json") == (
        *("ssh", "-o", "BatchMode=yes", "-o", "ControlMaster=no", "r1a", "sudo", "vtysh", "-c", "'show bgp json'"),
    )


async def test_ssh_that_would_ask_says_what_to_do(tmp_path: Path) -> None:
    fake = tmp_path / "ssh"
    fake.write_text("#!/bin/sh\necho 'root@r1a: Permission denied (publickey,password).' >&2\nexit 255\n")
    fake.chmod(0o755)
    said = await failure(Command((str(fake), "r1a", "vtysh"), 5))
    assert "ssh failed: root@r1a: Permission denied" in said
    assert "ControlMaster=no r1a vtysh` work" in said


def test_templates_leave_other_braces_alone() -> None:
    assert filled(("ssh", "root@{server}", "{name}{}"), {"server": "s11"}) == ("ssh", "root@s11", "{name}{}")


@pytest.mark.parametrize("name", ["-oProxyCommand=reboot", "r1a; reboot", "$(reboot)", "../r1a", "", "r1a\n", "r1 a"])
def test_what_is_no_name_stands_in_no_command(name: str) -> None:
    with pytest.raises(CouldNotObserve, match="is no name"):
        filled(("ssh", "{name}", "vtysh"), {"name": name})
    assert filled(("ssh", "r1a"), {"name": name}) == ("ssh", "r1a"), "nobody asked for it"


def test_names_as_people_give_them_do() -> None:
    for name in ("r1a", "s11.example.org", "10.0.0.1", "rack-1_tor-A"):
        assert filled(("{name}",), {"name": name}) == (name,)


@pytest.mark.parametrize("where", ["stdout", "stderr"])
async def test_an_endless_answer_is_not_read_to_its_end(where: str, tmp_path: Path) -> None:
    told = tmp_path / "pid"
    flood = f"echo $$ > '{told}'; exec cat /dev/zero >&{1 if where == 'stdout' else 2}"
    said = await failure(Command(("sh", "-c", flood), 30, limit=2**20))
    assert "its answer has more than 1 MiB and was not read to its end" in said
    assert not Path(f"/proc/{told.read_text()}").exists()


async def test_an_answer_up_to_the_limit_is_read() -> None:
    assert len(await Command((sys.executable, "-c", "print('x' * 99, end='')"), 30, limit=99).run()) == 99

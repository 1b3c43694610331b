"""The relay as a real process, between two pipes that stand for ExaBGP and a socket that stands for the speaker."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, BinaryIO

import pytest

from bgp import relay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Exabgp:
    """The relay's parent, as far as the relay can tell."""

    def __init__(self, path: Path) -> None:
        self._child = subprocess.Popen(
            [sys.executable, relay.__file__, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._stdin = self._child.stdin
        self.commands = os.fdopen(os.dup(self._child.stdout.fileno()), "rb")

    def say(self, data: bytes) -> None:
        os.write(self._stdin.fileno(), data)

    def alive(self) -> bool:
        return self._child.poll() is None

    def end(self) -> int:
        self._stdin.close()
        status = self._child.wait(10)
        self.commands.close()
        assert self._child.stdout is not None
        self._child.stdout.close()
        return status


class Speaker:
    """One connection of the relay."""

    def __init__(self, server: socket.socket) -> None:
        self._socket, _ = server.accept()
        self.lines: BinaryIO = self._socket.makefile("rb")
        self.hello = json.loads(self.lines.readline())

    def say(self, data: bytes) -> None:
        self._socket.sendall(data)

    def leave(self) -> None:
        self.lines.close()
        self._socket.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        server.settimeout(10)
        yield server


@pytest.fixture
def exabgp(tmp_path: Path) -> Iterator[Exabgp]:
    exabgp = Exabgp(tmp_path / "s")
    yield exabgp
    if exabgp.alive():
        assert exabgp.end() == 0


def test_it_introduces_its_exabgp_and_carries_both_ways(server: socket.socket, exabgp: Exabgp) -> None:
    speaker = Speaker(server)
    assert speaker.hello == {"type": "relay", "exabgp": os.getpid(), "owed": 0}
    speaker.say(b"version\n")
    assert exabgp.commands.readline() == b"version\n"
    exabgp.say(b"exabgp 5\ndone\n")
    assert speaker.lines.readline() == b"exabgp 5\n"
    assert speaker.lines.readline() == b"done\n"
    speaker.leave()


def test_it_reads_what_nobody_wants(exabgp: Exabgp) -> None:
    for _ in range(40):
        exabgp.say(b'{ "type": "state" }\n' * 5000)  # far more than a pipe holds: this returns only because it is read
    assert exabgp.alive()


def test_half_a_command_of_a_dead_speaker_goes_nowhere(server: socket.socket, exabgp: Exabgp) -> None:
    first = Speaker(server)
    first.say(b"announce one\nannounce tw")
    assert exabgp.commands.readline() == b"announce one\n"
    first.leave()
    second = Speaker(server)
    second.say(b"announce three\n")
    assert exabgp.commands.readline() == b"announce three\n"
    second.leave()


def test_half_an_event_is_kept_until_it_is_whole(server: socket.socket, exabgp: Exabgp) -> None:
    exabgp.say(b'{ "type": ')
    speaker = Speaker(server)
    exabgp.say(b'"state" }\nwhole\n')
    seen = [speaker.lines.readline(), speaker.lines.readline()]
    assert seen == [b'{ "type": "state" }\n', b"whole\n"]
    speaker.leave()


def test_a_new_speaker_hears_how_many_answers_are_not_meant_for_it(server: socket.socket, exabgp: Exabgp) -> None:
    first = Speaker(server)
    first.say(b"one\ntwo\nthree\n")
    for _ in range(3):
        exabgp.commands.readline()
    exabgp.say(b"done\nerror\n")
    first.lines.readline()
    first.lines.readline()
    first.leave()
    second = Speaker(server)
    assert second.hello["owed"] == 1
    exabgp.say(b"done\n")
    assert second.lines.readline() == b"done\n"
    second.leave()
    third = Speaker(server)
    assert third.hello["owed"] == 0
    third.leave()


def test_it_ends_with_its_exabgp_and_not_before(server: socket.socket, exabgp: Exabgp) -> None:
    Speaker(server).leave()
    Speaker(server).leave()
    assert exabgp.alive()
    assert exabgp.end() == 0

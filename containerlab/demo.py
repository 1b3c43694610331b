"""`make demo`: the main job on a fabric of two racks, told as it goes; exit status 0 only if every claim held.

Takes everything down at the end, whatever happens, and says when something is left; with KEEP=1 it leaves the lab up
instead. What a run that was killed left behind is removed by the next one.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from containerlab import pods
from containerlab.agents import LOG, ROUTED, SPEAKER_PIDFILE
from containerlab.driver import CniError
from containerlab.errors import LabError
from containerlab.lab import Lab
from containerlab.runtime import RuntimeFailedError
from containerlab.scenes import Scenes
from containerlab.story import Story
from containerlab.traces import Traces

NAME = "demo"
LOGS = Path(__file__).parents[1] / "build" / "demo-logs"
NODE_LOGS = (LOG, SPEAKER_PIDFILE.with_name("exabgp.log"), Path("/var/log/frr/frr.log"))
FAILURES = (LabError, RuntimeFailedError, CniError, subprocess.SubprocessError, OSError)
"""What can go wrong on the way; anything else is a mistake in the demo itself, and a traceback."""


def main(
    keep: Annotated[bool, typer.Option(envvar="KEEP", help="Leave everything up at the end.")] = False,
    down: Annotated[bool, typer.Option(help="Only take down what an earlier run left up.")] = False,
) -> None:
    """Run the main job on a fabric in network namespaces, as root."""
    if os.geteuid() != 0:
        sys.exit("error: namespaces need root: run it with sudo")
    with _alone():
        if down:
            _take_down()
        else:
            story = Story("routed: from a pod to its host route, on a fabric of two racks")
            scenes = Scenes(story, NAME)
            _tell(scenes, keep=keep)
            story.summary()
            if keep:
                _look_around(scenes)
            raise typer.Exit(0 if story.held else 1)


def _tell(scenes: Scenes, *, keep: bool) -> None:
    """Tell the story; whatever happens, nothing is left but the logs of a failure, or everything when that is asked."""
    story, ended = scenes.story, False
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        if NAME in Lab.names():
            story.note("taking down what an earlier run left")
        _take_down()
        _play(scenes, keep=keep)
        ended = True
    except KeyboardInterrupt:
        story.claim("The demo ran to its end", False, "interrupted")
    except FAILURES as error:
        story.claim("The demo ran to its end", False, str(error))
    finally:  # in silence: whoever listens may be gone
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C would leave half of it
        failed = not (ended and story.held)
        if failed:
            _save_logs()
        traces = Traces(Lab.named(NAME))
        if not keep:
            _take_down()
    if failed:
        story.remark(f"the logs of all nodes are in {LOGS}")
    if not keep:
        story.chapter("Everything is taken down")
        left = traces.left()
        story.claim(
            "Nothing is left on this machine: no process, namespace, mount, control group or file",
            not left,
            f"{traces.namespaces} namespaces gone" if not left else "\n".join([f"{len(left)} things", *left]),
        )


def _play(scenes: Scenes, *, keep: bool) -> None:
    scenes.fabric()
    scenes.start_agents()
    scenes.start_pods()
    scenes.ping_everybody()
    scenes.look_at_routes()
    scenes.kill_agent()
    scenes.kill_speaker()
    scenes.delete_pods()
    if keep:
        scenes.leave_pods()


def _take_down() -> None:
    """Take down the lab and its runtimes; also what a crash left, also when nothing is there."""
    Lab.named(NAME).down()
    pods.clean_up(NAME)


def _save_logs() -> None:
    """Copy the logs of all nodes that can still be read, for after they are gone."""
    shutil.rmtree(LOGS, ignore_errors=True)
    with suppress(LabError, OSError):
        for node in Lab.find(NAME).nodes.values():
            folder = LOGS / node.name
            folder.mkdir(parents=True)
            runtime = pods.scratch(NAME) / node.name / pods.RUNTIME / "containerd.log"
            for log in (node.folder / "log", runtime, *(node.path(path) for path in NODE_LOGS)):
                if log.exists():
                    shutil.copy(log, folder)


def _look_around(scenes: Scenes) -> None:
    """Say how to look around in what was kept."""
    python = os.path.relpath(sys.executable)
    enter = f"{python} -m containerlab exec --name {NAME}"
    commands = [
        (f"{python} -m containerlab status --name {NAME}", "bonds, BGP sessions, routes"),
        (f"{enter} s11 {ROUTED} show routes", "also: attachments, flows, neighbors, leases"),
        (f"{enter} s11 ovs-ofctl -O OpenFlow14 dump-flows br0", "a server's flows"),
        (f"{enter} s11 tail -f {LOG}", "what its agent says"),
        (f"{enter} r1a vtysh", "a ToR; try: show ip route bgp"),
    ]
    if scenes.pods:
        first, last = scenes.pods[0], scenes.pods[-1]
        ping = f"nsenter --net={first.place.netns} ping {last.addresses[0]}"
        commands.append((ping, f"from {first.name} on {first.server} to {last.name} on {last.server}"))
    commands.append((f"{python} -m containerlab.demo --down", "take it all down"))
    scenes.story.chapter("Everything is still up; look around:")
    scenes.story.listing(commands)


@contextmanager
def _alone() -> Iterator[None]:
    """Refuse to run beside another demo, which this one would take down."""
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind(f"\0routed-lab-{NAME}")  # an abstract name: it ends with the process, and is no file
        except OSError:
            sys.exit("error: a demo is running; wait for its end")
        yield


if __name__ == "__main__":
    typer.run(main)

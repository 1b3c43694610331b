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
from containerlab.agents import LOG, SPEAKER_PIDFILE
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
            _tell(story, keep=keep)
            story.summary()
            raise typer.Exit(0 if story.held else 1)


def _tell(story: Story, *, keep: bool) -> None:
    """Tell the story; whatever happens, nothing is left but the logs of a failure, or everything if asked to keep it."""
    scenes = Scenes(story, NAME)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        if NAME in Lab.names():
            story.note("taking down what an earlier run left")
        _take_down()
        _play(scenes, keep=keep)
    except KeyboardInterrupt:
        story.claim("The demo ran to its end", False, "interrupted")
    except FAILURES as error:
        story.claim("The demo ran to its end", False, str(error))
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C would leave half of it
        if not story.held:
            _save_logs(story)
        if keep:
            _look_around(story)
        else:
            _end(story)


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


def _end(story: Story) -> None:
    """Take everything down before a word is said: whoever listens may be gone."""
    traces = Traces(Lab.named(NAME))
    _take_down()
    left = traces.left()
    story.chapter("Taking everything down")
    story.claim(
        "Nothing is left on this machine: no process, namespace, mount, control group or file",
        not left,
        f"{traces.namespaces} namespaces gone" if not left else "\n".join(left),
    )


def _take_down() -> None:
    """Take down the lab and its runtimes; also what a crash left, also when nothing is there."""
    Lab.named(NAME).down()
    pods.clean_up(NAME)


def _save_logs(story: Story) -> None:
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
    story.remark(f"the logs of all nodes are in {LOGS}")


def _look_around(story: Story) -> None:
    enter = f"python -m containerlab exec --name {NAME}"
    story.listing(
        [
            (f"python -m containerlab status --name {NAME}", "bonds, BGP sessions, routes"),
            (f"{enter} s11 routed show attachments", "also: routes, flows, neighbors, leases"),
            (f"{enter} r1a vtysh -c 'show ip route 10.101.0.0/24 longer-prefixes'", "what a ToR has of the pods"),
            (f"{enter} s11 ovs-ofctl -O OpenFlow14 dump-flows br0", "the flows of a server"),
            (f"{enter} s11 ping -c 3 10.102.0.1", "from a server"),
            (f"{enter} s11 tail -f {LOG}", "what its agent says"),
            ("python -m containerlab.demo --down", "take it all down"),
        ]
    )


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

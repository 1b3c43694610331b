"""Who realises a topology file: network namespaces (`Lab`), or containerlab itself (`ContainerLab`). One protocol."""

from __future__ import annotations

import enum
import json

from containerlab.containers import ContainerLab
from containerlab.lab import STATE, Lab, Report, silent


class Runner(enum.StrEnum):
    """The runners, by name."""

    netns = "netns"
    containerlab = "containerlab"

    @property
    def lab(self) -> type[Lab]:
        """What its labs are."""
        return {Runner.netns: Lab, Runner.containerlab: ContainerLab}[self]


def find(name: str, report: Report = silent) -> Lab:
    """Return the lab of that name, whoever brought it up. LabError when there is none."""
    return _runner_of(name).lab.find(name, report)


def named(name: str) -> Lab:
    """Return the lab of that name to take down, whether it is there or not."""
    return _runner_of(name).lab.named(name)


def _runner_of(name: str) -> Runner:
    for path in (STATE / name / "lab.json", *STATE.glob(f"{name}~*/lab.json")):
        if path.exists():
            return Runner(json.loads(path.read_text()).get("runner", Runner.netns))
    return Runner.netns

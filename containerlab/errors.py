"""What can go wrong with a lab.

LabError
├── TopologyError   the topology file: what is wrong, and where in it
├── NodeError       a node did not start, or stopped
├── NotReadyError   the lab did not become ready in time
└── CommandError    a command inside a node failed
"""

from __future__ import annotations


class LabError(Exception):
    """Any failure of the lab; its text says what to do next where that is known."""


class TopologyError(LabError):
    """The topology file cannot be realised as it is."""


class NodeError(LabError):
    """A node did not start, or stopped on its own."""


class NotReadyError(LabError):
    """Some node's health check kept failing."""


class CommandError(LabError):
    """A command inside a node exited with a failure."""

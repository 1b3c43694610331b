"""Ways to look at the planes of an audit, one file each; all of them only read.

A source answers with everything that it was asked for, or raises CouldNotObserve. It never takes silence, an error or
output that it does not understand for "there are no routes".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from routed.audit.model import Holding, RackPlan, ServerView, SwitchView


class CouldNotObserve(Exception):  # noqa: N818 - says what happened; a suffix would say it less well
    """One line for people: what was tried, how it failed, and what to do where that is known."""


class SwitchSource(Protocol):
    """A way to look at one switch."""

    @property
    def name(self) -> str:
        """The switch's name."""

    async def observe(self) -> SwitchView:
        """Return all of its unicast BGP paths; CouldNotObserve."""


class ServerSource(Protocol):
    """A way to ask one server's agent."""

    @property
    def name(self) -> str:
        """The server's name."""

    async def observe(self) -> ServerView:
        """Return what the agent exports; CouldNotObserve."""


class PlanSource(Protocol):
    """Where racks are described."""

    async def plans(self) -> Sequence[RackPlan]:
        """Return every rack; CouldNotObserve."""


class HoldingSource(Protocol):
    """Who should have which address, from somebody else than the agents."""

    async def holdings(self) -> Mapping[str, Sequence[Holding]]:
        """Return them by rack, as far as racks are named; CouldNotObserve."""

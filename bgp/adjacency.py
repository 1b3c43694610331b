"""One neighbour's routes: what it should be told, what ExaBGP holds for it, what was written to it. Pure.

ExaBGP's ``done`` says that it took a command, not that anything was sent, and what it has not sent yet it sends in an
order of its own: pending routes lie in one bucket per attribute set, and the buckets are emptied in the order in which
they were first used. Two commands for one prefix that are pending together may so reach the neighbour the wrong way
round, and ExaBGP, which looks only at the last command, would suppress the repair as known already. Hence:

1. While a session carries a prefix's family, a command for the prefix is finished when it was acknowledged AND its
   UPDATE was seen on its way out (`sent`). There is never a second one before.
2. While it does not, nothing will be seen, and what is given waits for the session. So attributes are then changed by
   a withdraw of the old ones (same bucket: it replaces the announce) and an announce of the new ones: at most one
   announce per prefix is pending, and ExaBGP leaves out withdraws that were pending when a session came up.
3. The loop is closed over what was really written. Whatever slips between the two rules in the moment in which a
   session comes up is seen: another set than the wanted one on the wire is announced once more (which ExaBGP does not
   suppress, as it believes otherwise) before the wanted one; a route that should be on the wire and was withdrawn is
   withdrawn in ExaBGP, too, and announced afresh; one that nobody wants is withdrawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bgp.model import Attributes, IPNetwork


PATIENCE = 9
"""Ticks, a ninth of the hold time each."""


@dataclass(slots=True)
class Command:
    """One announce or withdraw on its way."""

    prefix: IPNetwork
    attributes: Attributes
    announces: bool
    taken: bool = False
    """Acknowledged."""
    seen: bool = False
    """Its effect was written to the neighbour after it was given."""
    age: int = 0
    """Ticks since it was acknowledged."""


class Adjacency:
    """The routes towards one neighbour. Knows no clock: `tick` is its time."""

    def __init__(self) -> None:
        self.held: dict[IPNetwork, Attributes] = {}
        """ExaBGP's adj-rib-out, as far as commands were acknowledged."""
        self.wire: dict[IPNetwork, Attributes] = {}
        """What was written in this session."""
        self.versions: frozenset[int] = frozenset()
        """IP versions that the session carries; empty while it is down."""
        self.wanted: dict[IPNetwork, Attributes | None] = {}
        """None: must not be there. A prefix that is not a key is nobody's business."""
        self._commands: dict[IPNetwork, Command] = {}
        self._lost: set[IPNetwork] = set()
        self._refused: set[IPNetwork] = set()
        self._look: dict[IPNetwork, None] = {}
        self._ticks_up = 0

    def want(self, prefix: IPNetwork, attributes: Attributes | None) -> None:
        """Set what the neighbour should be told of a prefix; None for nothing."""
        self.wanted[prefix] = attributes
        self._look[prefix] = None
        self._refused.discard(prefix)

    def want_nothing(self) -> None:
        """Want every route gone that is wanted, held or written."""
        for prefix in {*self.held, *self.wire, *self.wanted}:
            self.want(prefix, None)

    def settled(self, prefix: IPNetwork) -> bool:
        """Tell whether ExaBGP has taken what is wanted of a prefix."""
        return prefix not in self.wanted or self.held.get(prefix) == self.wanted[prefix]

    def complete(self) -> bool:
        """Tell whether everything wanted that this session carries was written, and nothing is on its way."""
        return not self._look and not self._commands and not self.unsent()

    def unsent(self) -> list[IPNetwork]:
        """Return the prefixes of which the neighbour, over an established session, was not told what is wanted."""
        return [
            prefix
            for prefix, wanted in self.wanted.items()
            if prefix.version in self.versions and self.wire.get(prefix) != wanted
        ]

    def next(self) -> Command | None:
        """Return the next command to give, None when there is none now."""
        while self._look:
            prefix = next(iter(self._look))
            del self._look[prefix]
            command = None if prefix in self._commands else self._due(prefix)
            if command is not None:
                self._commands[prefix] = command
                return command
        return None

    def _due(self, prefix: IPNetwork) -> Command | None:
        held, wire = self.held.get(prefix), self.wire.get(prefix)
        wanted = self.wanted.get(prefix)
        if wanted is None:
            there = held or wire
            if there is None:
                self.wanted.pop(prefix, None)
            elif prefix in self.wanted or held is None:
                return Command(prefix, there, announces=False)
            return None
        if held == wanted:
            if prefix in self._lost:
                return Command(prefix, held, announces=False)
            return Command(prefix, wire, announces=True) if wire is not None and wire != wanted else None
        if held is not None and prefix.version not in self.versions:
            return Command(prefix, held, announces=False)
        return Command(prefix, wanted, announces=True)

    def taken(self, command: Command) -> None:
        """Note that ExaBGP acknowledged a command."""
        command.taken = True
        if self._commands.get(command.prefix) is not command:
            return
        if command.announces:
            self.held[command.prefix] = command.attributes
        else:
            self.held.pop(command.prefix, None)
            self._lost.discard(command.prefix)
        self._finish(command)

    def _finish(self, command: Command) -> None:
        """Forget a command that has done all it will do."""
        carried = command.prefix.version in self.versions
        pending = not command.seen if command.announces else command.prefix in self.wire
        if command.taken and not (carried and pending):
            del self._commands[command.prefix]
            self._look[command.prefix] = None

    def sent(self, announced: Mapping[IPNetwork, Attributes], withdrawn: frozenset[IPNetwork]) -> None:
        """Note what an UPDATE told the neighbour."""
        for prefix in withdrawn:
            self.wire.pop(prefix, None)
            command = self._commands.get(prefix)
            if self.wanted.get(prefix) is not None and (command is None or command.seen):
                self._lost.add(prefix)
            self._told(prefix, command)
        for prefix, attributes in announced.items():
            self.wire[prefix] = attributes
            self._lost.discard(prefix)
            command = self._commands.get(prefix)
            if command is not None and command.announces and command.attributes == attributes:
                command.seen = True
            self._told(prefix, command)

    def _told(self, prefix: IPNetwork, command: Command | None) -> None:
        if command is not None:
            self._finish(command)
        elif self.held.get(prefix) != self.wire.get(prefix) or prefix in self.wanted:
            self._look[prefix] = None

    def up(self, versions: frozenset[int]) -> None:
        """Note that a new session is established: nothing of it was written yet, all that is held follows by itself."""
        self.wire.clear()
        self._lost.clear()
        self._ticks_up = 0
        self.versions = versions

    def down(self) -> None:
        """Note that the session ended: what waited for its UPDATE will not see it."""
        self.up(frozenset())
        for command in list(self._commands.values()):
            self._finish(command)

    def reread(self, held: Mapping[IPNetwork, Attributes], *, foreign: bool) -> None:
        """Take what ExaBGP really holds, with no command on its way.

        ``foreign``: it was given by another speaker, and what was written is not known but for that. It is wanted then
        unless something else is: who observes it and finds it right will not ask for it again, and the next ExaBGP is
        to be told of it before its End-of-RIB.
        """
        self.held = dict(held)
        if foreign:
            self.wire = {prefix: attributes for prefix, attributes in held.items() if prefix.version in self.versions}
            self.wanted = {**held, **self.wanted}
        self._commands.clear()
        self._lost.clear()
        self._look.update(dict.fromkeys(self.wanted))

    def refused(self, prefix: IPNetwork) -> None:
        """Note that ExaBGP answered ``error``: the prefix is not wanted any more."""
        self._commands.pop(prefix, None)
        self.wanted.pop(prefix, None)
        self._refused.add(prefix)

    def is_refused(self, prefix: IPNetwork) -> bool:
        """Tell whether ExaBGP refused what was wanted last."""
        return prefix in self._refused

    def tick(self) -> None:
        """Note that a ninth of the hold time went by.

        What ExaBGP holds and, in a session that lived on, did not write for a whole hold time, it never will: it
        believes that the neighbour knows. Start over with the prefix, by a withdraw, which is always sent.
        """
        self._ticks_up += 1
        for command in list(self._commands.values()):
            command.age += command.taken
            if command.age > PATIENCE:
                del self._commands[command.prefix]
        for prefix in self.unsent() if self._ticks_up > PATIENCE else ():
            if prefix not in self._commands:
                if prefix in self.held and self.held[prefix] == self.wanted[prefix]:
                    self._lost.add(prefix)
                self._look[prefix] = None

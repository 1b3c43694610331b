"""Switches that NAPALM knows: EOS, NX-OS, Junos. It carries the questions, the answers are read here.

NAPALM's own getters are not enough: `get_route_to` takes one prefix, or few, and shows neither large communities nor
what is stale; `get_bgp_config` has no routes. So its `cli` asks for whole tables. NAPALM runs in a process of its own,
`napalm_asker`: its drivers wait without end in threads that nobody could stop.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from routed.audit.model import Shell, SwitchView
from routed.audit.sources import CouldNotObserve, eos, junos, nxos
from routed.audit.sources.command import Command

_ASKER = "routed.audit.sources.napalm_asker"
_DIALECTS = {"eos": eos, "nxos": nxos, "nxos_ssh": nxos, "junos": junos}
"""By NAPALM's name of the driver."""


@dataclass(frozen=True, slots=True)
class Login:
    """How NAPALM gets to a switch. Secrets are not in it: it stands in a process's arguments."""

    driver: str
    host: str
    user: str
    password_file: Path | None
    """One line; without it and without a variable, ssh's agent and keys serve."""
    password_variable: str | None
    """Name of an environment variable."""
    options: Mapping[str, str | int | bool]
    """The driver's optional arguments."""


@dataclass(frozen=True, slots=True)
class Napalm:
    """One switch, asked through NAPALM."""

    name: str
    login: Login
    timeout_s: float

    async def observe(self) -> SwitchView:
        """Return its paths; CouldNotObserve."""
        login, dialect = self.login, _DIALECTS[self.login.driver]
        asked = {
            "driver": login.driver,
            "host": login.host,
            "user": login.user,
            "password_file": None if login.password_file is None else str(login.password_file),
            "password_variable": login.password_variable,
            "options": dict(login.options),
            "timeout_s": self.timeout_s,
            "questions": dialect.QUESTIONS,
            "encoding": dialect.ENCODING,
        }
        command = Command((sys.executable, "-m", _ASKER, json.dumps(asked)), self.timeout_s, called=self._where)
        return self._view(await command.run())

    def _view(self, answers: str) -> SwitchView:
        try:
            said: list[Any] = json.loads(answers)
            routes = tuple(_DIALECTS[self.login.driver].parse(said, time.time()))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise CouldNotObserve(f"{self._where}: this is not what it says of its routes: {what}") from error
        return SwitchView(self.name, routes, Shell.OTHER)

    @property
    def _where(self) -> str:
        return f"{self.login.driver} on {self.login.host}, by NAPALM"

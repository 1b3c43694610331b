"""Asks one switch by NAPALM and prints its answers as JSON: a program of its own, which `napalm` runs.

``python -m routed.audit.sources.napalm_asker JSON``. It reads the password from a file or from the environment. What
fails ends it, and the last line that it says then is the reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

try:
    import napalm
except ModuleNotFoundError as error:
    if error.name != "napalm":
        raise
    sys.exit("NAPALM is not installed here: pip install napalm")

_MEMORY = 4 * 2**30
"""Bytes of address space: a switch's answer is kept whole, more than once."""
_STRICT = {"ssh_strict": True, "system_host_keys": True}
"""For drivers that use netmiko, which by itself tells any host the password; others ignore it."""
_BY_KEY = {"use_keys": True, "allow_agent": True}
"""For drivers that use netmiko, which by itself tries passwords alone; others ignore it."""


def ask(said: dict[str, Any]) -> list[Any]:
    """Return the answer to each question: an object for the encoding json, else text."""
    driver, password = napalm.get_network_driver(said["driver"]), _password(said)
    options = _STRICT | ({} if password else _BY_KEY) | said["options"]
    device = driver(said["host"], said["user"], password, timeout=max(1, int(said["timeout_s"])), optional_args=options)
    with device:
        # one by one: drivers put all answers into the message when one is refused
        return [device.cli([question], encoding=said["encoding"])[question] for question in said["questions"]]


def _password(said: dict[str, Any]) -> str:
    if said["password_file"] is not None:
        return Path(said["password_file"]).read_text(encoding="utf-8").strip()
    variable = said["password_variable"]
    if variable is None:
        return ""
    if variable not in os.environ:
        sys.exit(f"the environment has no {variable}")
    return os.environ[variable]


def _say(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
    """Say in one line what ended the process: drivers' exceptions have nothing in common, and some have many lines.

    With what came before it: drivers say "Cannot connect" and keep to themselves that the host is not a known one.
    """
    before = error.__cause__ or error.__context__
    said = f"{error}: {before}" if before else str(error)
    sys.stderr.write(f"{kind.__name__}: {' '.join(said.split())}\n")


if __name__ == "__main__":
    sys.excepthook = _say
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    with contextlib.redirect_stdout(sys.stderr):  # drivers may print
        found = ask(json.loads(sys.argv[1]))
    json.dump(found, sys.stdout)

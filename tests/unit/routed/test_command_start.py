"""What a command imports before it does anything: what it needs, and nothing of the other commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from routed.cli.later import Later
from routed.cli.main import COMMANDS, app

EXAMPLE = Path(__file__).parents[3] / "rack.example.yaml"
RUN = """
import atexit, json, sys
from routed.cli.main import main
atexit.register(lambda: print("\\n" + json.dumps(list(sys.modules))))
main()
"""
ASKING = {"aiohttp", "asyncio", "jinja2", "pyroute2", "structlog", "routed.agent", "routed.audit", "routed.doctor"}
"""What takes long to import, and nothing needs that only asks the agent."""
SAYING = {*ASKING, "http.client", "yaml", "routed.settings"}
"""What nothing needs that does not even read the rack file; not pydantic, which typer itself imports."""


def imported(*arguments: str) -> set[str]:
    """Return the modules that a process of its own has imported when the command has ended."""
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=False)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("line", ["version", "--help", "no-such-command"])
def test_what_says_something_imports_no_command_s_parts(line: str) -> None:
    assert imported(line) & SAYING == set()


@pytest.mark.parametrize(
    "line",
    ["show leases", "mirror list", "mirror stop --all", "drain", "undrain"],
    ids=lambda line: line.replace(" ", "-"),
)
def test_what_asks_the_agent_imports_nothing_of_what_the_agent_is_made_of(line: str) -> None:
    assert imported(*line.split(), "--config", str(EXAMPLE)) & ASKING == set()


def test_control_what_the_agent_is_made_of_shows_among_what_is_imported() -> None:
    others = imported("agent", "--help") | imported("doctor", "--help") | imported("tor-config", "--help")
    assert others & SAYING == SAYING


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_overview_says_of_a_command_what_it_says_of_itself(command: Later) -> None:
    own = command.make_context(command.name, [], resilient_parsing=True).command
    assert own.help.split("\n\n")[0].replace("\n", " ") == command.help
    assert "--install-completion" not in {name for parameter in own.params for name in parameter.opts}


def test_a_group_of_one_command_is_a_group() -> None:
    assert "nic setup [OPTIONS]" in CliRunner(env={"NO_COLOR": "1"}).invoke(app, ["nic", "setup", "--help"]).stdout


def test_a_mistyped_command_is_told_which_one_may_be_meant() -> None:
    done = CliRunner(env={"NO_COLOR": "1"}).invoke(app, ["doctr"])
    assert (done.exit_code, "Did you mean 'doctor'?" in done.stderr) == (2, True)

"""What docs/audit.md shows is what the code takes: audit files, sources, options, commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from routed.audit.settings import AuditSettings
from routed.cli.main import app

PAGE = Path(__file__).parents[3] / "docs" / "audit.md"
TEXT = PAGE.read_text(encoding="utf-8")
FILES = re.findall(r"^```yaml\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", FILES, ids=["first", "whole", "cluster"])
def test_audit_files_are_taken(text: str) -> None:
    AuditSettings.model_validate(yaml.safe_load(text))


def test_whole_file_shows_every_key_and_its_default() -> None:
    whole = yaml.safe_load(FILES[1])
    shown = set(whole) | {"kubernetes"} & set(re.findall(r"\w+", FILES[1]))
    assert shown == set(AuditSettings.model_fields)
    defaults = AuditSettings(racks=("r.yaml",))
    for key in ("holdings", "partial", "timeout_s", "parallel", "confirm_after_s"):
        assert whole[key] == getattr(defaults, key)
    assert whole["pools"] == defaults.pools.model_dump()


def test_every_command_and_option_is_there() -> None:
    help_text = (
        CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).invoke(app, ["audit", "--help"]).stdout
    )
    for option in set(re.findall(r"--[a-z-]+", help_text)) - {"--help", "--interval"}:
        assert f"`{option}" in TEXT or f"{option} " in TEXT
    commands = set(re.findall(r"^\| `routed audit (\w+)", TEXT, flags=re.MULTILINE))
    assert commands == {"explain", "racks", "watch", "export"}
    assert all(re.search(rf"^│ {command} ", help_text, flags=re.MULTILINE) for command in commands)


def test_picture_and_schema_are_beside_it() -> None:
    for name in re.findall(r"\]\(([\w.-]+)\)", TEXT):
        assert (PAGE.parent / name).exists()
    assert (PAGE.parent / "audit.png").stat().st_size < 200_000

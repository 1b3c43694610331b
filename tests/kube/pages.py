"""What pages of docs/ say to type, word by word."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
OPERATIONS, INSTALL = DOCS / "operations.md", DOCS / "install.md"
HERE = "$"
"""The prompt beside kubectl."""


def commands(page: Path, heading: str) -> list[tuple[str, str]]:
    """Return each line in a section's console boxes after its prompt, which is HERE where the page shows none.

    Another prompt is the name of a machine: `TOR#`.
    """
    lines = "\n".join(_boxes(page, heading, "console"))
    found = re.findall(r"^(?:(\$|[A-Z]+(?=#))#? )?(.+)$", lines, re.MULTILINE)
    assert found, f"{page.name}: {heading}: nothing to type"
    return [(prompt or HERE, line) for prompt, line in found]


def headings(page: Path) -> set[str]:
    """Return the sections that say to type something."""
    return {heading for heading in _sections(page) if _boxes(page, heading, "console")}


def script(page: Path, heading: str) -> str:
    """Return the shell script in a section."""
    (box,) = _boxes(page, heading, "sh")
    return box


def _sections(page: Path) -> dict[str, str]:
    return dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", page.read_text(), re.MULTILINE | re.DOTALL))


def _boxes(page: Path, heading: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", _sections(page)[heading], re.MULTILINE | re.DOTALL)

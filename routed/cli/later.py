"""Commands that are imported when they are called: what one command needs costs the others nothing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from typer.core import TyperCommand
from typer.main import get_command


class Later(TyperCommand):
    """Stands for the command that a module's `app` makes; of its own it has the name and a line for the overview."""

    def __init__(self, name: str, module: str, summary: str) -> None:
        super().__init__(name, help=summary)
        self.module = module

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Import the command; the arguments, and all that comes after them, are its own."""
        return get_command(import_module(self.module).app).make_context(info_name, args, parent, **extra)

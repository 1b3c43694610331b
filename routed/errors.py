"""The root of the errors that end a command with one line instead of a traceback. Imports nothing."""

from __future__ import annotations


class MendableError(Exception):
    """Whoever gave the command can mend it; the message says what to look at."""

"""Files that are written as a whole: whoever looks sees the old one or the new one, never a part. Knows no contents."""

from __future__ import annotations

import os
from pathlib import Path


def put(target: Path, content: bytes, mode: int) -> None:
    """Write a file of this content as `replace` does, and its folder before it when there is none; OSError."""
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    replace(target, content, mode)


def replace(target: Path, content: bytes, mode: int) -> None:
    """Write a file of this content, durable and complete before it has its name; OSError."""
    draft = target.with_name(f".{target.name}.new")
    draft.unlink(missing_ok=True)  # a program that somebody runs cannot be written to
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), mode)  # whatever the umask is
        os.fsync(file.fileno())
    draft.replace(target)
    _sync(target.parent)


def remove(target: Path) -> None:
    """Let there be no such file, durably; OSError."""
    target.unlink(missing_ok=True)
    _sync(target.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

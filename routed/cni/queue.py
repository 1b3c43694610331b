"""Deletions that the shim accepted while the agent did not answer: the agent's side of that folder.

One file per attachment, ``<container id>:<ifname>``, holding the request as the shim would have sent it. Only the shim
writes, by renaming into place; only this module removes, once the deletion is done. A file that cannot be understood
moves to ``.corrupt`` and is reported: it is neither lost nor in the way. Names that begin with a dot are no requests.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import structlog

from routed.cni.errors import CniError, DecodeError
from routed.cni.protocol import SIZE_LIMIT, AttachmentRequest, Command, parse
from routed.domain.workload import AttachmentId

log = structlog.get_logger(__name__)


class DeletionQueue:
    """The folder; made with its parents, for root alone, where it does not exist."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def pending(self) -> list[AttachmentRequest]:
        """Return every deletion that waits, in no order: each is about another attachment."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = [path.name for path in self._directory.iterdir() if not path.name.startswith(".")]
        found = [self._read(name) for name in names]
        return [request for request in found if request is not None]

    def holds(self, attachment: AttachmentId) -> bool:
        """Tell whether a deletion of this attachment waits."""
        return self._file(attachment).exists()

    def discard(self, attachment: AttachmentId) -> None:
        """Remove what waits for this attachment, durably; nothing waiting is no failure."""
        if not self.holds(attachment):
            return
        self._file(attachment).unlink(missing_ok=True)
        self._sync()

    def _file(self, attachment: AttachmentId) -> Path:
        return self._directory / f"{attachment.container_id}:{attachment.ifname}"

    def _read(self, name: str) -> AttachmentRequest | None:
        """Return the request in a file; None when it is gone again, was moved aside, or can be neither just now."""
        path = self._directory / name
        try:
            return self._understood(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.error("cni.queue.unreadable", file=str(path), reason=error.strerror)  # noqa: TRY400 - the reason says it
        return None

    def _understood(self, path: Path) -> AttachmentRequest | None:
        """Return the request in a file; None when there is none in it, and it was moved aside."""
        try:
            request = parse(_contents(path))
            if not isinstance(request, AttachmentRequest) or request.command is not Command.DEL:
                raise DecodeError(f"{request.command} is no deletion")
            if self._file(request.attachment) != path:
                raise DecodeError(f"it deletes {request.attachment}")
        except CniError as error:
            log.error("cni.queue.corrupt", file=self._move_aside(path), reason=str(error))  # noqa: TRY400 - see above
            return None
        return request

    def _move_aside(self, path: Path) -> str:
        """Keep a file for a human to look at; return where it went."""
        aside = self._directory / ".corrupt"
        aside.mkdir(mode=0o700, exist_ok=True)
        kept = path.rename(aside / f"{path.name[:200]}.{time.time_ns()}")
        self._sync()
        return str(kept)

    def _sync(self) -> None:
        folder = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _contents(path: Path) -> bytes:
    """Return what a file holds, up to one byte more than a request may have."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise DecodeError("it is no plain file")
    with path.open("rb") as file:
        return file.read(SIZE_LIMIT + 1)

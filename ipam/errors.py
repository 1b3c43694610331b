"""Everything that can go wrong here.

::

    IpamError
    ├── PoolError (also ValueError)   the rack file's pools or shares make no sense; nothing was opened
    └── LedgerError
        ├── Refused                   one request was turned down, those beside it were not
        │   ├── PoolExhausted         no address of a family is free now
        │   ├── AddressRefused        the fixed address that was asked for cannot be had
        │   ├── SlotRefused           none of the slots that were asked for can be had
        │   └── Leaving               the holder is on its way out
        ├── NotLeaving                an address that is in use was about to be freed: a caller's mistake
        └── LedgerFileError           the file itself; nothing was changed
            ├── LedgerBusyError       another process has it open
            ├── LedgerCorruptError    it cannot be trusted
            └── LedgerUnavailableError  it cannot be read or written (disk full, permissions, input/output error)

No exception of SQLite leaves this package.
"""

from __future__ import annotations


class IpamError(Exception):
    """Root of this package's errors."""


class PoolError(IpamError, ValueError):
    """Pools or shares that make no sense; the message names the pool."""


class LedgerError(IpamError):
    """What a ledger answers or raises."""


class Refused(LedgerError):  # noqa: N818 - an answer, named for what it says
    """One request was turned down and left no trace."""


class PoolExhausted(Refused):
    """No address of one family is free; the message names the pools, what is in use and when to retry."""

    retry_s: float | None
    """Seconds until the next address has cooled down; None when only the end of a pod can free one."""

    def __init__(self, message: str, *, retry_s: float | None) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class AddressRefused(Refused):
    """The fixed address that was asked for cannot be had."""


class SlotRefused(Refused):
    """None of the slots that were asked for can be had; the message names a holder."""


class Leaving(Refused):
    """The holder was discarded and still holds its addresses; they are freed when every plane has lost it."""


class NotLeaving(LedgerError):  # noqa: N818 - named like its opposite, Leaving
    """A holder that nobody discarded was to be forgotten."""


class LedgerFileError(LedgerError):
    """The ledger's file cannot be used as it is."""


class LedgerBusyError(LedgerFileError):
    """Another process has the ledger open."""


class LedgerCorruptError(LedgerFileError):
    """The ledger's file cannot be trusted; the message says what to do."""


class LedgerUnavailableError(LedgerFileError):
    """The ledger's file cannot be read or written; whatever was asked for did not happen."""

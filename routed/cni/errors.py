"""What goes wrong in a CNI call, and the one table that gives each failure its number.

    CniError
    ├── UnsupportedVersion     1   cniVersion that this plugin, or this command in that version, does not know
    ├── UnsupportedField       2   key of the configuration that contradicts what this network is
    ├── UnknownContainer       3   the runtime skips its clean-up: only where nothing was created
    ├── InvalidEnvironment     4   CNI_* variable missing or malformed
    ├── DecodeError            6   bytes that are no request, or no JSON object
    ├── InvalidConfig          7   configuration that does not hold
    ├── InvalidNetns           8   CNI_NETNS is no network namespace, or the host's own
    ├── TryAgainLater         11   passes by itself
    ├── Unavailable           50   STATUS: cannot serve ADD
    └── LimitedConnectivity   51   STATUS: cannot serve ADD, and running pods may suffer

Numbers: CNI 1.1.0 "Error"; 8 and 999 are libcni's; 100 and above are this plugin's own. No other module knows a number,
and the packages that raise the exceptions know nothing of CNI.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple

from bgp.errors import BgpError
from ipam.errors import AddressRefused, Leaving, LedgerError, PoolExhausted, SlotRefused
from ovs_flows.errors import OvsError
from routed.attach import errors as attach


class Code(IntEnum):
    """Every number that this plugin answers with."""

    UNSUPPORTED_VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    INVALID_ENVIRONMENT = 4
    IO = 5
    DECODE = 6
    INVALID_CONFIG = 7
    INVALID_NETNS = 8
    TRY_AGAIN_LATER = 11
    UNAVAILABLE = 50
    LIMITED_CONNECTIVITY = 51
    POOL_EXHAUSTED = 101
    KERNEL = 102
    BRIDGE = 103
    SPEAKER = 104
    BUG = 999


class CniError(Exception):
    """Base of what the protocol itself finds wrong."""


class UnsupportedVersion(CniError):  # noqa: N818 - named for the code's meaning in the specification, as all below
    """The configuration's cniVersion is unknown, or older than the command."""


class UnsupportedField(CniError):  # noqa: N818 - see UnsupportedVersion
    """A key of the configuration asks for what this network never does; the message holds key and value."""


class UnknownContainer(CniError):  # noqa: N818 - see UnsupportedVersion
    """The container is not there, and nothing was created for it."""


class InvalidEnvironment(CniError):  # noqa: N818 - see UnsupportedVersion
    """A variable is missing or malformed; the message names it."""


class DecodeError(CniError):
    """The bytes are no request."""


class InvalidConfig(CniError):  # noqa: N818 - see UnsupportedVersion
    """The configuration decodes, but does not hold."""


class InvalidNetns(CniError):  # noqa: N818 - see UnsupportedVersion
    """CNI_NETNS is no network namespace that a pod can be attached in."""


class TryAgainLater(CniError):  # noqa: N818 - see UnsupportedVersion
    """A transient condition: the same call may succeed soon."""


class Unavailable(CniError):  # noqa: N818 - see UnsupportedVersion
    """STATUS: ADD cannot be served."""


class LimitedConnectivity(CniError):  # noqa: N818 - see UnsupportedVersion
    """STATUS: ADD cannot be served, and pods that run may have lost connectivity."""


CODES: Mapping[type[BaseException], Code] = {
    UnsupportedVersion: Code.UNSUPPORTED_VERSION,
    UnsupportedField: Code.UNSUPPORTED_FIELD,
    UnknownContainer: Code.UNKNOWN_CONTAINER,
    InvalidEnvironment: Code.INVALID_ENVIRONMENT,
    DecodeError: Code.DECODE,
    InvalidConfig: Code.INVALID_CONFIG,
    InvalidNetns: Code.INVALID_NETNS,
    TryAgainLater: Code.TRY_AGAIN_LATER,
    Unavailable: Code.UNAVAILABLE,
    LimitedConnectivity: Code.LIMITED_CONNECTIVITY,
    TimeoutError: Code.TRY_AGAIN_LATER,
    PoolExhausted: Code.POOL_EXHAUSTED,
    AddressRefused: Code.INVALID_CONFIG,
    SlotRefused: Code.TRY_AGAIN_LATER,
    Leaving: Code.TRY_AGAIN_LATER,
    LedgerError: Code.IO,
    attach.InvalidNetns: Code.INVALID_NETNS,
    attach.InvalidName: Code.INVALID_ENVIRONMENT,
    attach.InterfaceExists: Code.INVALID_ENVIRONMENT,
    attach.VfAway: Code.TRY_AGAIN_LATER,
    attach.AttachError: Code.KERNEL,
    OvsError: Code.BRIDGE,
    BgpError: Code.SPEAKER,
}
"""One row per exception class; a subclass without a row of its own has the number of its nearest ancestor."""


class Failure(NamedTuple):
    """What the runtime gets to see; kubelet shows ``msg; details`` in the pod's events."""

    code: Code
    msg: str
    details: str


def code_for(error: BaseException) -> Failure:
    """Return how a failure is told to the runtime; `Code.BUG` for what the table does not know."""
    code = next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), Code.BUG)
    text = str(error) or type(error).__name__
    if code is Code.BUG:
        return Failure(code, "internal error", f"{type(error).__name__}: {text}")
    return Failure(code, text, str(error.__cause__ or ""))

"""What can go wrong between this library and Open vSwitch.

::

    OvsError
    ├── PipelineError        a flow breaks its table's declaration: a bug of ours, never sent
    ├── CodecError           bytes or text that do not follow the format
    ├── Unreachable          the switch or its database does not answer: try again after the next wake-up
    ├── Refused              OVS understood and said no; the message says to what and why
    ├── BridgeError          the bridge cannot be used as it is; the message says what to change
    └── PortError            a port could not be plugged as asked; the message says what to do
        └── ForeignPort      a port of that name exists and is not ours
"""

from __future__ import annotations


class OvsError(Exception):
    """Anything that this library raises on purpose."""


class PipelineError(OvsError):
    """A flow breaks the declaration of its table."""


class CodecError(OvsError):
    """Bytes or text do not follow their format."""


class Unreachable(OvsError):  # noqa: N818 - reads as a state of the switch, and is one
    """The switch or its database does not answer; it may come back."""


class Refused(OvsError):  # noqa: N818 - what OVS did, as it says itself
    """OVS refused a message."""

    def __init__(self, message: str, error: tuple[int, int] | None = None) -> None:
        """`error` is the type and the code of an OpenFlow error, None for another one (OpenFlow 1.4 7.5.4)."""
        super().__init__(message)
        self.error = error


class BridgeError(OvsError):
    """The bridge is not there or not fit for use; nothing was changed."""


class PortError(OvsError):
    """A port could not be plugged as asked."""


class ForeignPort(PortError):  # noqa: N818 - names the port, not the failure
    """A port of that name exists and does not carry our mark; it was left alone."""

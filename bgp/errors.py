"""What can go wrong here.

::

    BgpError
    |-- ConfigError          the configuration cannot be used; the message names the key
    |   `-- PasswordError    the password file is missing, unreadable or empty: no session is better than an open one
    |-- InvalidRouteError    a route that must not be announced as it is given
    |-- ProtocolError        ExaBGP said something that we do not understand
    |-- RejectedError        ExaBGP answered `error` to this very route, twice
    `-- UnavailableError     no ExaBGP took it in time; it stays desired and is tried again without being asked
"""

from __future__ import annotations


class BgpError(Exception):
    """Base of all errors of this package."""


class ConfigError(BgpError):
    """The configuration cannot be used; the message names the key."""


class PasswordError(ConfigError):
    """The password file is missing, unreadable or empty."""


class InvalidRouteError(BgpError):
    """A route that must not be announced as it is given."""


class ProtocolError(BgpError):
    """ExaBGP said something that we do not understand."""


class RejectedError(BgpError):
    """ExaBGP answered ``error`` to this very route, twice."""


class UnavailableError(BgpError):
    """No ExaBGP took it in time; it stays desired and is tried again without being asked."""

# ruff: noqa: N818  # the names say what happened; a suffix would say it less well
"""What the Kubernetes API may answer, and what may be wrong with what it holds.

KubeError
├── Unreachable          no answer, or none that says what happened: the request may or may not have had its effect
├── Refused              the API server said no, and nothing was changed
│   ├── Unauthorized     401: it does not know who we are
│   ├── Forbidden        403: it knows, and we may not
│   ├── NotFound         404
│   ├── Conflict         409: the object is not (any more) what the request said that it is
│   │   └── AlreadyExists    the name is taken, also by an object that is on its way out
│   ├── Expired          410: what the request refers to has left the server's memory
│   └── Invalid          400, 422: the object or the request makes no sense to it
├── NoAccess             there is no configuration to reach an API server with
├── NoNode               this server's Node is not registered
├── Malformed            an object does not say what its kind has to say
└── NoRack               no Rack, or more than one, selects this server's Node
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class KubeError(Exception):
    """Root of this package's errors."""


class Unreachable(KubeError):
    """It is not known whether the request had its effect."""


class Refused(KubeError):
    """The API server turned the request down."""


class Unauthorized(Refused):
    """Our credentials are not good."""


class Forbidden(Refused):
    """RBAC or an admission policy does not allow it."""


class NotFound(Refused):
    """There is no such object."""


class Conflict(Refused):
    """A precondition does not hold: resource version or uid."""


class AlreadyExists(Conflict):
    """Somebody else has the name."""


class Expired(Refused):
    """The resource version or the continuation is too old: list again."""


class Invalid(Refused):
    """The API server cannot accept this object."""


class NoAccess(KubeError):
    """Neither in a cluster nor given a kubeconfig that can be used."""


class NoNode(KubeError):
    """Without a Node that owns them there are no leases."""


class Malformed(KubeError):
    """An object that cannot be read; the message names it."""


class NoRack(KubeError):
    """Not exactly one rack is this server's; the message names them."""


_BY_STATUS: Mapping[int, type[Refused]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Expired,
    422: Invalid,
}


def failure(code: int, status: Mapping[str, Any]) -> KubeError:
    """Return what an answer that is no success says; ``status`` is its `Status` object, empty when it had none.

    Overload (429) and the server's own trouble (5xx) count as Unreachable: a proxy or a timeout in etcd may be behind
    them, and then nobody knows what has happened.
    """
    message = f"{status.get('message') or 'no reason given'} (HTTP {code})"
    if status.get("reason") == "AlreadyExists":
        return AlreadyExists(message)
    if code == 429 or code >= 500:
        return Unreachable(message)
    return _BY_STATUS.get(code, Refused)(message)

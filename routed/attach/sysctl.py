"""Kernel settings below /proc/sys/net, of the network namespace that the calling thread is in.

In a container without privileges /proc/sys is read-only. The server's own folder, mounted elsewhere and named by
ROUTED_SYSCTL, serves as well: its files mean the namespace of whoever opens them, wherever it is mounted.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from routed.attach.errors import KernelError

_ROOT = Path(os.environ.get("ROUTED_SYSCTL", "/proc/sys/net"))


def read(name: str) -> str | None:
    """Return a setting such as ``ipv4/ip_forward``, None when this kernel has no such setting."""
    try:
        return (_ROOT / name).read_text().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, f"read sysctl {name}") from error


def write(name: str, value: int) -> bool:
    """Change a setting; False when this kernel does not have it (IPv6 left out)."""
    try:
        setting = os.open(f"{_ROOT}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(setting, str(value).encode())
        finally:
            os.close(setting)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, f"set sysctl {name} to {value}") from error
    return True

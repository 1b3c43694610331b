"""The kubeconfig of whoever runs a command, found as kubectl finds it. Imports little: commands start fast."""

from __future__ import annotations

import os
from pathlib import Path


def users() -> Path:
    """Return what the environment variable KUBECONFIG names, several files in one path included, else the usual one."""
    said = [name for name in os.environ.get("KUBECONFIG", "").split(os.pathsep) if name]
    found = [Path(name).expanduser().absolute() for name in said or ["~/.kube/config"]]
    return Path(os.pathsep.join(map(str, found)))

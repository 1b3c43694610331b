"""The kubeconfig of whoever runs a command, found as kubectl finds it. Imports little: commands start fast."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def users() -> Path:
    """Return what the environment variable KUBECONFIG names, several files in one path included, else the usual one.

    Names without a directory are of the working directory of this moment.
    """
    said = [name for name in os.environ.get("KUBECONFIG", "").split(os.pathsep) if name]
    found = [os.path.abspath(os.path.expanduser(name)) for name in said or ["~/.kube/config"]]  # noqa: PTH100, PTH111  # without a home, too
    return Path(os.pathsep.join(found))


def merged(kubeconfig: Path) -> tuple[str, str | None]:
    """Return which of these files say anything, and the current context, which is the first one's that has any.

    So it is in kubectl; the client library would take the last one's. Raises ValueError where one is no kubeconfig or
    there is none, OSError, YAMLError.
    """
    import yaml  # noqa: PLC0415 - slow to import, and only who connects needs it

    files: list[str] = []
    context: str | None = None
    found = [Path(os.path.expanduser(name)) for name in str(kubeconfig).split(os.pathsep)]  # noqa: PTH111  # see above
    for path in (one for one in found if one.exists()):
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(document, dict):
            files.append(str(path))
            context = context or document.get("current-context")
        elif document is not None:
            raise ValueError(f"{path} is no kubeconfig")
    if not files:
        raise ValueError("there is no such file, or nothing in it")
    return os.pathsep.join(files), context

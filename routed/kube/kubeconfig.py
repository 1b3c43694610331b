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
    """Return which of several files say anything, and the current context, which is the first one's that has any.

    So it is in kubectl; the client library would take the last one's. It is left to read a single file, which may be a
    pipe. Raises ValueError where none says anything or one is no kubeconfig, OSError, YAMLError.
    """
    import yaml  # noqa: PLC0415 - slow to import, and only who connects needs it

    names = [os.path.expanduser(name) for name in str(kubeconfig).split(os.pathsep) if name]  # noqa: PTH111  # see above
    there = [path for path in map(Path, names) if path.exists()]
    if not there:
        raise ValueError("there is no such file")
    if len(names) == 1:
        return names[0], None
    files: list[str] = []
    context: str | None = None
    for path in there:
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(document, dict):
            files.append(str(path))
            context = context or document.get("current-context")
        elif document is not None:
            raise ValueError(f"{path} is no kubeconfig")
    if not files:
        raise ValueError("there is nothing in it")
    return os.pathsep.join(files), context

"""Kubernetes' own programs, built from pinned Go modules: what they are, and where the built ones lie.

``build/go.mod`` names the release and ``build/go.sum`` the hash of every module. A program is built once per release,
set of modules and machine: it is kept in the user's cache folder. Nothing is downloaded but Go modules; a Go that is
older than go.mod wants fetches the right one as a module, which Go 1.21 and later know how to do.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

MODULE = Path(__file__).with_name("build")
PROGRAMS = ("kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
"""In the order in which they are wanted."""
_PROGRESS_S = 30.0


class BuildError(Exception):
    """A program could not be built; the message says why and what to do."""


def release() -> str:
    """Return the release of Kubernetes that is built: ``v1.36.3``."""
    found = re.search(r"k8s\.io/kubernetes (v\S+)", (MODULE / "go.mod").read_text())
    assert found, "go.mod does not name a release"
    return found[1]


def folder() -> Path:
    """Return where programs of this release, of just these modules, are kept."""
    modules = sha256(b"".join((MODULE / name).read_bytes() for name in ("go.mod", "go.sum"))).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "routed-kube" / f"{release()}-{modules}"


def program(name: str) -> Path:
    """Return the path of a program; builds it first when it is not there, which takes minutes."""
    path = folder() / name
    if not path.exists():
        with _alone():
            if not path.exists():  # another run built it while this one waited
                _build(path)
    return path


@contextmanager
def _alone() -> Iterator[None]:
    folder().mkdir(parents=True, exist_ok=True)
    with (folder() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(path: Path) -> None:
    go = shutil.which("go")
    if go is None:
        raise BuildError(
            f"{path.name}: needs Go 1.21 or later on the PATH to be built; `make test` runs without network "
            f"when {path.parent} has been filled by `make kube-binaries`"
        )
    version, package = release(), "k8s.io/component-base/version"
    major, minor = version.removeprefix("v").split(".")[:2]
    numbers = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    linked = " ".join(["-s", "-w", *(f"-X {package}.{name}={value}" for name, value in numbers.items())])
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    command = [go, "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", linked]
    environment = {"GOTOOLCHAIN": "auto", **os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    log = path.with_name(f"{path.name}.log")
    try:
        with log.open("w") as output:
            compiler = subprocess.Popen(
                [*command, "-o", unfinished, f"k8s.io/kubernetes/cmd/{path.name}"],
                cwd=MODULE,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            _watch(compiler, f"{path.name} {version}")
        if compiler.returncode:
            raise BuildError(f"{path.name}: {' '.join(command[:2])} failed:\n{log.read_text()[-4000:]}")
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _watch(compiler: subprocess.Popen[bytes], what: str) -> None:
    """Wait for the compiler and say now and then that it is still at work; it ends with whoever waits."""
    began = time.monotonic()
    print(f"building {what} from Go modules (once; minutes)", file=sys.__stderr__, flush=True)
    try:
        while True:
            try:
                compiler.wait(_PROGRESS_S)
                break
            except subprocess.TimeoutExpired:
                print(f"building {what}: {time.monotonic() - began:.0f} s", file=sys.__stderr__, flush=True)
    finally:
        if compiler.poll() is None:
            compiler.terminate()
            compiler.wait()
    print(f"built {what} in {time.monotonic() - began:.0f} s", file=sys.__stderr__, flush=True)


def main(names: Iterable[str]) -> int:
    """Build what is named, all of it when nothing is, and print where it lies."""
    try:
        for name in list(names) or PROGRAMS:
            sys.stdout.write(f"{program(name)}\n")
    except BuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

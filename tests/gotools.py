"""Programs that tests run and that Debian does not have, built from pinned Go modules; kept in the user's cache folder.

A folder with ``go.mod`` and ``go.sum`` names the releases and the hash of every module. A program is built once per set
of modules and machine. Nothing is downloaded but Go modules; a Go that is older than go.mod wants fetches the right one
as a module, which Go 1.21 and later know how to do.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

_PROGRESS_S = 30.0


class BuildError(Exception):
    """A program could not be built; the message says why and what to do."""


class GoMissingError(BuildError):
    """There is no Go to build it with; tests that need the program are skipped."""


@dataclass(frozen=True)
class GoTools:
    """The programs of one set of modules."""

    name: str
    """Of the folder in the cache."""
    module: Path
    packages: Mapping[str, str]
    """What a program is made of, in the order in which programs are wanted."""
    release: str = ""
    flags: Sequence[str] = ()
    """For `go build`."""
    link: Sequence[str] = ()
    """For the linker."""
    sources: Sequence[str] = ()
    """Our own, below the module."""

    def folder(self) -> Path:
        """Return where programs of just these modules are kept."""
        files = ("go.mod", "go.sum", *self.sources)
        modules = sha256(b"".join((self.module / name).read_bytes() for name in files)).hexdigest()[:12]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / self.name / "-".join(filter(None, (self.release, modules)))

    def program(self, name: str) -> Path:
        """Return the path of a program; builds it first when it is not there, which takes minutes."""
        path = self.folder() / name
        if not path.exists():
            with self._alone():
                if not path.exists():  # another run built it while this one waited
                    self._build(path)
        return path

    def main(self, names: Iterable[str]) -> int:
        """Build what is named, all of it when nothing is, and print where it lies; returns the exit status."""
        try:
            for name in list(names) or self.packages:
                sys.stdout.write(f"{self.program(name)}\n")
        except BuildError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        return 0

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder().mkdir(parents=True, exist_ok=True)
        with (self.folder() / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _build(self, path: Path) -> None:
        go = shutil.which("go")
        if go is None:
            raise GoMissingError(
                f"{path.name}: needs Go 1.21 or later on the PATH to be built; `make test` runs without network "
                f"when {path.parent} has been filled by `make go-tools`"
            )
        linked = " ".join(["-s", "-w", *self.link])
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        command = [go, "build", "-mod=readonly", "-trimpath", "-buildvcs=false", *self.flags, "-ldflags", linked]
        environment = {"GOTOOLCHAIN": "auto", **os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
        log = path.with_name(f"{path.name}.log")
        try:
            with log.open("w") as output:
                compiler = subprocess.Popen(
                    [*command, "-o", unfinished, self.packages[path.name]],
                    cwd=self.module,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
                _watch(compiler, f"{path.name} {self.release}".strip())
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

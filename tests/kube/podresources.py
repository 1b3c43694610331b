"""The kubelet's own PodResources server, built of Kubernetes' own Go packages, for pods that a test describes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.kubelet import Allocated
from tests.gotools import GoTools
from tests.kube.binaries import KUBERNETES, MODULE

SERVER = GoTools(
    name="routed-podresources",
    module=MODULE,
    release=KUBERNETES.release,
    packages={"podresources": "./podresources"},
    sources=("podresources/main.go",),
)


@contextmanager
def kubelet(socket: Path, pods: Sequence[tuple[str, str, Allocated]]) -> Iterator[None]:
    """Serve what the kubelet has allocated to these pods, until the block ends."""
    described = [{"Namespace": namespace, "Name": name, "Containers": list(each)} for namespace, name, each in pods]
    command = [SERVER.program("podresources"), socket]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            server.stdin.write(json.dumps(described) + "\n")
            server.stdin.flush()
            assert server.stdout.readline() == "ready\n"
            yield
        finally:
            server.kill()


if __name__ == "__main__":
    sys.exit(SERVER.main(sys.argv[1:]))

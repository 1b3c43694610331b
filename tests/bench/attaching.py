"""Time ADD and DEL, in series and in parallel, one contender after the other in every round."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.bench.figures import Attach, Summary
from tests.bench.namespace import threads_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from tests.bench.contenders import Contender

_PARALLEL = 16
_IDENTITY = {"IgnoreUnknown": "1", "K8S_POD_NAMESPACE": "bench"}


@dataclass
class _Samples:
    """Of one contender and verb: durations of the calls, and of the rounds that held them, in seconds."""

    calls_s: list[float] = field(default_factory=list)
    rounds_s: list[float] = field(default_factory=list)

    def summary(self) -> Summary:
        return Summary.of([call_s * 1e3 for call_s in self.calls_s])

    def per_s(self) -> float:
        return len(self.calls_s) / sum(self.rounds_s)


def measure(contenders: Sequence[Contender], rounds: int, progress: Callable[[str], None]) -> Mapping[str, Attach]:
    """Attach and detach every pod of every contender once per round, first in series, then by 16 threads."""
    samples = {(contender.name, kind): _Samples() for contender in contenders for kind in _KINDS}
    for number in range(1, rounds + 1):
        for contender in contenders:
            for workers, kinds in ((1, _KINDS[:2]), (_PARALLEL, _KINDS[2:])):
                _round(contender, f"{number}-{workers}", workers, [samples[contender.name, kind] for kind in kinds])
            progress(f"attachments: round {number} of {rounds}, {contender.name}")
    return {contender.name: _figures([samples[contender.name, kind] for kind in _KINDS]) for contender in contenders}


_KINDS = ("add", "delete", "parallel add", "parallel delete")


def _figures(samples: Sequence[_Samples]) -> Attach:
    add, delete, parallel_add, parallel_delete = samples
    return Attach(
        add=add.summary(),
        delete=delete.summary(),
        parallel_add=parallel_add.summary(),
        parallel_delete=parallel_delete.summary(),
        adds_per_s=parallel_add.per_s(),
        deletes_per_s=parallel_delete.per_s(),
    )


def _round(contender: Contender, tag: str, workers: int, samples: Sequence[_Samples]) -> None:
    """Time an ADD of every pod, then a DEL of every pod."""
    added, deleted = samples

    def add(pod: Path) -> object:
        name = f"{tag}-{pod.name}"
        return contender.plugin.add(name, pod, args={**_IDENTITY, "K8S_POD_NAME": name})

    def delete(pod: Path) -> None:
        contender.plugin.delete(f"{tag}-{pod.name}", pod)

    contender.prepare()
    with threads_in(contender.host, workers) as threads:
        _time_all(threads, add, contender.pods, added)
        _time_all(threads, delete, contender.pods, deleted)


def _time_all(threads: Executor, call: Callable[[Path], object], pods: Sequence[Path], samples: _Samples) -> None:
    def timed(pod: Path) -> float:
        began_s = time.perf_counter()
        call(pod)
        return time.perf_counter() - began_s

    began_s = time.perf_counter()
    samples.calls_s += threads.map(timed, pods)
    samples.rounds_s.append(time.perf_counter() - began_s)

"""Looks, for the commands of `routed audit`: shows who answers while people wait, and leaves nothing running behind."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from ipam.model import IPAddress
from routed.audit.model import Audit
from routed.audit.report.summary import EXIT_STATUS, Verdict, printable
from routed.audit.settings import load

if TYPE_CHECKING:
    from routed.audit.explain import Story
    from routed.audit.run import Progress

T = TypeVar("T")
_ENDS = (signal.SIGTERM, signal.SIGHUP)
"""What ends a process without a word; SIGINT is asyncio's own."""


def audited(file: Path) -> Audit:
    """Audit once; exit status 3 when not even the racks are known."""
    from routed.audit.run import run  # noqa: PLC0415 - slow to import, and an export needs none of it

    settings = load(file)
    with _waiting() as progress:
        return _finished(run(settings, progress))


def asked(what: IPAddress | str, file: Path) -> tuple[Story, ...]:
    """Have an address's story told, or those of a pod's addresses; exit status 3 when that cannot be known."""
    from routed.audit.ask import ask, ask_pod  # noqa: PLC0415 - see above

    settings = load(file)
    with _waiting() as progress:
        if isinstance(what, str):
            return _finished(ask_pod(what, settings, progress))
        return (_finished(ask(what, settings, progress)),)


@contextmanager
def _waiting() -> Iterator[Callable[[Progress], None]]:
    """Show who answered; the bar is gone when all is done, and there is none where nobody looks."""
    from routed.audit.sources import CouldNotObserve  # noqa: PLC0415 - see above

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("racks", total=None)

        def show(now: Progress) -> None:
            again = "" if now.look == 1 else f"look {now.look}, "
            bar.update(task, completed=now.done, total=now.of, description=escape(printable(again + now.looked_at)))

        try:
            yield show
        except CouldNotObserve as error:
            typer.echo(f"routed: could not observe: {printable(str(error))}", err=True)
            raise typer.Exit(EXIT_STATUS[Verdict.BLIND]) from error


def _finished(work: Coroutine[object, object, T]) -> T:
    """Return what the work returns; told to end before that, end what it has started: that hears no signal."""
    told: list[signal.Signals] = []

    async def watched() -> T:
        task = asyncio.current_task()

        def end(number: signal.Signals) -> None:
            told.append(number)
            if task is not None:
                task.cancel()

        for number in (one for one in _ENDS if signal.getsignal(one) is signal.SIG_DFL):  # nohup ignores SIGHUP
            asyncio.get_running_loop().add_signal_handler(number, end, number)
        return await work

    try:
        return asyncio.run(watched())
    except asyncio.CancelledError:
        if not told:
            raise
        sys.exit(128 + told[0])  # as shells report a signal

"""Live progress on a terminal's standard error, and Ctrl-C that waits for the end of a step, or of a call in tiles."""

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..runtime.sampling.loop import StepEvent


@contextmanager
def stages() -> Iterator[Callable[[str], object]]:
    """A spinner; call it with a phrase for what is being done."""
    with Console(stderr=True).status("starting") as status:
        yield status.update


@contextmanager
def pictures(label: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar for `total` pictures; call what it yields with a few words whenever one is done. Ctrl-C raises at once."""
    with _bar() as progress:
        bar = progress.add_task(label, total=total, phase="", tiles="")
        yield lambda words: progress.update(bar, advance=1, phase=words)


class Watch(NamedTuple):
    """What `steps` yields: for `Restorer.restore`, and for `Restorer.tiled`."""

    on_step: Callable[[StepEvent], None]
    on_tiles: Callable[[int, int], None]


@contextmanager
def steps(label: str, total: int, by_row: bool = False, each: int | None = None) -> Iterator[Watch]:
    """A bar for `total` steps, or for those of all rows together, and the tiles of the running one where there are any.

    each: steps that `total` counts for a row; where rows turn out to have another number, the total follows.
    The first Ctrl-C raises KeyboardInterrupt when the Watch is next called, the second at once.
    """
    stop = False

    def on_sigint(number: int, frame: FrameType | None) -> None:
        nonlocal stop
        if stop:
            raise KeyboardInterrupt
        stop = True

    with _bar() as progress:
        bar = progress.add_task(label, total=total, phase="", tiles="")

        def on_step(event: StepEvent) -> None:
            if stop:
                raise KeyboardInterrupt
            rows = len(event.phases) if by_row else 1
            if each is not None and event.step == event.steps - 1:  # the first step of these rows
                progress.update(bar, total=(progress.tasks[bar].total or 0) + rows * (event.steps - each))
            settled = event.settled[0]
            phase = event.phases[0].upper()
            moved = f"{phase}  estimate settled to {settled:.1f} dB" if math.isfinite(settled) else phase
            progress.update(bar, advance=rows, phase=moved)

        def on_tiles(done: int, of: int) -> None:
            if stop:
                raise KeyboardInterrupt
            progress.update(bar, tiles=f"tile {done} of {of}")

        before = signal.signal(signal.SIGINT, on_sigint)
        try:
            yield Watch(on_step, on_tiles)
            if stop:
                raise KeyboardInterrupt
        finally:
            signal.signal(signal.SIGINT, before)


@contextmanager
def building() -> Iterator[Callable[[str, int, int], bool]]:
    """A bar for engines that are being built: for `tensorrt_build.build`. Ctrl-C stops at the builder's next step."""
    stop = False

    def on_sigint(number: int, frame: FrameType | None) -> None:
        nonlocal stop
        stop = True

    with _bar() as progress:
        bar = progress.add_task("building", total=1, phase="", tiles="")

        def on_progress(what: str, done: int, of: int) -> bool:
            progress.update(bar, completed=done, total=of, phase=f"the {what} engine")
            return not stop

        before = signal.signal(signal.SIGINT, on_sigint)
        try:
            yield on_progress
        finally:
            signal.signal(signal.SIGINT, before)


def _bar() -> Progress:
    console = Console(stderr=True)
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[phase]}"),
        TextColumn("{task.fields[tiles]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )

"""Progress on standard error, and Ctrl-C that takes effect at the end of a step, or of a network call in tiles.

A terminal shows a bar with the time left; elsewhere a line is written each minute; with -q nothing is.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from ..runtime.sampling.loop import StepEvent
from .talk import detail, is_quiet, note

EVERY = 60.0
"""Seconds between two lines where standard error is no terminal."""
WORTH_SAYING = 10.0
"""Seconds. Work that is estimated to take longer is announced with its estimate."""
TIMED = 3
"""The report of progress after which the estimate is announced. The first report is left out: it includes compiling."""


@contextmanager
def stages() -> Iterator[Callable[[str], object]]:
    """Show a spinner; call what it yields with a phrase for each stage. -v prints each stage with its seconds."""
    stage, started = "starting", time.monotonic()
    console = Console(stderr=True)
    status = console.status(stage) if console.is_terminal and not is_quiet() else None

    def on_stage(phrase: str) -> None:
        nonlocal stage, started
        now = time.monotonic()
        if stage != "starting":
            detail(f"{stage}: {now - started:.1f} s")
        stage, started = phrase, now
        if status is not None:
            status.update(phrase)

    with _each_minute(lambda: f"{stage}: {in_words(time.monotonic() - started)} so far", console):
        if status is None:
            yield on_stage
        else:
            with status:
                yield on_stage
    on_stage("")


@contextmanager
def pictures(label: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar for `total` pictures; call what it yields with a few words for each done. Ctrl-C raises at once."""
    with _bar(label, total) as bar:
        yield lambda words: bar.move(done=bar.done + 1, phase=words)


class Watch(NamedTuple):
    """Callbacks that `steps` yields for a restoration."""

    on_step: Callable[[StepEvent], None]
    on_tiles: Callable[[int, int], None]
    on_more: Callable[[int], None]
    """Called with the number of steps to add to the total; negative to take some away."""


@contextmanager
def steps(label: str, total: int, by_row: bool = False) -> Iterator[Watch]:
    """Show a bar for `total` steps, and the tiles of the running step where there are any.

    `by_row` counts the steps of each row by itself. The first Ctrl-C raises KeyboardInterrupt when a callback is next
    called, the second at once.
    """
    stop = False

    def on_sigint(number: int, frame: FrameType | None) -> None:
        nonlocal stop
        if stop:
            raise KeyboardInterrupt
        stop = True

    with _bar(label, total) as bar:
        whole = 0

        def on_step(event: StepEvent) -> None:
            nonlocal whole
            if stop:
                raise KeyboardInterrupt
            settled = event.settled[0]
            phase = event.phases[0].upper()
            moved = f"{phase}  estimate settled to {settled:.1f} dB" if math.isfinite(settled) else phase
            whole += len(event.phases) if by_row else 1
            bar.move(done=whole, phase=moved)

        def on_tiles(done: int, of: int) -> None:
            if stop:
                raise KeyboardInterrupt
            bar.move(done=max(bar.done, whole + (done - 1) / of), tiles=f"tile {done} of {of}")

        def on_more(more: int) -> None:
            bar.total += more

        before = signal.signal(signal.SIGINT, on_sigint)
        try:
            yield Watch(on_step, on_tiles, on_more)
            if stop:
                raise KeyboardInterrupt
        finally:
            signal.signal(signal.SIGINT, before)


@contextmanager
def building() -> Iterator[Callable[[str, int, int], bool]]:
    """Show a bar for TensorRT engines being built; yields the `on_progress` of `tensorrt.build.build`.

    Ctrl-C stops at the builder's next step.
    """
    stop = False

    def on_sigint(number: int, frame: FrameType | None) -> None:
        nonlocal stop
        stop = True

    with _bar("building", 1) as bar:

        def on_progress(what: str, done: int, of: int) -> bool:
            bar.move(done=done, total=of, phase=f"the {what} engine")
            return not stop

        before = signal.signal(signal.SIGINT, on_sigint)
        try:
            yield on_progress
        finally:
            signal.signal(signal.SIGINT, before)


def in_words(seconds: float) -> str:
    """Return an estimated duration in words, rounded."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class _Bar:
    """The state of some work: its total and how much is done, shown by `progress` on a terminal."""

    def __init__(self, label: str, total: int, progress: Progress):
        self.done = 0.0
        self._label, self.total, self._progress = label, total, progress
        self._task = progress.add_task(label, total=total, phase="", tiles="")
        self._reports: int = 0
        self._first = (0.0, 0.0)
        """Time of the first report, and the amount done then."""

    def move(self, done: float, total: int | None = None, **fields: Any) -> None:
        """Report that `done` of `total` is done, with words for the bar's fields `phase` and `tiles`."""
        self.done, self.total = done, self.total if total is None else total
        self._reports += 1
        if self._reports == 1:
            self._first = time.monotonic(), done
        self._progress.update(self._task, completed=math.floor(done), total=self.total, **fields)
        left = self.left()
        if self._reports == TIMED and left is not None and left >= WORTH_SAYING:
            note(f"{self._label} takes about {in_words(left)}")

    def left(self) -> float | None:
        """Return the seconds left, at the rate since the first report; None before there is one."""
        started, at_first = self._first
        if self.done <= at_first:
            return None
        return (time.monotonic() - started) / (self.done - at_first) * (self.total - self.done)

    def line(self) -> str:
        """Return a line of text with the amount done and the time left."""
        left = self.left()
        said = f"{self._label}: {self.done / (self.total or 1):.0%}, {math.floor(self.done)} of {self.total}"
        return said if left is None else f"{said}, about {in_words(left)} left"


@contextmanager
def _bar(label: str, total: int) -> Iterator[_Bar]:
    console = Console(stderr=True)
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[phase]}"),
        TextColumn("{task.fields[tiles]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        transient=True,
        disable=not console.is_terminal or is_quiet(),
    )
    with progress:
        bar = _Bar(label, total, progress)
        with _each_minute(bar.line, console):
            yield bar


@contextmanager
def _each_minute(line: Callable[[], str], console: Console) -> Iterator[None]:
    """Write a line to standard error every EVERY seconds, unless that is a terminal or -q is given."""
    if console.is_terminal or is_quiet():
        yield
        return
    over = threading.Event()

    def tell() -> None:
        while not over.wait(EVERY):
            click.echo(line(), err=True)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()

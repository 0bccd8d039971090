"""Restoration of a folder by workers with an engine each. A free worker gets the next portion of pictures.

This process reads the pictures, sends them as bytes, receives Outcomes and writes the results. When a worker dies, its
pictures go to another one.
"""

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NamedTuple

from ...engines import BackendError, FrugalError, Plan, open_engine
from ...engines.version import __version__
from ..pictures.images import read_bytes
from ..restorer import Restorer
from .folder import Failed, FolderRestorer, Order, Outcome, together

ROUNDS = 4
"""The least number of portions for each worker of a large folder, so that all workers end at about the same time."""


class Started(NamedTuple):
    """A worker's first answer: its version and engine."""

    engine: str
    version: str


class Worker:
    """The worker in its own process, with a restorer that is loaded once. Where loading fails, `load` returns why."""

    def load(self, opened: Callable[[], Plan], backend: str, trust_engines: bool, order: Order) -> Started | str:
        try:
            plan = opened()
            restorer = Restorer(plan, open_engine(plan, backend, trust_engines=trust_engines))
        except FrugalError as error:
            return str(error)
        self._folder = FolderRestorer(restorer, order)
        return Started(restorer.engine.name, __version__)

    def restore(self, pictures: Mapping[Path, bytes]) -> list[Outcome]:
        return list(self._folder.restore([*pictures], pictures.__getitem__))


class Died(Exception):
    """A worker has died; the message says how."""


class _Call(NamedTuple):
    """A call that a worker has not answered; without pictures while it loads."""

    worker: Any
    sources: Sequence[Path]


class Spread(ABC):
    """At most `workers` workers for a folder; a context manager that ends them.

    Subclasses implement starting, calling, answering and ending. on_loss: called with a sentence when a worker dies.
    """

    tries: ClassVar[int]
    """Tries of a picture, or of starting a worker, after which a worker's death is blamed on it."""
    needs: ClassVar[str]
    """Advice where workers die as they start."""

    def __init__(self, workers: int, order: Order, on_loss: Callable[[str], object]):
        self.workers, self._order, self._on_loss = workers, order, on_loss
        self._calls: dict[Hashable, _Call] = {}
        self._idle: list[Any] = []
        self._engine: str | None = None
        self._stillborn = 0

    @abstractmethod
    def _start(self) -> tuple[Any, Hashable]:
        """Start a worker; return it and the call by which it loads."""

    @abstractmethod
    def _ask(self, worker: Any, pictures: Mapping[Path, bytes]) -> Hashable:
        """Send pictures to a worker; return the call."""

    @abstractmethod
    def _answered(self, calls: Sequence[Any]) -> Hashable:
        """Wait until one of the calls has an answer; return it."""

    @abstractmethod
    def _answer(self, call: Any) -> Any:
        """Return the answer of `Worker.load` or `Worker.restore`. Raises Died, or a FrugalError where that failed."""

    @abstractmethod
    def _end(self, worker: Any) -> None:
        """End a worker that has not ended."""

    def __enter__(self) -> "Spread":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in [*self._idle, *(call.worker for call in self._calls.values())]:
            self._end(worker)

    def restore(self, sources: Sequence[Path], read: Callable[[Path], bytes] = read_bytes) -> Iterator[Outcome]:
        """Yield every picture's outcome, in the order in which they end, with the same result as in one process.

        A picture whose worker dies is tried again alone, `tries` times in all; then it is Failed. read: returns a
        picture's file; its FrugalErrors become the picture's Failed.
        """
        size = min(together(self._order.samples), -(-len(sources) // (self.workers * ROUNDS)))
        due = deque(sources[first : first + size] for first in range(0, len(sources), size or 1))
        deaths: Counter[Path] = Counter()
        for _ in range(min(self.workers, len(due)) - len(self._idle) - len(self._calls)):
            self._hire()
        outcomes: list[Outcome] = []
        while due or any(call.sources for call in self._calls.values()):
            while due and self._idle:
                outcomes += self._give(due.popleft(), read)
            yield from outcomes  # after the workers have new portions, so that they work while these are written
            outcomes = self._hear(due, deaths) if self._calls else []
        yield from outcomes

    def _hire(self) -> None:
        worker, call = self._start()
        self._calls[call] = _Call(worker, ())

    def _give(self, sources: Sequence[Path], read: Callable[[Path], bytes]) -> list[Failed]:
        """Give a portion to a free worker; return the pictures that cannot be read."""
        pictures, failed = {}, []
        for source in sources:
            try:
                pictures[source] = read(source)
            except FrugalError as error:
                failed.append(Failed(source, str(error)))
        if pictures:
            worker = self._idle.pop()
            self._calls[self._ask(worker, pictures)] = _Call(worker, [*pictures])
        return failed

    def _hear(self, due: deque[Sequence[Path]], deaths: Counter[Path]) -> list[Outcome]:
        """Wait for an answer; return its outcomes: none from a worker that has loaded, failures after a death."""
        answered = self._answered([*self._calls])
        call = self._calls.pop(answered)
        try:
            answer = self._answer(answered)
        except Died as died:
            self._end(call.worker)
            return self._lost(call, died, due, deaths)
        except BaseException:
            self._end(call.worker)
            raise
        self._idle.append(call.worker)
        if call.sources:
            return list(answer)
        self._check(answer)
        return []

    def _lost(self, call: _Call, died: Died, due: deque[Sequence[Path]], deaths: Counter[Path]) -> list[Outcome]:
        """Put a dead worker's pictures at the front of the queue, one by one, and start another worker."""
        deaths.update(call.sources)
        failed = [source for source in call.sources if deaths[source] == self.tries]
        again = [source for source in call.sources if source not in failed]
        due.extendleft([source] for source in reversed(again))
        self._stillborn = 0 if call.sources else self._stillborn + 1
        if self._stillborn == self.tries:
            raise BackendError(f"{self.tries} workers in a row died as they started; {self.needs} {died}") from died
        self._on_loss(f"a worker died; another takes its place, for {len(again)} pictures: {died}")
        if due:
            self._hire()
        why = f"its worker died {self.tries} times, for want of memory perhaps: {died}"
        return [Failed(source, why) for source in failed]

    def _check(self, answer: Started | str) -> None:
        """Raise BackendError unless the worker has the version and the engine of the others."""
        self._stillborn = 0
        if isinstance(answer, str):
            raise BackendError(f"a worker could not start: {answer}")
        if answer.version != __version__:
            raise BackendError(f"a worker has frugal-rt {answer.version} and this is {__version__}; make them equal")
        if self._engine not in (None, answer.engine):
            raise BackendError(f"workers run {self._engine} and {answer.engine}; name one with --backend")
        self._engine = answer.engine

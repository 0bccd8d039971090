"""A folder spread over a Ray cluster: workers that hold an engine each, restoring pictures that travel as bytes.

The driver reads the pictures and writes the results; a worker needs frugal-rt and nothing of the driver's disk. The
plan's members lie once in the memory of each node, where workers use them in place and check their SHA-256.
"""

import contextlib
import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import __version__
from ..engines import BackendError, FrugalError, InputError, MissingExtra, Plan, open_engine
from ..engines.machine import THREADS
from .folder import Asked, Failed, Restored, restore_pictures, together
from .images import read_bytes
from .restorer import Restorer

TRIES = 3
"""How often a picture is given to a worker, and a worker started in a row, before its death counts as theirs."""
ROUNDS = 4
"""Portions that each worker gets of a large folder, at least, so that all end at about the same time."""
PATIENCE = 5.0
"""Seconds that an address has to answer in."""

Outcome = Restored | Failed


class Share(NamedTuple):
    """What each worker reserves."""

    cpus: int
    gpus: int


class Started(NamedTuple):
    """What a worker says of itself."""

    engine: str
    version: str


class Worker:
    """Runs in a process of the cluster: a restorer loaded once. Errors come back as sentences."""

    def load(
        self, plan: tuple[dict[str, Any], dict[str, np.ndarray], str], backend: str, asked: Asked, share: Share
    ) -> Started | str:
        os.environ[THREADS] = str(max(1, share.cpus))
        manifest, members, source = plan
        here = Plan(manifest, {name: data.data for name, data in members.items()}, source)
        try:
            restorer = Restorer(here, open_engine(here, backend))
        except FrugalError as error:
            return str(error)
        self._asked, self._prepared = asked, asked.preparing(restorer)
        return Started(restorer.engine.name, __version__)

    def restore(self, pictures: Mapping[Path, bytes]) -> list[Outcome]:
        return list(restore_pictures([*pictures], lambda one: self._prepared(one, pictures[one]), self._asked))


class _Call(NamedTuple):
    """A call that a worker has not answered; of no pictures while it loads."""

    worker: Any
    sources: Sequence[Path]


class Cluster:
    """Workers on the cluster at `address`; a context manager that ends them.

    address: "auto" (the cluster that runs on this machine), HOST:PORT of one that this machine is a node of, or "local"
    (one made of this machine, for this job). workers: how many; None fills the GPUs where there are any and
    `backend` may use them, else the CPUs, each worker with as many as the smallest node has. on_loss: told in a
    sentence when a worker dies.

    Raises MissingExtra, InputError or BackendError.
    """

    def __init__(
        self,
        address: str,
        plan: Plan,
        asked: Asked,
        backend: str = "auto",
        workers: int | None = None,
        on_loss: Callable[[str], object] = lambda sentence: None,
    ):
        self._asked, self._backend, self._on_loss = asked, backend, on_loss
        self._ray = _connect(address)
        self._calls: dict[Any, _Call] = {}
        self._idle: list[Any] = []
        self._engine: str | None = None
        self._stillborn = 0
        try:
            self.workers, self.share = shares(
                [node["Resources"] for node in self._ray.nodes() if node["Alive"]], backend, workers
            )
            self._hire_one = self._ray.remote(Worker).options(num_cpus=self.share.cpus, num_gpus=self.share.gpus).remote
            members = {name: np.frombuffer(plan.member(name), np.uint8) for name in plan.members}
            self._plan = self._ray.put((plan.manifest, members, plan.source))
        except BaseException:
            self._ray.shutdown()
            raise

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in [*self._idle, *(call.worker for call in self._calls.values())]:
            self._end(worker)
        self._ray.shutdown()

    def restore(self, sources: Sequence[Path]) -> Iterator[Outcome]:
        """Every picture once, in the order in which they are done, each as one process would restore it.

        A picture whose worker dies goes to another one, alone, TRIES times in all; then it is Failed.
        """
        size = min(together(self._asked.samples), -(-len(sources) // (self.workers * ROUNDS)))
        due = deque(sources[first : first + size] for first in range(0, len(sources), size or 1))
        deaths: Counter[Path] = Counter()
        for _ in range(min(self.workers, len(due))):
            self._hire()
        while due or any(call.sources for call in self._calls.values()):
            while due and self._idle:
                yield from self._give(due.popleft())
            if not self._calls:
                continue
            (answered,), _ = self._ray.wait([*self._calls], num_returns=1)
            call = self._calls.pop(answered)
            try:
                answer = self._ray.get(answered)
            except self._ray.exceptions.RayTaskError as error:
                raise BackendError(f"a worker failed: {_said(error)}") from error
            except self._ray.exceptions.RayError as error:
                self._end(call.worker)
                yield from self._lost(call, error, due, deaths)
            else:
                self._idle.append(call.worker)
                if call.sources:
                    yield from answer
                else:
                    self._check(answer)

    def _hire(self) -> None:
        worker = self._hire_one()
        self._calls[worker.load.remote(self._plan, self._backend, self._asked, self.share)] = _Call(worker, ())

    def _give(self, sources: Sequence[Path]) -> Iterator[Failed]:
        """A portion to a worker that has nothing to do; what cannot be read comes back."""
        pictures = {}
        for source in sources:
            try:
                pictures[source] = read_bytes(source)
            except InputError as error:
                yield Failed(source, str(error))
        if pictures:
            worker = self._idle.pop()
            self._calls[worker.restore.remote(pictures)] = _Call(worker, [*pictures])

    def _lost(
        self, call: _Call, error: Exception, due: deque[Sequence[Path]], deaths: Counter[Path]
    ) -> Iterator[Failed]:
        """What a dead worker had goes to the front, one by one; another worker takes its place."""
        deaths.update(call.sources)
        failed = [source for source in call.sources if deaths[source] == TRIES]
        again = [source for source in call.sources if source not in failed]
        due.extendleft([source] for source in reversed(again))
        self._stillborn = 0 if call.sources else self._stillborn + 1
        if self._stillborn == TRIES:
            raise BackendError(
                f"{TRIES} workers in a row died as they started; has every node frugal-rt {__version__}, and memory? "
                f"{_said(error)}"
            )
        self._on_loss(f"a worker died; another takes its place, for {len(again)} pictures: {_said(error)}")
        why = f"its worker died {TRIES} times, for want of memory perhaps: {_said(error)}"
        yield from (Failed(source, why) for source in failed)
        if due:
            self._hire()

    def _check(self, answer: Started | str) -> None:
        """Raises BackendError unless the worker runs what the others run."""
        self._stillborn = 0
        if isinstance(answer, str):
            raise BackendError(f"a worker could not start: {answer}")
        if answer.version != __version__:
            raise BackendError(f"a worker has frugal-rt {answer.version} and this is {__version__}; make them equal")
        if self._engine not in (None, answer.engine):
            raise BackendError(f"workers run {self._engine} and {answer.engine}; name one with --backend")
        self._engine = answer.engine

    def _end(self, worker: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):  # it has ended by itself
            self._ray.kill(worker)


def shares(nodes: Sequence[Mapping[str, float]], backend: str, workers: int | None) -> tuple[int, Share]:
    """How many workers, and what each reserves, on nodes of so many "CPU" and "GPU".

    Raises InputError for more workers than fit, BackendError where none does.
    """
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    gpus = [int(node.get("GPU", 0)) for node in nodes]
    if backend == "cuda" and not any(gpus):
        raise BackendError("the cluster has no GPU; leave out --backend cuda, or add a node that has one")
    on_gpus = backend in ("auto", "cuda", "torch") and any(gpus)

    def room(each: int) -> int:
        """How many workers of `each` CPUs the nodes hold."""
        return sum(min(n // each, g if on_gpus else n) for n, g in zip(cpus, gpus, strict=True))

    most = room(1)
    if not most:
        raise BackendError("the cluster has no CPU to give; start its nodes with --num-cpus 1 or more")
    if workers is None:
        workers = most if on_gpus else room(min(n for n in cpus if n))
    if workers > most:
        unit = "GPU" if on_gpus else "CPU"
        raise InputError(f"--workers {workers}: the cluster has room for {most}, a {unit} each")
    return workers, Share(max(n for n in range(1, max(cpus) + 1) if room(n) >= workers), int(on_gpus))


def _connect(address: str) -> Any:
    """The ray module, connected. Raises MissingExtra or InputError."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("Running on a cluster", "ray", "ray") from error
    _refuse_silence(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster made for this job reports to nobody
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        quiet["include_dashboard"] = False
    try:
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError, AssertionError, SystemExit) as error:
        if address == "auto" and isinstance(error, ConnectionError):
            raise InputError("no Ray cluster runs on this machine; name its address, or say --ray local") from error
        raise InputError(
            f"cannot join a Ray cluster at {address}: {_said(error)}; one that asks for a token takes it where "
            "RAY_AUTH_MODE=token is set"
        ) from error
    return ray


def _refuse_silence(address: str) -> None:
    """Ask at HOST:PORT first: Ray waits for minutes, and then ends the process. Raises InputError."""
    host, _, port = address.rpartition(":")
    if address in ("auto", "local"):
        return
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise InputError(f"a cluster's address is auto, local or HOST:PORT; got {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except OSError as error:
        raise InputError(f"no Ray cluster answers at {address}: {error.strerror or error}") from error


def _said(error: BaseException) -> str:
    """The first sentence of an error's last line, where Ray says what happened; pages on why it may have follow."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].partition(". ")[0] if lines else "it gives no reason"

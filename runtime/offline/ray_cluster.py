"""Restoration of a folder on a Ray cluster, by workers with an engine each.

The driver reads the pictures, sends them as bytes and writes the results. A worker needs frugal-rt, and not the
driver's disk. The plan's members lie once in the memory of each node; workers use them in place, after checking their
SHA-256.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...engines import NEED_GPU, ON_CPU, BackendError, InputError, MissingExtra, Plan, parse_backend
from ...engines.machine import THREADS
from ...engines.version import __version__
from . import spread
from .folder import Order
from .spread import Died, Spread

PATIENCE = 5.0
"""Seconds within which an address must answer."""


class Share(NamedTuple):
    """CPUs and GPUs that each worker reserves."""

    cpus: int
    gpus: int


class Worker(spread.Worker):
    """The worker in a process of the cluster."""

    def load_members(
        self,
        plan: tuple[dict[str, Any], dict[str, np.ndarray], str],
        backend: str,
        trust_engines: bool,
        order: Order,
        share: Share,
    ) -> spread.Started | str:
        os.environ[THREADS] = str(max(1, share.cpus))
        manifest, members, source = plan
        here = Plan(manifest, {name: data.data for name, data in members.items()}, source)
        return self.load(lambda: here, backend, trust_engines, order)


class Cluster(Spread):
    """Workers on the cluster at `address`; a context manager that ends them.

    address: "auto" (the cluster running on this machine), HOST:PORT of a cluster of which this machine is a node, or
    "local" (a cluster of this machine for this job). workers: their number; None: one for each GPU where there are
    any and `backend` may use them, otherwise as many as fit with the CPUs of the smallest node each. on_loss: called
    with a sentence when a worker dies.

    Raises MissingExtra, InputError or BackendError.
    """

    tries = 3
    needs = f"has every node frugal-rt {__version__}, and memory?"

    def __init__(
        self,
        address: str,
        plan: Plan,
        order: Order,
        backend: str = "auto",
        workers: int | None = None,
        on_loss: Callable[[str], object] = lambda sentence: None,
        *,
        trust_engines: bool = False,
    ):
        self._backend, self._trust = backend, trust_engines
        self._ray = _connect(address)
        try:
            count, self.share = shares(
                [node["Resources"] for node in self._ray.nodes() if node["Alive"]], backend, workers
            )
            super().__init__(count, order, on_loss)
            self._hire_one = self._ray.remote(Worker).options(num_cpus=self.share.cpus, num_gpus=self.share.gpus).remote
            members = {name: np.frombuffer(plan.member(name), np.uint8) for name in plan.members}
            self._plan = self._ray.put((plan.manifest, members, plan.source))
        except BaseException:
            self._ray.shutdown()
            raise

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._ray.shutdown()

    def _start(self) -> tuple[Any, Any]:
        worker = self._hire_one()
        return worker, worker.load_members.remote(self._plan, self._backend, self._trust, self._order, self.share)

    def _ask(self, worker: Any, pictures: Mapping[Path, bytes]) -> Any:
        return worker.restore.remote(pictures)

    def _answered(self, calls: Sequence[Any]) -> Any:
        (answered,), _ = self._ray.wait([*calls], num_returns=1)
        return answered

    def _answer(self, call: Any) -> Any:
        try:
            return self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:
            raise BackendError(f"a worker failed: {_said(error)}") from error
        except self._ray.exceptions.RayError as error:
            raise Died(_said(error)) from error

    def _end(self, worker: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):  # it has already ended
            self._ray.kill(worker)


def shares(nodes: Sequence[Mapping[str, float]], backend: str, workers: int | None) -> tuple[int, Share]:
    """Return the number of workers and the share of each, on nodes with so many "CPU" and "GPU".

    Raises InputError for more workers than fit, BackendError where none fits.
    """
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    gpus = [int(node.get("GPU", 0)) for node in nodes]
    name, _ = parse_backend(backend)
    if name in NEED_GPU and not any(gpus):
        raise BackendError(f"the cluster has no GPU; leave out --backend {name}, or add a node that has one")
    on_gpus = name not in ON_CPU and any(gpus)

    def room(each: int) -> int:
        """Return how many workers of `each` CPUs fit on the nodes."""
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
    """Import ray and connect to the cluster. Raises MissingExtra or InputError."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("Running on a cluster", "ray", "ray") from error
    _refuse_silence(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster made for this job sends no usage statistics
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
    """Raise InputError where nothing answers at HOST:PORT; Ray would wait for minutes and then end the process."""
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
    """Return the first sentence of the last line of Ray's error, which says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].partition(". ")[0] if lines else "it gives no reason"

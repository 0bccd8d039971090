"""Restoration of a folder on the GPUs of this machine: a process for each GPU, which sees no other."""

import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import SimpleQueue
from subprocess import Popen
from typing import Any, NamedTuple

from ...engines import BackendError, FrugalError, InputError, Plan, PlanError, nvidia, open_plan
from ...engines.machine import THREADS, cores
from ..process import how_it_ended, launch, overwritten
from .folder import Order, Outcome
from .spread import Died, Spread, Worker


def gpus_named(text: str) -> list[str]:
    """Parse "0,1"; return each device's $CUDA_VISIBLE_DEVICES for a process of its own.

    Numbers are those that this process sees. Raises InputError where `text` is no such list or names a missing device,
    BackendError where there is no GPU.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len({int(part) for part in parts}) < len(parts):
        raise InputError(f"--devices takes numbers of CUDA devices, each once, such as 0,1; got {text!r}")
    missing = nvidia.trouble()
    if missing is not None:
        raise BackendError(f"--devices needs NVIDIA GPUs: {missing}")
    there = len(nvidia.devices())
    numbers = [int(part) for part in parts]
    for number in numbers:
        if number >= there:
            shown = "only device 0" if there == 1 else f"devices 0 to {there - 1}"
            raise InputError(f"--devices {text}: there is no device {number}; the NVIDIA driver shows {shown}")
    return [nvidia.visible(number) for number in numbers]


class Load(NamedTuple):
    """The first message to a process: load the plan."""

    plan: Path
    manifest: dict[str, Any]
    """The manifest that the plan's file must have."""
    backend: str
    trust_engines: bool
    order: Order

    def opened(self) -> Plan:
        plan = open_plan(self.plan)
        if plan.manifest != self.manifest:
            raise PlanError(f"{self.plan.name} has been replaced by another plan since this began")
        return plan


class _Process(NamedTuple):
    process: "Popen[bytes]"
    connection: Connection
    device: str


class Devices(Spread):
    """Worker processes, one for each device; a context manager that ends them.

    plan: path of the plan, which every process opens. devices: $CUDA_VISIBLE_DEVICES of each process; processes divide
    the cores. on_loss: called with a sentence when a process dies. Processes end with this one, even if it is killed.

    Raises PlanError.
    """

    tries = 2
    needs = "is there memory enough, the GPU's and the machine's?"

    def __init__(
        self,
        plan: Path,
        order: Order,
        backend: str,
        devices: Sequence[str],
        on_loss: Callable[[str], object] = lambda sentence: None,
        *,
        trust_engines: bool = False,
    ):
        super().__init__(len(devices), order, on_loss)
        self._load = Load(plan, open_plan(plan).manifest, backend, trust_engines, order)
        self._free = [*devices]
        self._threads = str(max(1, cores() // len(devices)))

    def _start(self) -> tuple[_Process, _Process]:
        device = self._free.pop(0)
        worker = _Process(*launch(__name__, {nvidia.VISIBLE: device, THREADS: self._threads}), device)
        self._send(worker, self._load)
        return worker, worker  # it answers one call at a time, so the worker identifies the call

    def _ask(self, worker: _Process, pictures: Mapping[Path, bytes]) -> _Process:
        self._send(worker, pictures)
        return worker

    def _send(self, worker: _Process, message: object) -> None:
        with contextlib.suppress(OSError):  # it has died, which `_answered` finds
            worker.connection.send(message)

    def _answered(self, calls: Sequence[_Process]) -> _Process:
        ready = wait([call.connection for call in calls])
        return next(call for call in calls if call.connection in ready)

    def _answer(self, call: _Process) -> Any:
        try:
            answer = call.connection.recv()
        except (EOFError, OSError):
            raise Died(
                f"the one on device {call.device} ended with {overwritten(how_it_ended(call.process))}"
            ) from None
        if isinstance(answer, FrugalError):
            raise answer
        return answer

    def _end(self, worker: _Process) -> None:
        worker.connection.close()
        worker.process.kill()
        worker.process.wait()
        self._free.append(worker.device)


def main(connection: Connection) -> None:
    """Answer the calls of `Devices` until it closes the connection."""
    inbox: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_receive, args=(connection, inbox), daemon=True).start()
    worker, load = Worker(), inbox.get()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.send(worker.load(load.opened, load.backend, load.trust_engines, load.order))
        while True:
            connection.send(_restored(worker, inbox.get()))
    os._exit(0)


def _receive(connection: Connection, inbox: "SimpleQueue[Any]") -> None:
    """Put messages into the inbox; end the process when the connection closes, even during a restoration."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            inbox.put(connection.recv())
    os._exit(0)


def _restored(worker: Worker, pictures: Mapping[Path, bytes]) -> list[Outcome] | FrugalError:
    try:
        return worker.restore(pictures)
    except FrugalError as error:
        return error
    except Exception as error:  # noqa: BLE001 (a backend may raise anything; the parent process reports it)
        return BackendError(f"a worker failed: {error!r}")

"""Torch's memory for an engine's state: the host's, or a CUDA device's, whose work is one ordered queue of launches."""

import contextlib
import functools
import gc
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakSet

import numpy as np

from .. import machine
from ..array_api import Array
from ..base import Closable, Room
from ..errors import BackendError
from ..extras import import_torch

logger = logging.getLogger(__name__)
Tensor = Any  # torch.Tensor, where torch may be missing
WARM = 2
"""Times that work runs before it is recorded: the first pays for plans, workspaces and memory."""
UNDERWAY = 2
"""Calls that the host may be ahead of the device: as many as keep it busy, and no more than a cancelled job wastes."""
GRAIN = 64
"""Pixels that sides are rounded up to a multiple of, where each size is recorded or compiled anew."""
launching = threading.RLock()
"""Held while a library is given the addresses of a call, and while work is recorded: CUDA records one graph at a time
in a process, and an execution context is one call's."""


@functools.cache
def streams(torch: Any) -> tuple[Any, Any, Any]:
    """The process's streams beside torch's own: of libraries that want another than the default, of what is recorded,
    of uploads. Torch hands the same ones out again after a few dozen, so they are taken once; the second is of the
    other pool, so that no upload lands in a recording."""
    return torch.cuda.Stream(), torch.cuda.Stream(priority=-1), torch.cuda.Stream()


class TorchArrays:
    """Float32 torch tensors on `device`, "cpu" or "cuda". Raises MissingExtra, or BackendError without CUDA."""

    def __init__(self, what: str, device: str):
        self.torch = import_torch(what)
        if device == "cuda" and not self.torch.cuda.is_available():
            raise BackendError("torch sees no CUDA device here; run: frugal-rt doctor")
        self.device = device
        self.can_capture = device == "cuda"
        self.throttled_seconds = 0.0
        """Seconds that the host has waited in `throttle`."""
        self._underway: deque[Any] = deque()
        if self.can_capture:
            self._beside, self._recorder, self._uploads = streams(self.torch)
            self._pool: Any = None
            """Memory that recordings share."""
            self._recordings: WeakSet[Any] = WeakSet()
            self._replayed_on: Any = None

    def room(self, grain: int) -> Room:
        """Return `Engine.room`, with `grain` where something is made for each size."""
        if self.device == "cpu":
            return Room(machine.memory(), grain)
        return Room(self.torch.cuda.mem_get_info()[1], grain)

    def asarray(self, x: Any) -> Tensor:
        return self.torch.as_tensor(x, dtype=self.torch.float32, device=self.device)

    def upload(self, array: np.ndarray) -> Callable[[], Array]:
        """`Engine.upload`: through pinned memory, on a stream of its own; the reader's stream waits for it."""
        torch = self.torch
        if self.device == "cpu":
            ready = self.asarray(array)
            return lambda: ready
        with torch.cuda.stream(self._uploads):
            pinned = torch.from_numpy(np.ascontiguousarray(array, np.float32)).pin_memory()
            tensor = pinned.to("cuda", non_blocking=True)
            done = self._uploads.record_event()

        def wait() -> Tensor:
            here = torch.cuda.current_stream()
            here.wait_event(done)
            tensor.record_stream(here)
            return tensor

        return wait

    def throttle(self) -> None:
        """Throttle as `Engine.throttle`."""
        if self.device == "cpu":
            return
        self._underway.append(self.torch.cuda.current_stream().record_event())
        if len(self._underway) > UNDERWAY:
            started = time.perf_counter()
            self._underway.popleft().synchronize()
            self.throttled_seconds += time.perf_counter() - started

    def capture(self, work: Callable[[], None]) -> Callable[[], None] | None:
        """Capture a CUDA graph as `Engine.capture`. After a failure, but for memory, nothing is captured any more."""
        torch = self.torch
        if not self.can_capture:
            return None
        here = torch.cuda.current_stream()
        graph = torch.cuda.CUDAGraph()
        with launching:
            others = [*self._recordings]  # the last that goes takes the memory along
            if not others:
                self._pool = torch.cuda.graph_pool_handle()
            try:
                torch.cuda.synchronize()  # what is replayed on other streams works in the same memory
                with torch.cuda.stream(self._recorder):
                    for _ in range(WARM):
                        work()
                    torch.cuda.synchronize()
                    gc.collect()  # a tensor or a graph that Python frees during a capture breaks it
                    torch.cuda.empty_cache()  # a recording cannot use what the warm runs leave
                    self._capture(graph, work)
            except (RuntimeError, BackendError) as error:
                logger.warning("steps cannot be recorded as CUDA graphs, and are launched piece by piece: %s", error)
                if any(isinstance(one, torch.OutOfMemoryError) for one in (error, error.__cause__)):
                    return None  # of so many rows; fewer may be
                self.can_capture = False
                with contextlib.suppress(Exception):  # torch 2.13 forgets it where a capture ends badly
                    torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)
                return None
            self._recordings.add(graph)
        here.wait_stream(self._recorder)
        return lambda: self._replay(graph)

    def _capture(self, graph: Any, work: Callable[[], None]) -> None:
        """Capture `work` into `graph`. Raises the error of `work`, whose context is the error of the capture's end."""
        # Other threads upload noise meanwhile, which a capture of this thread alone lets them.
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            work()
        except BaseException as first:
            try:
                graph.capture_end()
            except RuntimeError as second:  # it says only that the capture is broken, not by what
                first.__context__, second.__context__ = second, first.__context__
            raise
        graph.capture_end()

    def _replay(self, graph: Any) -> None:
        """After what was replayed before, whatever stream that went to: recordings share their memory."""
        here = self.torch.cuda.current_stream()
        with launching:
            if self._replayed_on not in (None, here):
                here.wait_stream(self._replayed_on)
            self._replayed_on = here
            graph.replay()

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """Around the end of an engine: the device is done with its calls before, and has its memory back after."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()
            for graph in [*self._recordings]:
                graph.reset()
        yield
        if self.device == "cuda":
            self.torch.cuda.empty_cache()

    @contextlib.contextmanager
    def memory(self) -> Iterator[None]:
        """Raises BackendError where the device has no memory left for what is done in it."""
        try:
            yield
        except self.torch.OutOfMemoryError as error:
            raise BackendError(
                "the GPU has too little memory for this call; take a smaller --batch, or see what else runs on it"
            ) from error

    @contextlib.contextmanager
    def queue(self, *, beside: bool = False) -> Iterator[Any]:
        """The stream that a call of another library goes to, ordered with torch's current one; no other call begins.

        That is the current one itself, unless it is the default stream, where TensorRT would wait for the device; or
        always the first of `streams`, `beside`, for a library that knows but one.
        """
        here = self.torch.cuda.current_stream()
        with launching:
            if not beside and here != self.torch.cuda.default_stream():
                yield here
                return
            self._beside.wait_stream(here)
            try:
                yield self._beside
            finally:
                here.wait_stream(self._beside)


class OnTorch(Closable):
    """Base of engines whose state lives in torch's arrays.

    They have the arrays and are not them: what is recorded holds an `upload`, and would hold the engine.
    """

    def __init__(self, arrays: TorchArrays):
        self._arrays = arrays
        self.asarray, self.upload = arrays.asarray, arrays.upload
        self.capture, self.throttle = arrays.capture, arrays.throttle

    def close(self) -> None:
        if not self._closed:
            with self._arrays.closing():
                super().close()

    @property
    def can_capture(self) -> bool:
        return self._arrays.can_capture

    @property
    def throttled_seconds(self) -> float:
        return self._arrays.throttled_seconds

    @property
    def room(self) -> Room:
        return self._arrays.room(GRAIN if self.can_capture else 1)


def like(result: Tensor, given: Array) -> Array:
    """A torch result in the memory order of an image batch, as numpy where that was given."""
    result = result.contiguous()
    array: Array = result.cpu().numpy() if isinstance(given, np.ndarray) else result
    return array

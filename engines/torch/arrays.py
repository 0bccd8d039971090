"""Torch arrays for an engine's state, on the host or on a CUDA device, where all calls are ordered by streams."""

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
Tensor = Any  # torch.Tensor; torch may not be installed
WARM = 2
"""Times that work runs before it is captured; the first run allocates workspaces and memory."""
UNDERWAY = 2
"""The most calls that the host may be ahead of the device: enough to keep it busy, and few to waste after a cancel."""
GRAIN = 64
"""The multiple in pixels to which sides are rounded up, where each size is captured or compiled anew."""
launching = threading.RLock()
"""Lock held while a library gets the addresses of a call, and while work is captured: CUDA captures one graph at a time
in a process, and an execution context serves one call."""


@functools.cache
def streams(torch: Any) -> tuple[Any, Any, Any]:
    """Return the process's streams beside torch's own: for libraries, for captures, and for uploads.

    Torch reuses its streams after a few dozen, so they are taken once. The second is of another priority pool, so that
    no upload can land in a capture.
    """
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
        """Total seconds that the host has waited in `throttle`."""
        self._underway: deque[Any] = deque()
        if self.can_capture:
            self._beside, self._capturing, self._uploads = streams(self.torch)
            self._pool: Any = None
            """Memory pool that captured graphs share."""
            self._graphs: WeakSet[Any] = WeakSet()
            self._replayed_on: Any = None

    def room(self, grain: int) -> Room:
        """Return `Engine.room`; `grain` applies where something is made for each size."""
        if self.device == "cpu":
            return Room(machine.memory(), grain)
        return Room(self.torch.cuda.mem_get_info()[1], grain)

    def asarray(self, x: Any) -> Tensor:
        return self.torch.as_tensor(x, dtype=self.torch.float32, device=self.device)

    def upload(self, array: np.ndarray) -> Callable[[], Array]:
        """Upload as `Engine.upload`: through pinned memory, on a stream of its own; the reader's stream waits."""
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
        """Wait as `Engine.throttle`."""
        if self.device == "cpu":
            return
        self._underway.append(self.torch.cuda.current_stream().record_event())
        if len(self._underway) > UNDERWAY:
            started = time.perf_counter()
            self._underway.popleft().synchronize()
            self.throttled_seconds += time.perf_counter() - started

    def capture(self, work: Callable[[], None]) -> Callable[[], None] | None:
        """Capture a CUDA graph as `Engine.capture`.

        After a failure other than of memory, nothing is captured any more.
        """
        torch = self.torch
        if not self.can_capture:
            return None
        here = torch.cuda.current_stream()
        graph = torch.cuda.CUDAGraph()
        with launching:
            others = [*self._graphs]  # keep them: freeing the last graph frees the pool
            if not others:
                self._pool = torch.cuda.graph_pool_handle()
            try:
                torch.cuda.synchronize()  # graphs that replay on other streams use the same memory
                with torch.cuda.stream(self._capturing):
                    for _ in range(WARM):
                        work()
                    torch.cuda.synchronize()
                    gc.collect()  # freeing a tensor or a graph during a capture would break it
                    torch.cuda.empty_cache()  # a capture cannot use memory cached by the warm runs
                    self._capture(graph, work)
            except (RuntimeError, BackendError) as error:
                logger.warning("steps cannot be captured as CUDA graphs, and are launched piece by piece: %s", error)
                if any(isinstance(one, torch.OutOfMemoryError) for one in (error, error.__cause__)):
                    return None  # not with so many rows; fewer may fit
                self.can_capture = False
                with contextlib.suppress(Exception):  # torch 2.13 leaves it out where a capture fails
                    torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)
                return None
            self._graphs.add(graph)
        here.wait_stream(self._capturing)
        return lambda: self._replay(graph)

    def _capture(self, graph: Any, work: Callable[[], None]) -> None:
        """Capture `work` into `graph`. Raises the error of `work`, whose context is the error of the capture's end."""
        # Other threads upload noise meanwhile, which is allowed where the capture is of this thread alone.
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            work()
        except BaseException as first:
            try:
                graph.capture_end()
            except RuntimeError as second:  # it says that the capture is broken, but not why
                first.__context__, second.__context__ = second, first.__context__
            raise
        graph.capture_end()

    def _replay(self, graph: Any) -> None:
        """Replay a graph after the last one replayed on any stream, as graphs share their memory."""
        here = self.torch.cuda.current_stream()
        with launching:
            if self._replayed_on not in (None, here):
                here.wait_stream(self._replayed_on)
            self._replayed_on = here
            graph.replay()

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """Enclose the end of an engine: wait for the device's calls before, free its memory after."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()
            for graph in [*self._graphs]:
                graph.reset()
        yield
        if self.device == "cuda":
            self.torch.cuda.empty_cache()

    @contextlib.contextmanager
    def memory(self) -> Iterator[None]:
        """Raise BackendError where the device runs out of memory in the block."""
        try:
            yield
        except self.torch.OutOfMemoryError as error:
            raise BackendError(
                "the GPU has too little memory for this call; take a smaller --batch, or see what else runs on it"
            ) from error

    @contextlib.contextmanager
    def queue(self, *, beside: bool = False) -> Iterator[Any]:
        """Yield the stream for a call of another library, ordered with torch's current stream; no other call begins.

        It is the current stream itself, unless that is the default stream, on which TensorRT would synchronise. With
        `beside` it is always the first of `streams`, for a library that uses a single stream.
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

    Engines have the arrays and do not derive from them: captured steps refer to `upload`, and would keep the engine
    alive.
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
    """Return a torch result contiguous as an image batch, as numpy where `given` is numpy."""
    result = result.contiguous()
    array: Array = result.cpu().numpy() if isinstance(given, np.ndarray) else result
    return array

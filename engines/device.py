"""Where torch keeps an engine's state: host memory, or a CUDA device, whose work is one ordered queue of launches."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np

from .base import Array
from .errors import BackendError
from .network import import_torch

logger = logging.getLogger(__name__)
WARM = 2
"""Times that work runs before it is recorded: the first pays for plans, workspaces and memory."""


class TorchArrays:
    """Float32 torch tensors on `device`, "cpu" or "cuda". Raises MissingExtra, or BackendError without CUDA."""

    def __init__(self, what: str, device: str):
        self.torch = import_torch(what)
        if device == "cuda" and not self.torch.cuda.is_available():
            raise BackendError("torch sees no CUDA device here; run: frugal-rt doctor")
        self.device = device
        self.records = device == "cuda"
        self._local = threading.local()

    def asarray(self, x: Any) -> Array:
        return self.torch.as_tensor(x, dtype=self.torch.float32, device=self.device)

    def ahead(self, array: np.ndarray) -> Callable[[], Array]:
        """As `Engine.ahead`: copied through pinned memory on a stream of its own, which the reader's waits for."""
        torch = self.torch
        if self.device == "cpu":
            ready = self.asarray(array)
            return lambda: ready
        with torch.cuda.stream(self._uploads):
            pinned = torch.from_numpy(np.ascontiguousarray(array, np.float32)).pin_memory()
            tensor = pinned.to("cuda", non_blocking=True)
            done = self._uploads.record_event()

        def wait() -> Array:
            here = torch.cuda.current_stream()
            here.wait_event(done)
            tensor.record_stream(here)
            return tensor

        return wait

    def record(self, work: Callable[[], None]) -> Callable[[], None] | None:
        """As `Engine.record`: a CUDA graph."""
        torch = self.torch
        if not self.records:
            return None
        try:
            here = torch.cuda.current_stream()
            self._recorder.wait_stream(here)
            with torch.cuda.stream(self._recorder):
                for _ in range(WARM):
                    work()
            here.wait_stream(self._recorder)
            graph = torch.cuda.CUDAGraph()
            # Other threads upload noise meanwhile, which a capture of this thread alone lets them.
            with torch.cuda.graph(graph, stream=self._recorder, capture_error_mode="thread_local"):
                work()
        except RuntimeError as error:
            logger.warning("a step cannot be recorded as a CUDA graph, and is launched piece by piece: %s", error)
            return None
        replay: Callable[[], None] = graph.replay
        return replay

    @contextmanager
    def queue(self) -> Iterator[Any]:
        """The stream that a call of another library goes to, ordered with torch's current one.

        That is the current one itself, unless it is the default stream: there TensorRT would wait for the device.
        """
        torch = self.torch
        here = torch.cuda.current_stream()
        if here != torch.cuda.default_stream():
            yield here
            return
        self._beside.wait_stream(here)
        yield self._beside
        here.wait_stream(self._beside)

    @cached_property
    def _recorder(self) -> Any:
        return self.torch.cuda.Stream()

    @cached_property
    def _beside(self) -> Any:
        return self.torch.cuda.Stream()

    @property
    def _uploads(self) -> Any:
        """A stream for each thread that uploads."""
        if not hasattr(self._local, "stream"):
            self._local.stream = self.torch.cuda.Stream()
        return self._local.stream


def like(result: Array, given: Array) -> Array:
    """A torch result in the memory order of an image batch, as numpy where that was given."""
    result = result.contiguous()
    return result.cpu().numpy() if isinstance(given, np.ndarray) else result

"""The plan's graphs in onnxruntime on a CUDA device. The state lives in torch tensors there, without torch in numpy."""

import contextlib
import functools
import sys
from typing import Any

import numpy as np

from .. import nvidia
from ..array_api import Array
from ..base import ANSWERS, Engine, Prediction, Pull
from ..errors import BackendError
from ..extras import installed
from ..plan import Plan
from ..shapes import sized
from ..torch.arrays import OnTorch, Tensor, TorchArrays, like, streams
from .engine import OnnxRuntimeEngine
from .sessions import Sessions, import_onnxruntime


def open_cuda(plan: Plan) -> Engine:
    """Open an engine on the GPU. Without torch its arrays are copied to and from the device at every call.

    Raises MissingExtra or BackendError.
    """
    ort = import_onnxruntime("cuda")
    missing = nvidia.trouble()
    if missing:
        raise BackendError(
            f"the cuda backend needs an NVIDIA GPU: {missing}; use --backend cpu, or run: frugal-rt doctor"
        )
    if not installed("torch"):
        with contextlib.redirect_stdout(sys.stderr):  # it prints the libraries that it does not find
            ort.preload_dlls()  # CUDA's libraries as installed by pip; torch loads its own
        return OnnxRuntimeEngine(plan, "cuda")
    return OnnxRuntimeCudaEngine(plan)


class OnnxRuntimeCudaEngine(OnTorch):
    """Forward calls and pullbacks by the plan's graphs, without copies to the host.

    onnxruntime launches its kernels on one stream of ours and does not synchronise with it; events keep them in order
    with torch's current stream.
    """

    def __init__(self, plan: Plan):
        super().__init__(TorchArrays("The cuda backend", "cuda"))
        self._stream, _, _ = streams(self._arrays.torch)
        self._sessions = Sessions(plan, "cuda")
        self._graphs = plan.manifest["graphs"]
        self._forward = self._open("forward")
        self._embeddings = self._arrays.asarray(self._sessions.embedding_table())
        self._options = self._sessions.ort.RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    @property
    def can_capture(self) -> bool:
        return False  # onnxruntime allocates and copies within a call

    @property
    def name(self) -> str:
        return "onnxruntime (cuda)"

    def prepare(self, gradients: bool, batch: int = 1) -> None:
        self.need_open()
        if gradients:
            _ = self._pullback

    def predict(self, x: Array, t: Array) -> Prediction:
        return self._answer(self._run(self._forward, "forward", ANSWERS, **self._inputs(x, t)), x)

    def pullback(self, x: Array, t: Array) -> tuple[Prediction, Pull]:
        inputs = self._inputs(x, t)
        found = self._run(self._forward, "forward", None, **inputs)

        def pull(cotangent: Array) -> Array:
            known = {**found, "embedding": inputs["embedding"], "v": self.asarray(cotangent)}
            wanted = {name: known[name] for name in self._graphs["pullback"]["inputs"]}
            return like(self._run(self._pullback, "pullback", None, **wanted)["gradient"], cotangent)

        return self._answer(found, x), pull

    @functools.cached_property
    def _pullback(self) -> Any:
        return self._open("pullback")

    def _open(self, graph: str) -> Any:
        stream = str(self._stream.cuda_stream)
        return self._sessions.open(
            graph,
            "cuda",
            user_compute_stream=stream,
            arena_extend_strategy="kSameAsRequested",  # torch allocates from the same memory
            use_tf32="0",  # fp32 in full precision
        )

    def _inputs(self, x: Array, t: Array) -> dict[str, Array]:
        steps = self._arrays.torch.as_tensor(t, dtype=self._arrays.torch.int64, device="cuda")
        return {"x": self.asarray(x), "embedding": self._embeddings[steps]}

    def _run(self, session: Any, graph: str, wanted: tuple[str, ...] | None, **inputs: Tensor) -> dict[str, Tensor]:
        """Return the graph's outputs, all or those `wanted`, for inputs on the device."""
        torch, binding = self._arrays.torch, session.io_binding()
        images = inputs["x" if graph == "forward" else "v"]
        size = len(images), *images.shape[2:]
        there = self._graphs[graph]["outputs"]
        inputs = {name: array.contiguous() for name, array in inputs.items()}
        with self._arrays.memory():
            found = {
                name: torch.empty(sized(shape, *size), dtype=torch.float32, device="cuda")
                for name, shape in there.items()
                if wanted is None or name in wanted
            }
        with self._arrays.queue(beside=True):
            self._launch(session, binding, inputs, found)
        return found

    def _launch(self, session: Any, binding: Any, inputs: dict[str, Tensor], found: dict[str, Tensor]) -> None:
        try:
            for arrays, bind in ((inputs, binding.bind_input), (found, binding.bind_output)):
                for name, array in arrays.items():
                    bind(name, "cuda", 0, np.float32, tuple(array.shape), array.data_ptr())
            session.run_with_iobinding(binding, self._options)
        except Exception as error:  # onnxruntime's errors share no base but Exception
            raise BackendError(f"onnxruntime failed in a call: {error}") from error

    @staticmethod
    def _answer(found: dict[str, Array], x: Array) -> Prediction:
        variance = found.get("variance")
        return Prediction(like(found["out"], x), None if variance is None else like(variance, x))


def cuda_is_usable() -> bool:
    """Return whether onnxruntime can compute on CUDA here."""
    if nvidia.trouble() is not None:
        return False
    try:
        import_onnxruntime("cuda")
    except BackendError:
        return False
    return True

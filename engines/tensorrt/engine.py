"""The plan's TensorRT engines on this machine's GPU, with the state in torch tensors on the device."""

import functools
import logging
from typing import Any

from .. import cache
from ..array_api import Array
from ..base import ANSWERS, Prediction, Pull, Room
from ..errors import BackendError
from ..onnxruntime.sessions import Sessions
from ..plan import Plan
from ..torch.arrays import GRAIN, OnTorch, Tensor, TorchArrays, like
from . import library, store
from .library import TensorRT

logger = logging.getLogger(__name__)
ALIGNMENT = 256
"""Bytes that device addresses given to TensorRT must be aligned to."""
TYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}
"""Torch's names of the element types, by TensorRT's."""


class TensorRTEngine(OnTorch):
    """Forward calls and pullbacks by engines that `frugal-rt build` made; numpy arrays are answered with numpy arrays.

    The forward engine writes the activations that the pullback engine reads; they stay on the device. A call of more
    rows than the engines were built for is split. Steps are captured as CUDA graphs where the plan is of one size: a
    captured execution context must not change its shapes.

    flavour: one of library.FLAVOURS. precision: one of base.PRECISIONS; None: the first that has an engine.
    trust: whether to load the plan's engines, which somebody else built. Raises MissingExtra, PlanError, or where no
    engine runs here BackendError, with the reason and the command that helps.
    """

    def __init__(self, plan: Plan, flavour: str, precision: str | None = None, *, trust: bool = False):
        rt = self._rt = library.load(flavour)
        device = rt.need_device()  # before any object of TensorRT is made
        here = store.Here.of(rt.name, rt.version, device)
        self._built = store.find(plan, here, precision, trust)
        super().__init__(TorchArrays(f"The {flavour} backend", "cuda"))
        self._predict = self._load("predict")
        self._embeddings = self._arrays.asarray(Sessions(plan, "cpu").embedding_table())

    @property
    def name(self) -> str:
        return f"{self._rt.name} {self._rt.version} (cuda, {self._built.record.precision})"

    @property
    def can_capture(self) -> bool:
        return super().can_capture and not self._built.record.sides

    @property
    def room(self) -> Room:
        return self._arrays.room(GRAIN)._replace(side=max(self._built.record.sides, default=None))

    def prepare(self, gradients: bool, batch: int = 1) -> None:
        self.need_open()
        if gradients:
            _ = self._forward, self._pullback

    def predict(self, x: Array, t: Array) -> Prediction:
        parts = [
            self._predict(x=rows, embedding=embedding)
            for rows, embedding in self._pieces(self.asarray(x), self._embedded(t))
        ]
        return self._answer(parts, x)

    def pullback(self, x: Array, t: Array) -> tuple[Prediction, Pull]:
        pieces = self._pieces(self.asarray(x), self._embedded(t))
        parts = [self._forward(x=rows, embedding=embedding) for rows, embedding in pieces]
        wanted = self._pullback.inputs

        def pull(cotangent: Array) -> Array:
            gradients = []
            for part, (_, embedding), (v,) in zip(parts, pieces, self._pieces(self.asarray(cotangent)), strict=True):
                known = {**part, "v": v, "embedding": embedding}
                gradients.append(self._pullback(**{name: known[name] for name in wanted})["gradient"])
            return like(self._joined(gradients), cotangent)

        return self._answer(parts, x), pull

    @functools.cached_property
    def _forward(self) -> "_Graph":
        return self._load("forward")

    @functools.cached_property
    def _pullback(self) -> "_Graph":
        return self._load("pullback")

    def _load(self, name: str) -> "_Graph":
        return _Graph(self._rt, self._arrays, self._built, name)

    def _embedded(self, t: Array) -> Tensor:
        torch = self._arrays.torch
        return self._embeddings[torch.as_tensor(t, dtype=torch.int64, device=self._arrays.device)]

    def _pieces(self, *arrays: Tensor) -> list[tuple[Tensor, ...]]:
        """Split arrays, the first of images, into pieces of as many rows as an engine takes. Raises BackendError."""
        images = arrays[0]
        height, width = images.shape[2:]
        most = self._built.record.most_rows(height, width)
        if not most:
            raise BackendError(
                f"the engines were built for sides of up to {self.room.side} pixels, and an image has {width}x{height}"
            )
        starts = range(0, len(images), most)
        return [tuple(_aligned(array[i : i + most].contiguous()) for array in arrays) for i in starts]

    def _joined(self, parts: list[Array]) -> Array:
        return parts[0] if len(parts) == 1 else self._arrays.torch.cat(parts)

    def _answer(self, parts: list[dict[str, Array]], x: Array) -> Prediction:
        found = {name: like(self._joined([part[name] for part in parts]), x) for name in ANSWERS if name in parts[0]}
        return Prediction(found["out"], found.get("variance"))


def _aligned(array: Tensor) -> Tensor:
    """Return the array, copied where its address is not a multiple of ALIGNMENT, as a view's may be."""
    return array if array.data_ptr() % ALIGNMENT == 0 else array.clone()


class _Graph:
    """An engine and its execution contexts by stream, as two calls must not share a context.

    A context serves one batch size, so that its shapes never change and it can be captured. For images of any size it
    serves one profile.
    """

    def __init__(self, rt: TensorRT, arrays: TorchArrays, built: store.Built, name: str):
        self._rt, self._arrays, self._name = rt, arrays, name
        self._record = built.record
        self._engine = rt.need(rt.runtime.deserialize_cuda_engine(built.read(name)), f"load the {name} engine")
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        reads = {one: self._engine.get_tensor_mode(one) == rt.trt.TensorIOMode.INPUT for one in names}
        self.inputs = [one for one in names if reads[one]]
        self.outputs = [one for one in names if not reads[one]]
        self._types = {one: self._type(one) for one in names}
        self._contexts: dict[tuple[int, int], Any] = {}
        self._shapes: dict[tuple[int, int], dict[str, tuple[int, ...]]] = {}
        """Shapes of each context's inputs."""
        self._new: set[tuple[int, int]] = set()
        """Keys of contexts that have not run yet."""
        # Named by the engine's hash: a plan's engine may carry the same record as one of the user's own.
        sha256, eager = built.record.files[name]["sha256"], not self._record.sides
        self._kernels = _Kernels(rt, self._engine, sha256, eager) if rt.flavour.blind else None

    def __call__(self, **arrays: Array) -> dict[str, Array]:
        """Return the outputs for these inputs, on the device, ordered with torch's current stream."""
        torch = self._arrays.torch
        with self._arrays.memory(), self._arrays.queue() as stream:
            key, context = self._context(arrays, stream)
            found = {
                name: torch.empty(
                    tuple(context.get_tensor_shape(name)), dtype=self._types[name], device=self._arrays.device
                )
                for name in self.outputs
            }
            for name, array in {**arrays, **found}.items():
                if array.dtype != self._types[name]:
                    raise BackendError(f"the {self._name} engine has {name} in {self._types[name]}; got {array.dtype}")
                self._need(context.set_tensor_address(name, array.data_ptr()), f"take {name}")
            self._need(context.execute_async_v3(stream.cuda_stream), "run")
            if key in self._new:
                self._new.discard(key)
                stream.synchronize()
                if self._kernels is not None:
                    self._kernels.keep()
        return found

    def _context(self, arrays: dict[str, Array], stream: Any) -> tuple[tuple[int, int], Any]:
        """Return the key and the context for a call of these inputs."""
        images = arrays["x" if "x" in arrays else "v"]
        rows, _, height, width = images.shape
        profile = self._record.profile(rows, height, width)
        key = profile if self._record.sides else rows, stream.cuda_stream
        shapes = {name: tuple(arrays[name].shape) for name in self.inputs}
        if key not in self._contexts:
            context = self._need(self._made_context(), "make a context")
            self._need(context.set_optimization_profile_async(profile, stream.cuda_stream), "choose a profile")
            self._contexts[key], self._shapes[key] = context, {}
            self._new.add(key)
        context = self._contexts[key]
        if self._shapes[key] != shapes:
            for name, shape in shapes.items():
                self._need(context.set_input_shape(name, shape), f"take {name} of shape {shape}")
            self._shapes[key] = shapes
            stream.synchronize()
        return key, context

    def _made_context(self) -> Any:
        trt = self._rt.trt
        # Memory for the context's own profile, not for the largest one.
        strategy = trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        if self._kernels is None:
            return self._engine.create_execution_context(strategy)
        self._kernels.settings.set_execution_context_allocation_strategy(strategy)
        return self._engine.create_execution_context(self._kernels.settings)

    def _type(self, name: str) -> Any:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in TYPES:
            raise BackendError(f"the {self._name} engine has {name} in {kind}, which frugal-rt builds none with")
        return getattr(self._arrays.torch, TYPES[kind])

    def _need(self, result: Any, what: str) -> Any:
        return self._rt.need(result, f"{what} in the {self._name} engine")


class _Kernels:
    """Cache of the kernels that tensorrt-rtx compiles for this GPU when a context is made, for the next process."""

    def __init__(self, rt: TensorRT, engine: Any, sha256: str, eager: bool):
        trt, self._rt = rt.trt, rt
        self._name = cache.key("kernels", rt.name, rt.version, rt.need_device().name, sha256)
        self.settings = rt.need(engine.create_runtime_config(), "make a context's settings")
        # Compile for the exact shapes before the first call. For images of any size compile generic kernels first, and
        # specialised ones in the background: each size would wait otherwise.
        strategy = trt.DynamicShapesKernelSpecializationStrategy
        self.settings.dynamic_shapes_kernel_specialization_strategy = strategy.EAGER if eager else strategy.LAZY
        self.settings.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED  # whole steps are captured instead
        self._compiled = rt.need(self.settings.create_runtime_cache(), "make a cache of kernels")
        known = cache.find(self._name)
        if known is not None and not self._compiled.deserialize(known):
            logger.info("the kernels in the cache are of another driver, and are compiled anew")
        rt.need(self.settings.set_runtime_cache(self._compiled), "use a cache of kernels")

    def keep(self) -> None:
        compiled = bytes(self._rt.need(self._compiled.serialize(), "give its kernels"))
        cache.keep(self._name, lambda path: path.write_bytes(compiled))


def usable(plan: Plan, precision: str | None, trust: bool) -> tuple[str | None, str]:
    """Return the first installed flavour with an engine of this plan that runs here, or None; and why there is none.

    Raises PlanError.
    """
    why = "TensorRT is not installed"
    for name in library.installed():
        try:
            rt = library.load(name)
            store.find(plan, store.Here.of(name, rt.version, rt.need_device()), precision, trust)
        except BackendError as error:
            why = str(error)
        else:
            return name, ""
    return None, why

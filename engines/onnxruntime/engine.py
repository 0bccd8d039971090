"""The plan's graphs in onnxruntime, on the CPU or a CUDA device."""

import functools
import math
from typing import Any

import numpy as np

from ..array_api import Array
from ..base import ANSWERS, OnHost, Prediction, Pull
from ..embeddings import Embeddings
from ..memory import Free
from ..plan import Plan
from ..shapes import sized
from .sessions import Sessions, run_bound


class OnnxRuntimeEngine(OnHost):
    """Forward calls and pullbacks by the plan's compiled graphs; needs no torch. State lives in numpy arrays.

    A pullback runs the forward graph once, keeps the activations that the pullback graph reads on the device, and runs
    the pullback graph on them and the cotangent. The embedding of each timestep is computed once and kept.

    Without an `arena` a session frees memory after each call, which is a few percent slower. With `keep`, optimised
    graphs are kept for the next process.
    """

    def __init__(self, plan: Plan, device: str = "cpu", *, arena: bool = True, keep: bool = True):
        self._sessions = Sessions(plan, device, arena=arena, keep=keep)
        self._graphs = plan.manifest["graphs"]
        self._device = device
        self._forward = self._sessions.open("forward", device)
        self._answers = [name for name in ANSWERS if name in self._graphs["forward"]["outputs"]]
        # It refers to the session, not the engine: a reference cycle would hold its memory until the next collection.
        self._embed = Embeddings(self._sessions.embeddings())
        self._free: Free[_Workspace] = Free()

    @property
    def name(self) -> str:
        return f"onnxruntime ({self._device})"

    def prepare(self, gradients: bool, batch: int = 1) -> None:
        self.need_open()
        if gradients:
            _ = self._pullback

    def asarray(self, x: Any) -> np.ndarray:
        self.need_open()
        return np.ascontiguousarray(x, dtype=np.float32)

    def predict(self, x: Array, t: Array) -> Prediction:
        binding = self._forward.io_binding()
        for name in self._answers:
            binding.bind_output(name)
        run_bound(self._forward, binding, x=self.asarray(x), embedding=self._embed(t))
        found = dict(zip(self._answers, binding.get_outputs(), strict=True))
        return Prediction(found["out"].numpy(), found["variance"].numpy() if "variance" in found else None)

    def pullback(self, x: Array, t: Array) -> tuple[Prediction, Pull]:
        size = len(x), *x.shape[2:]
        work = self._free.take(size) or _Workspace(self, *size)
        embedding = self._embed(t)
        run_bound(self._forward, work.forward, x=self.asarray(x), embedding=embedding)
        prediction = Prediction(work.copy("out"), work.copy("variance") if "variance" in work.values else None)

        def pull(cotangent: Array) -> Array:
            known = {"embedding": embedding} if "embedding" in work.inputs else {}
            run_bound(self._pullback, work.pullback, v=self.asarray(cotangent), **known)
            gradient = work.copy("gradient")
            self._free.give(size, work, work.bytes)
            return gradient

        return prediction, pull

    @functools.cached_property
    def _pullback(self) -> Any:
        return self._sessions.open("pullback", self._device)


class _Workspace:
    """The buffers of one pullback on the engine's device: outputs of the forward graph that the pullback graph reads.

    Made for a number of rows and their sides, and reused. A second pullback that begins before the first has ended gets
    buffers of its own.
    """

    def __init__(self, engine: OnnxRuntimeEngine, rows: int, height: int, width: int):
        graphs = engine._graphs
        outputs = {**graphs["forward"]["outputs"], **graphs["pullback"]["outputs"]}
        shapes = {name: sized(shape, rows, height, width) for name, shape in outputs.items()}
        make = engine._sessions.ort.OrtValue.ortvalue_from_shape_and_type
        self.bytes = 4 * sum(map(math.prod, shapes.values()))
        self.values = {name: make([*shape], np.float32, engine._device) for name, shape in shapes.items()}
        self.inputs = graphs["pullback"]["inputs"]
        self.forward = engine._forward.io_binding()
        self.pullback = engine._pullback.io_binding()
        for name in graphs["forward"]["outputs"]:
            self.forward.bind_ortvalue_output(name, self.values[name])
        for name in self.inputs.keys() & self.values.keys():
            self.pullback.bind_ortvalue_input(name, self.values[name])
        self.pullback.bind_ortvalue_output("gradient", self.values["gradient"])

    def copy(self, name: str) -> np.ndarray:
        """Return a copy of an output of the last call."""
        return np.array(self.values[name].numpy())

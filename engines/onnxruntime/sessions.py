"""Sessions of onnxruntime, on the CPU or a CUDA device.

Sessions read the weights from the plan's memory, without a copy; an optimised graph from the cache holds its own copy.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .. import cache, stopping
from ..errors import BackendError, MissingExtra, PlanError, Stopped, one_line
from ..machine import cores
from ..memory import give_back
from ..plan import WEIGHTS, Plan

ROWS = 128
"""Timesteps whose embeddings are computed in one call."""
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
LEVEL = "ORT_ENABLE_ALL"
"""onnxruntime's optimisation level for the plan's graphs; a graph from the cache is not optimised again."""


def import_onnxruntime(device: str = "cpu") -> Any:
    """Import onnxruntime with the execution provider that `device` needs. Raises MissingExtra."""
    extra, module = ("cpu", "onnxruntime") if device == "cpu" else ("gpu", "onnxruntime-gpu")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # newer builds send telemetry by default
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra(f"The {device} backend", module, extra) from error
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise MissingExtra(f"The {device} backend", module, extra)
    return onnxruntime


def session_options(ort: Any) -> Any:
    """Return the options that every session starts from."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # a pattern allocates, for each batch size, a block as large as the arena's
    # Threads spin within a call and sleep between calls: spinning threads of one session would starve the other's.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


class Sessions:
    """Opener of sessions of a plan's graphs; `arena` and `keep` are OnnxRuntimeEngine's."""

    def __init__(self, plan: Plan, device: str, *, arena: bool = True, keep: bool = True):
        self.ort = import_onnxruntime(device)
        self._plan = plan
        self._arena, self._keep = arena, keep

    def open(self, graph: str, device: str, **provider: str) -> Any:
        """Open a session of one of the plan's graphs, with the `provider`'s options.

        On the CPU the optimised graph is kept for the next process, unless its weights are very large: reading and
        checking them takes longer than optimising, and an ONNX file has at most 2 GiB.

        Raises BackendError or PlanError.
        """
        entry, members = self._plan.manifest["graphs"][graph], self._plan.manifest["members"]
        hashes = members[entry["member"]]["sha256"], members[WEIGHTS]["sha256"]
        library = self.ort.__version__, self.ort.get_build_info()
        # An entry is written only after `Plan.graph` has checked the graph of this hash against this list of weights.
        name = cache.key("graph", *library, PROVIDERS[device], LEVEL, *hashes, entry["weights"])
        session = None
        if self._keep and device == "cpu" and members[WEIGHTS]["bytes"] <= cache.LARGEST:
            optimised = cache.find(name)
            if optimised is None:

                def write(path: Path) -> None:
                    nonlocal session
                    session = self._open(entry, device, provider, optimized_model_filepath=str(path))

                cache.keep(name, write)
            else:
                session = self._open(entry, device, provider, optimised)
        if session is None:
            session = self._open(entry, device, provider)
        give_back()
        running = session.get_providers()[0]
        if running != PROVIDERS[device]:
            raise BackendError(f"onnxruntime fell back from {device} to {running}; run: frugal-rt doctor")
        return session

    def embeddings(self) -> Callable[[np.ndarray], np.ndarray]:
        """Return a function that computes the plan's embedding graph on the CPU: t (B,) int64 to (B, K)."""
        return functools.partial(_embed, self.open("embedding", "cpu"))

    def embedding_table(self) -> np.ndarray:
        """Compute the embedding of each timestep that the network was trained on, (T_train, K)."""
        compute, steps = self.embeddings(), np.arange(self._plan.manifest["schedule"]["num_train_timesteps"])
        return np.concatenate([compute(some) for some in np.array_split(steps, -(-len(steps) // ROWS))])

    @functools.cached_property
    def _weights(self) -> dict[str, Any]:
        """The plan's weights as OrtValues over the plan's memory."""
        return {name: self.ort.OrtValue.ortvalue_from_numpy(a) for name, a in self._plan.tensors().items()}

    def _open(
        self, entry: dict[str, Any], device: str, provider: dict[str, str], model: bytes | None = None, **settings: Any
    ) -> Any:
        """Open a session of a graph, or of `model`, the same graph optimised."""
        options = session_options(self.ort)
        options.enable_cpu_mem_arena = self._arena
        levels = self.ort.GraphOptimizationLevel
        options.graph_optimization_level = getattr(levels, LEVEL if model is None else "ORT_DISABLE_ALL")
        for setting, value in settings.items():
            setattr(options, setting, value)
        graph = self._plan.graph(entry) if model is None else model
        weights = {name: self._weights[name] for name in entry["weights"]} if model is None else {}
        options.add_external_initializers(list(weights), list(weights.values()))
        try:
            # With onnxruntime's fallback it would print why a provider fails, and run on the CPU.
            session = self.ort.InferenceSession(
                graph, options, providers=[(PROVIDERS[device], provider)], enable_fallback=0
            )
        except Exception as error:  # onnxruntime's errors share no base but Exception
            if device != "cpu":
                raise BackendError(
                    f"onnxruntime cannot run on {device} here: {one_line(error)}; run: frugal-rt doctor"
                ) from error
            raise PlanError(
                f"{self._plan.source}: onnxruntime cannot load {entry['member']}: {one_line(error)}"
            ) from error
        session.weights = weights  # the session reads this memory, also in a call that outlives the plan
        return session


def run_bound(session: Any, binding: Any, **inputs: np.ndarray) -> None:
    """Run a session with inputs bound from host memory by name. Raises BackendError, and Stopped."""
    stop = stopping.current()
    try:
        for name, value in inputs.items():
            binding.bind_cpu_input(name, value)
        if stop is None:
            session.run_with_iobinding(binding)
        else:
            run = _run_options()
            with stop.ending(lambda: setattr(run, "terminate", True)):
                session.run_with_iobinding(binding, run)
    except Stopped:
        raise
    except Exception as error:  # onnxruntime's errors share no base but Exception
        stopping.check()
        raise BackendError(f"onnxruntime failed in a call: {one_line(error)}") from error


def _run_options() -> Any:
    import onnxruntime

    return onnxruntime.RunOptions()


def _embed(session: Any, t: np.ndarray) -> np.ndarray:
    binding = session.io_binding()
    binding.bind_output("embedding")
    run_bound(session, binding, t=t)
    return np.asarray(binding.get_outputs()[0].numpy())

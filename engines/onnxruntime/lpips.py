"""LPIPS, a learned distance between images (Zhang et al., CVPR 2018), from one ONNX file."""

import hashlib
import os
from pathlib import Path

import numpy as np

from ..errors import BackendError, InputError, MissingFile, PlanError, UnreadableError
from ..onnx_reader import external_files
from .sessions import PROVIDERS, import_onnxruntime, session_options

INPUTS, OUTPUT = ("image", "reference"), "lpips"
SMALLEST = 32
"""Least side of an image in pixels; AlexNet's pooling leaves nothing of a smaller one."""
TOGETHER = 16
"""Pairs of images in a call."""


class Lpips:
    """LPIPS by a file that `frugal-rt eval --fetch-lpips` makes: `image`, `reference` (N, 3, H, W) -> `lpips` (N,).

    Raises InputError where the file is missing or is not such a graph, MissingExtra without onnxruntime.
    """

    def __init__(self, path: str | os.PathLike[str]):
        ort = import_onnxruntime()
        name = Path(path).name
        try:
            graph = Path(path).read_bytes()
        except FileNotFoundError:
            raise MissingFile(f"there is no file {path}; make one with: frugal-rt eval --fetch-lpips FILE") from None
        except OSError as error:
            raise UnreadableError(f"cannot read {path}: {error.strerror or error}") from error
        try:
            elsewhere = external_files(memoryview(graph), name)
        except PlanError as error:
            raise InputError(f"{name} is not an ONNX file that onnxruntime can load: {error}") from error
        if elsewhere:  # the file's hash would not identify the weights
            raise InputError(
                f"{name} takes weights from {elsewhere[0]!r}; an LPIPS file holds them all; "
                "make one with: frugal-rt eval --fetch-lpips FILE"
            )
        self.sha256 = hashlib.sha256(graph).hexdigest()
        try:
            self._session = ort.InferenceSession(
                graph, session_options(ort), providers=[PROVIDERS["cpu"]], enable_fallback=0
            )
        except Exception as error:  # onnxruntime's errors share no base but Exception
            first = (str(error).splitlines() or ["it is empty"])[0]
            raise InputError(f"{name} is not an ONNX file that onnxruntime can load: {first}") from error
        taken = sorted(value.name for value in self._session.get_inputs())
        given = [value.name for value in self._session.get_outputs()]
        if taken != sorted(INPUTS) or given != [OUTPUT]:
            raise InputError(
                f"{name} takes {', '.join(taken) or 'nothing'} and gives {', '.join(given)}; an LPIPS file takes "
                f"{' and '.join(INPUTS)} and gives {OUTPUT}; make one with: frugal-rt eval --fetch-lpips FILE"
            )

    def for_images(self, shape: tuple[int, int, int]) -> "Lpips":
        """Return itself if it can compare images of `shape` (C, H, W). Raises InputError."""
        channels, height, width = shape
        if channels != 3 or min(height, width) < SMALLEST:
            raise InputError(
                f"LPIPS compares colour images of at least {SMALLEST}x{SMALLEST}, and this prior's are "
                f"{channels}x{height}x{width}; leave --lpips out"
            )
        return self

    def __call__(self, image: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Return the distances (N,) between the rows of two batches (N, 3, H, W) on [-1, 1]. Raises BackendError."""
        try:
            return np.concatenate(
                [
                    self._session.run([OUTPUT], dict(zip(INPUTS, pair, strict=True)))[0].reshape(-1)
                    for pair in (
                        [np.ascontiguousarray(one[i : i + TOGETHER], np.float32) for one in (image, reference)]
                        for i in range(0, len(image), TOGETHER)
                    )
                ]
            )
        except Exception as error:  # onnxruntime's errors share no base but Exception
            raise BackendError(f"the LPIPS file failed in a call: {error}") from error

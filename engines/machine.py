"""This machine's processor, cores and memory, and the FLOP/s of its matrix products, which times are compared with.

Torch is imported when a function needs it.
"""

import os
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import nvidia
from .errors import InputError
from .extras import import_torch, installed, version

SIZE = 2048
"""Side of the square fp32 matrices whose product is timed: 17 GFLOP, 17 MB each."""
DEVICE_SIZE = 8192
"""Side of the matrices on a GPU, where the product takes 1.1 TFLOP: SIZE is too small to reach its full clock."""
TRIALS = 5
UNKNOWN_MEMORY = 4 << 30
"""Bytes of memory that are assumed where the system does not tell."""
THREADS = "FRUGAL_RT_THREADS"
"""The environment variable that bounds `cores`, for processes that share a machine's cores."""


def processor() -> str:
    """Return the CPU's model."""
    named = (line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def instructions() -> str:
    """Return the CPU's instruction sets as the system names them; empty where it does not."""
    return "\n".join(sorted({line for line in _cpuinfo() if line.startswith("flags")}))


def bfloat16() -> bool:
    """Whether the system says that the CPU has instructions for bfloat16."""
    return bool({"avx512_bf16", "amx_bf16"} & {*instructions().split()})


def _cpuinfo() -> list[str]:
    info = Path("/proc/cpuinfo")
    return info.read_text().splitlines() if info.exists() else []


def cores() -> int:
    """Return the number of cores to compute on: those this process may use, at most $FRUGAL_RT_THREADS.

    Raises InputError where the variable is no number of threads.
    """
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get(THREADS)
    if not asked:
        return there
    if not asked.isdecimal() or int(asked) < 1:
        raise InputError(f"{THREADS} is a number of threads, 1 or more; got {asked!r}")
    return min(there, int(asked))


def memory() -> int:
    """Return the bytes of memory that this process may use: the machine's, or its container's limit."""
    there = UNKNOWN_MEMORY
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([there, *memory_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def memory_limits(listing: Path, root: Path) -> Iterator[int]:
    """Yield the memory limits, in bytes, of the control groups in `listing` and of their parents, below `root`.

    Lines are cgroup v2's (0::/a/b, limit in memory.max) or v1's (5:memory:/a/b, limit in
    memory/.../memory.limit_in_bytes). A container may see its own group as the root, under another name or none.
    """
    for line in listing.read_text().splitlines() if listing.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            file = folder / name
            if folder.is_relative_to(top) and file.is_file() and (limit := file.read_text().strip()).isdecimal():
                yield int(limit)


def gpu() -> str | None:
    """Return the first CUDA device's name, read from the driver; None where there is none."""
    return next((device.name for device in nvidia.devices()), None)


def torch_threads() -> int | None:
    """Return the number of threads that torch computes with; None without torch."""
    return import_torch("Counting threads").get_num_threads() if _has_torch() else None


def versions() -> dict[str, str]:
    """Return the versions of Python and of each library that computes here, by distribution."""
    tools = ("frugal-rt", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "diffusers")
    return {"python": platform.python_version(), **{name: found for name in tools if (found := version(name))}}


def peak_flops() -> dict[str, float]:
    """Measure the best FLOP/s of TRIALS large matrix products, by library, precision and device.

    Keys are such as "numpy (cpu)" and "torch, bf16 (cuda)"; fp32 is left out of them. Several libraries are tried, as
    numpy's and torch's products may use half of the vector width of a CPU that they do not know: oneDNN's product
    reached twice theirs on an AMD EPYC with AVX-512.
    """
    return {name: 2 * size**3 / _best_seconds(product) for name, size, product in _products()}


def _has_torch() -> bool:
    return installed("torch")


def _products() -> Iterator[tuple[str, int, Callable[[], Any]]]:
    a, b = np.random.default_rng(0).standard_normal((2, SIZE, SIZE), dtype=np.float32)
    yield "numpy (cpu)", SIZE, partial(_product, a, b)
    if not _has_torch():
        return
    torch = import_torch("The peak")
    yield "torch (cpu)", SIZE, partial(_product, torch.from_numpy(a), torch.from_numpy(b))
    if torch.cuda.is_available():
        random = torch.Generator("cuda")  # not torch's default one, which a failed capture may still hold
        c, d = (torch.randn(DEVICE_SIZE, DEVICE_SIZE, device="cuda", generator=random) for _ in range(2))
        yield "torch (cuda)", DEVICE_SIZE, partial(_product, c, d)
        yield "torch, bf16 (cuda)", DEVICE_SIZE, partial(_product, c.bfloat16(), d.bfloat16())
    if torch.backends.mkldnn.is_available():
        blocked = [torch.from_numpy(one).to_mkldnn() for one in (a, b)]
        yield "torch, oneDNN (cpu)", SIZE, partial(torch.nn.functional.linear, *blocked)


def _product(a: Any, b: Any) -> float:
    return float((a @ b)[0, 0])  # reading a value synchronises with the device


def _best_seconds(call: Callable[[], Any]) -> float:
    times = []
    for _ in range(TRIALS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)

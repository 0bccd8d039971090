"""What this machine can run, and what would bring the rest. Nothing here imports a framework unless asked to."""

import ctypes
import ctypes.util
import importlib.metadata
import importlib.util
from typing import NamedTuple

from .errors import BackendError, MissingExtra

EXPORT_MODULES = ("torch", "diffusers", "onnx", "onnxruntime")
"""What exporting imports."""


class Finding(NamedTuple):
    """One line of `frugal-rt doctor`."""

    backend: str
    usable: bool
    detail: str
    """Versions where usable; else why not."""
    remedy: str
    """The command or step that would bring it; empty where usable."""


_ONE_ONNXRUNTIME = "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'frugal-rt[cpu]' or 'frugal-rt[gpu]'"


def cuda_driver() -> str | None:
    """None if the NVIDIA driver answers and shows a device, else why not. Loads no framework."""
    try:
        return None if cuda_devices() else "the NVIDIA driver shows no device"
    except OSError:
        return "no NVIDIA driver (libcuda) on this machine"


def cuda_devices() -> int:
    """How many devices the NVIDIA driver shows, of those in $CUDA_VISIBLE_DEVICES. Raises OSError without a driver."""
    driver = ctypes.CDLL(ctypes.util.find_library("cuda") or "libcuda.so.1")
    count = ctypes.c_int(0)
    return 0 if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) else count.value


def version(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def require_export() -> None:
    """Raises MissingExtra naming the first of EXPORT_MODULES that is not installed."""
    for name in EXPORT_MODULES:
        if importlib.util.find_spec(name) is None:
            raise MissingExtra("Exporting", name, "cpu,export")


def cuda_is_usable() -> bool:
    """Whether onnxruntime can run on CUDA here."""
    from .onnxruntime import import_onnxruntime

    if version("onnxruntime-gpu") is None or cuda_driver() is not None:
        return False
    try:
        import_onnxruntime("cuda")
    except BackendError:
        return False
    return True


def findings() -> list[Finding]:
    """The state of each backend of this machine, and of exporting."""
    return [_cpu(), _cuda(), _openvino(), _torch(), _export()]


def _cpu() -> Finding:
    both = version("onnxruntime") and version("onnxruntime-gpu")
    if both:
        return Finding("cpu", False, "onnxruntime and onnxruntime-gpu overwrite each other", _ONE_ONNXRUNTIME)
    found = version("onnxruntime") or version("onnxruntime-gpu")
    if not found:
        return Finding("cpu", False, "onnxruntime is not installed", "pip install 'frugal-rt[cpu]'")
    return Finding("cpu", True, f"onnxruntime {found}", "")


def _cuda() -> Finding:
    missing = cuda_driver()
    if missing:
        return Finding("cuda", False, missing, "use a machine with an NVIDIA GPU and its driver")
    found = version("onnxruntime-gpu")
    if not found:
        return Finding("cuda", False, "onnxruntime-gpu is not installed", "pip install 'frugal-rt[gpu]'")
    if not cuda_is_usable():
        return Finding("cuda", False, f"onnxruntime-gpu {found} has no CUDA provider here", _ONE_ONNXRUNTIME)
    return Finding("cuda", True, f"onnxruntime-gpu {found}", "")


def _openvino() -> Finding:
    from .openvino import import_openvino

    try:
        import_openvino()
    except MissingExtra:
        return Finding("openvino", False, "openvino is not installed", "pip install 'frugal-rt[openvino]'")
    except BackendError as error:
        return Finding("openvino", False, str(error), "use --backend cpu")
    return Finding("openvino", True, f"openvino {version('openvino')}, bfloat16", "")


def _torch() -> Finding:
    missing = [name for name in ("torch", "diffusers") if not version(name)]
    if missing:
        return Finding("torch", False, f"{', '.join(missing)} not installed", "pip install 'frugal-rt[torch]'")
    return Finding("torch", True, f"torch {version('torch')}, diffusers {version('diffusers')}", "")


def _export() -> Finding:
    missing = [name for name in EXPORT_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        return Finding("export", False, f"{', '.join(missing)} not installed", "pip install 'frugal-rt[cpu,export]'")
    return Finding("export", True, f"onnx {version('onnx')}, onnxruntime {version('onnxruntime')}", "")

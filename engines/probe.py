"""What this machine can run, and what would bring the rest. Nothing here imports a framework unless asked to."""

import importlib.metadata
import importlib.util
from typing import NamedTuple

from . import cuda
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


_A_GPU = "use a machine with an NVIDIA GPU and its driver"
_ONE_ONNXRUNTIME = "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'frugal-rt[cpu]' or 'frugal-rt[gpu]'"


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

    if version("onnxruntime-gpu") is None or cuda.trouble() is not None:
        return False
    try:
        import_onnxruntime("cuda")
    except BackendError:
        return False
    return True


def findings() -> list[Finding]:
    """The state of each backend of this machine, and of exporting."""
    from .tensorrt_module import FLAVOURS

    return [
        _cpu(),
        _cuda(),
        *map(_tensorrt, FLAVOURS),
        _openvino(),
        _torch(),
        _torch_compile(),
        _export(),
    ]


def _cpu() -> Finding:
    both = version("onnxruntime") and version("onnxruntime-gpu")
    if both:
        return Finding("cpu", False, "onnxruntime and onnxruntime-gpu overwrite each other", _ONE_ONNXRUNTIME)
    found = version("onnxruntime") or version("onnxruntime-gpu")
    if not found:
        return Finding("cpu", False, "onnxruntime is not installed", "pip install 'frugal-rt[cpu]'")
    return Finding("cpu", True, f"onnxruntime {found}", "")


def _cuda() -> Finding:
    missing = cuda.trouble()
    if missing:
        return Finding("cuda", False, missing, _A_GPU)
    found = version("onnxruntime-gpu")
    if not found:
        return Finding("cuda", False, "onnxruntime-gpu is not installed", "pip install 'frugal-rt[gpu]'")
    if not cuda_is_usable():
        return Finding("cuda", False, f"onnxruntime-gpu {found} has no CUDA provider here", _ONE_ONNXRUNTIME)
    return Finding("cuda", True, f"onnxruntime-gpu {found}", "")


def _tensorrt(name: str) -> Finding:
    from .tensorrt_module import FLAVOURS, load

    flavour, found = FLAVOURS[name], version(name)
    if not found:
        return Finding(name, False, f"{name} is not installed", f"pip install 'frugal-rt[{flavour.extra}]'")
    try:
        load(name)
    except BackendError as error:
        return Finding(name, False, f"{name} {found} cannot be imported: {error.__cause__}", f"pip install -U {name}")
    missing = cuda.trouble()
    if missing:
        can = "builds here, and needs a GPU to run" if flavour.blind else "needs a GPU"
        return Finding(name, False, f"{name} {found} {can}: {missing}", _A_GPU)
    device = cuda.devices()[0]
    if not version("torch"):
        return Finding(name, False, "its arrays are torch's, which is not installed", "pip install 'frugal-rt[torch]'")
    return Finding(name, True, f"{name} {found}, {device.name}, compute capability {device.capability}", "")


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


def _torch_compile() -> Finding:
    from .peers import compiler

    plain = _torch()
    if not plain.usable:
        return plain._replace(backend="torch-compile")
    if compiler() is None:
        return Finding("torch-compile", False, "there is no C++ compiler here", "install g++, or name one in $CXX")
    return plain._replace(backend="torch-compile")


def _export() -> Finding:
    missing = [name for name in EXPORT_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        return Finding("export", False, f"{', '.join(missing)} not installed", "pip install 'frugal-rt[cpu,export]'")
    return Finding("export", True, f"onnx {version('onnx')}, onnxruntime {version('onnxruntime')}", "")

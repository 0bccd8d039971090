"""List the backends that this machine can run, and the commands that install the others."""

from typing import NamedTuple

from . import nvidia
from .embedded import FOLDERS, embedded_plan
from .errors import BackendError, MissingExtra
from .extras import EXPORT_MODULES, installed, version
from .fastest import recall
from .onnxruntime.cuda import cuda_is_usable
from .onnxruntime.sessions import import_onnxruntime


class Finding(NamedTuple):
    """One line of `frugal-rt doctor`."""

    backend: str
    usable: bool
    detail: str
    """Versions where it is usable, otherwise the reason why it is not."""
    remedy: str
    """The command or step that would make it usable; empty where it is."""


_A_GPU = "use a machine with an NVIDIA GPU and its driver"
_ONE_ONNXRUNTIME = "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'frugal-rt[cpu]' or 'frugal-rt[gpu]'"


def findings() -> list[Finding]:
    """Return the state of each backend on this machine, and of exporting."""
    from .tensorrt.library import FLAVOURS

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
    try:
        found = import_onnxruntime()
    except MissingExtra:
        return Finding("cpu", False, "onnxruntime is not installed", "pip install 'frugal-rt[cpu]'")
    return Finding("cpu", True, f"onnxruntime {found.__version__}", "")


def _cuda() -> Finding:
    missing = nvidia.trouble()
    if missing:
        return Finding("cuda", False, missing, _A_GPU)
    if cuda_is_usable():
        return Finding("cuda", True, f"onnxruntime {import_onnxruntime('cuda').__version__}", "")
    found = version("onnxruntime-gpu")
    if not found:
        return Finding("cuda", False, "onnxruntime-gpu is not installed", "pip install 'frugal-rt[gpu]'")
    return Finding("cuda", False, f"onnxruntime-gpu {found} has no CUDA provider here", _ONE_ONNXRUNTIME)


def _tensorrt(name: str) -> Finding:
    from .tensorrt.library import FLAVOURS, load

    flavour = FLAVOURS[name]
    if not installed(flavour.module):
        return Finding(name, False, f"{name} is not installed", f"pip install 'frugal-rt[{flavour.extra}]'")
    try:
        found = load(name).version
    except BackendError as error:
        return Finding(name, False, f"{name} cannot be imported: {error.__cause__}", f"pip install -U {name}")
    missing = nvidia.trouble()
    if missing:
        can = "builds here, and needs a GPU to run" if flavour.blind else "needs a GPU"
        return Finding(name, False, f"{name} {found} {can}: {missing}", _A_GPU)
    device = nvidia.devices()[0]
    if not installed("torch"):
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
    return Finding("openvino", True, f"openvino {version('openvino')}, bfloat16{_measured()}", "")


def _measured() -> str:
    """Return a clause with the measured times of the embedded priors, and the backend that auto takes for them."""
    found = {name: recall(embedded_plan(name)) for name in FOLDERS}
    said = [
        f"{name} in {one.openvino / one.cpu:.2f} of cpu's time, auto takes {one.fastest}"
        for name, one in found.items()
        if one is not None
    ]
    return f" ({'; '.join(said) or 'not measured yet: the first restoration with --backend auto does it'})"


def _torch() -> Finding:
    missing = [name for name in ("torch", "diffusers") if not installed(name)]
    if missing:
        return Finding("torch", False, f"{', '.join(missing)} not installed", "pip install 'frugal-rt[torch]'")
    return Finding("torch", True, f"torch {version('torch')}, diffusers {version('diffusers')}", "")


def _torch_compile() -> Finding:
    from .torch.baselines import compiler

    plain = _torch()
    if not plain.usable:
        return plain._replace(backend="torch-compile")
    if compiler() is None:
        return Finding("torch-compile", False, "there is no C++ compiler here", "install g++, or name one in $CXX")
    return plain._replace(backend="torch-compile")


def _export() -> Finding:
    missing = [name for name in EXPORT_MODULES if not installed(name)]
    if missing:
        return Finding("export", False, f"{', '.join(missing)} not installed", "pip install 'frugal-rt[cpu,export]'")
    return Finding("export", True, f"onnx {version('onnx')}, onnxruntime {version('onnxruntime')}", "")

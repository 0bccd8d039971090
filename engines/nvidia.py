"""The NVIDIA driver, called through ctypes, so that GPUs can be listed before any framework is imported."""

import contextlib
import ctypes
import os
from collections.abc import Sequence
from ctypes.util import find_library
from typing import Any, NamedTuple

from .errors import InputError

VISIBLE = "CUDA_VISIBLE_DEVICES"
MAJOR, MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""


class Device(NamedTuple):
    """A GPU."""

    number: int
    """Its index among the devices that this process sees; CUDA_VISIBLE_DEVICES hides others."""
    name: str
    capability: str
    """Its compute capability, such as 9.0."""
    memory: int
    """Bytes of its memory."""


def devices() -> list[Device]:
    """Return the GPUs that this process sees; none where there is no driver."""
    driver, _ = _open()
    return [_device(driver, index) for index in range(_count(driver))] if driver else []


def visible(number: int) -> str:
    """Return the $CUDA_VISIBLE_DEVICES with which a process sees one device alone, this process's device `number`.

    This process's own value renumbers the devices. Raises InputError where it has no such device.
    """
    listed = os.environ.get(VISIBLE)
    if listed is None:
        return str(number)
    names = [name.strip() for name in listed.split(",") if name.strip()]
    if number >= len(names):
        raise InputError(f"there is no CUDA device {number}: {VISIBLE} is {listed!r}")
    return names[number]


def trouble() -> str | None:
    """Return None if the NVIDIA driver answers and shows a device, else why not."""
    driver, why = _open()
    return why or (None if _count(driver) else "the NVIDIA driver shows no device")


def _open() -> tuple[Any, str | None]:
    """Load and initialise libcuda; return it and None, or None and the reason."""
    driver = _load()
    if driver is None:
        return None, "no NVIDIA driver (libcuda) on this machine"
    return (None, "the NVIDIA driver shows no device") if driver.cuInit(0) else (driver, None)


def _load() -> Any:
    """Load libcuda, or return None. The driver's own name comes first: find_library starts ldconfig or a compiler."""
    with contextlib.suppress(OSError):
        return ctypes.CDLL("libcuda.so.1")
    found = find_library("cuda") or find_library("nvcuda")
    with contextlib.suppress(OSError):
        return ctypes.CDLL(found) if found else None
    return None


def _count(driver: Any) -> int:
    count = ctypes.c_int(0)
    return 0 if driver.cuDeviceGetCount(ctypes.byref(count)) else count.value


def _device(driver: Any, index: int) -> Device:
    handle, name, memory = ctypes.c_int(0), ctypes.create_string_buffer(256), ctypes.c_size_t(0)
    driver.cuDeviceGet(ctypes.byref(handle), index)
    driver.cuDeviceGetName(name, len(name), handle)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    capability = _attributes(driver, handle, (MAJOR, MINOR))
    return Device(index, name.value.decode(errors="replace"), "{}.{}".format(*capability), memory.value)


def _attributes(driver: Any, handle: ctypes.c_int, wanted: Sequence[int]) -> list[int]:
    values = []
    for attribute in wanted:
        value = ctypes.c_int(0)
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
        values.append(value.value)
    return values

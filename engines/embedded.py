"""Plans of the priors in the package, put together from their weights and their graphs, without torch or a download.

Beside the weights of a prior lies ready.zip (READY): the plan's manifest and graphs, and the header of its weights. The
weights themselves are stored once, in half or full precision, under diffusers' names.
"""

import json
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .errors import MissingPlan, PlanError
from .files import is_there
from .plan import MANIFEST, WEIGHTS, Plan
from .weights import read_safetensors

FOLDERS = {name: Path(__file__).parents[1] / "export" / "priors" / name for name in ("photo", "celeba")}
"""Folders of the embedded priors, by name. A name stands for the plan where no file is called so."""
READY = "ready.zip"
HEADER = f"{WEIGHTS}.header"
"""The member of READY that stands for the weights: the first bytes of a safetensors file, up to the header's end."""
STORED = "unet/diffusion_pytorch_model.safetensors"
PREFIX = "unet."


def open_plan(path: str | os.PathLike[str]) -> Plan:
    """Open the plan at `path`, or the embedded prior of that name where no such file exists. Raises PlanError."""
    name = os.fspath(path)
    if name in FOLDERS and not is_there(Path(path)):
        return embedded_plan(name)
    try:
        return Plan.open(path)
    except MissingPlan:
        if (stem := Path(path).stem) not in FOLDERS:
            raise
        raise MissingPlan(
            f"there is no file {path}, but the package has the prior {stem}; use it by its name: -e {stem} (or make "
            f"the file: frugal-rt export --model {stem})"
        ) from None


def embedded_plan(name: str) -> Plan:
    """Return the plan of an embedded prior, in memory, with the bytes that exporting it gives. Raises PlanError."""
    folder = FOLDERS[name]
    try:
        stored = read_safetensors(memoryview((folder / STORED).read_bytes()), f"the prior {name}")
        return refilled(folder / READY, {key: array for key, (array, _) in stored.items()}, name)
    except (OSError, PlanError) as error:
        raise PlanError(
            f"the prior {name} in this installation is damaged ({error}); install frugal-rt again"
        ) from error


def refilled(ready: Path, stored: Mapping[str, np.ndarray], name: str) -> Plan:
    """Return the plan, in memory, that `frugal_rt.export.ready` packed into the file `ready` without its weights.

    `stored` holds the weights by diffusers' names. Raises PlanError where they do not match the plan's hash, or the
    file is damaged.
    """
    try:
        with zipfile.ZipFile(ready) as archive:
            held = {one: archive.read(one) for one in archive.namelist()}
        manifest = json.loads(held.pop(MANIFEST))
        weights = _weights(held.pop(HEADER), {f"{PREFIX}{key}": array for key, array in stored.items()})
        plan = Plan(manifest, {WEIGHTS: weights, **held}, name)  # in the exporter's order of members
        for member in plan.members:
            plan.member(member)
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, struct.error) as error:
        raise PlanError(f"{ready.name} does not hold {name}: {error}") from error
    return plan


def _weights(header: bytes, stored: dict[str, np.ndarray]) -> bytearray:
    """Return a safetensors file with this header, whose tensors are the `stored` ones cast to the header's types."""
    tensors = {key: entry for key, entry in json.loads(header[8:]).items() if key != "__metadata__"}
    size = max(end for entry in tensors.values() for end in entry["data_offsets"][1:])
    data = bytearray(header) + bytearray(size)
    for key, (array, _) in read_safetensors(memoryview(data), "the header").items():
        array[...] = stored[key].reshape(array.shape)
    return data

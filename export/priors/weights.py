"""Weight files: tensors by name, without ever running what a file holds."""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...engines import ExportError
from ...engines.extras import import_torch

if TYPE_CHECKING:
    import torch

WEIGHT_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
"""What diffusers calls a model's weights, the one taken first where both are there."""

_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(rf"(.*\.attentions\.\d+)\.({'|'.join(_OLD_ATTENTION)})\.(weight|bias)")


def read_weights(path: Path) -> Mapping[str, Any]:
    """The tensors of a diffusers weight file by today's names: numpy arrays, or torch tensors of a .bin.

    Raises ExportError if the file cannot be read, MissingExtra for a .bin without torch.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            loaded: Mapping[str, Any] = load_file(path)
        except (OSError, SafetensorError, TypeError, KeyError) as error:  # the last two: a type numpy does not have
            raise ExportError(f"cannot read {path.name}: {error}; float32 and float16 weights work") from error
    else:
        loaded = read_pickled(path)
    return {_today(name): tensor for name, tensor in loaded.items()}


def read_pickled(path: Path) -> dict[str, "torch.Tensor"]:
    """The tensors of a file that torch.save wrote, mapped where its format allows; code in it is refused, not run.

    Raises ExportError unless the file is a mapping of names to tensors, MissingExtra without torch.
    """
    torch = import_torch("Reading pickled weights")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ExportError(
            f"{path.name} holds more than weights, and pickled code is never run; save its state dict alone"
        ) from error
    except Exception as error:  # broken bytes lead torch's reader to errors that share no base but Exception
        raise ExportError(f"{path.name} is damaged or was not written by torch.save; copy it again") from error
    if not isinstance(state, dict) or not state:
        raise ExportError(f"{path.name} holds no tensors by name; save the state dict of the network alone")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ExportError(f"{path.name}: {name} is not a tensor; save the state dict of the network alone")
    return state


def _today(name: str) -> str:
    """diffusers' name of a tensor since 0.15: attention layers were called query, key, value and proj_attn before."""
    old = _OLD_NAME.fullmatch(name)
    return f"{old[1]}.{_OLD_ATTENTION[old[2]]}.{old[3]}" if old else name

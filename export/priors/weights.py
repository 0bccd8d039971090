"""Readers of weight files: tensors by name. Code in a pickled file is never run."""

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...engines import ExportError, InputError
from ...engines.extras import import_torch

if TYPE_CHECKING:
    import torch

WEIGHT_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
"""diffusers' names of a model's weight file, the preferred one first."""

INDEX = ".index.json"
"""Suffix of the index that lists the shards of a weight file."""

_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(rf"(.*\.attentions\.\d+)\.({'|'.join(_OLD_ATTENTION)})\.(weight|bias)")


def find_weights(folder: Path) -> Path | None:
    """Find the weights in a folder as diffusers saves them: a file, the index of shards, or the only variant (fp16).

    Return None where there are none. Raises InputError, naming them, where there are several variants.
    """
    for name in WEIGHT_FILES:
        for path in (folder / name, folder / f"{name}{INDEX}"):
            if path.is_file():
                return path
    for name in WEIGHT_FILES:
        stem, suffix = name.split(".")
        variants = sorted([*folder.glob(f"{stem}.*.{suffix}"), *folder.glob(f"{name}.index.*.json")])
        if len(variants) > 1:
            named = ", ".join(path.name for path in variants)
            raise InputError(f"{folder} holds several variants of weights, {named}; rename the one to take to {name}")
        if variants:
            return variants[0]
    return None


def read_weights(path: Path) -> Mapping[str, Any]:
    """Read the tensors of a diffusers weight file under current names: numpy arrays, or torch tensors of a .bin file.

    path: a file, or an index whose shards are read. Raises ExportError if a file cannot be read, MissingExtra for a
    .bin file without torch.
    """
    if path.suffix == ".json":
        return {name: tensor for shard in _shards(path) for name, tensor in read_weights(shard).items()}
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            loaded: Mapping[str, Any] = load_file(path)
        except (OSError, SafetensorError, TypeError, KeyError) as error:  # the last two: a type unknown to numpy
            raise ExportError(f"cannot read {path.name}: {error}; float32 and float16 weights work") from error
    else:
        loaded = read_pickled(path)
    return {_today(name): tensor for name, tensor in loaded.items()}


def _shards(index: Path) -> list[Path]:
    """Return the files that an index names, all in its folder. Raises ExportError."""
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        shards = [
            index.parent / name for name in sorted(named) if Path(name).name == name and Path(name).suffix != ".json"
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ExportError(f"{index.name} is no index of shards of weights; copy the folder again") from error
    lost = sorted(named - {shard.name for shard in shards if shard.is_file()})
    if lost or not shards:
        raise ExportError(f"{index.name} names shards that are not in its folder: {', '.join(lost) or 'none'}")
    return shards


def read_pickled(path: Path) -> dict[str, "torch.Tensor"]:
    """Read the tensors of a file by torch.save, mapped where its format allows; a file with code is refused.

    Raises ExportError unless the file is a mapping of names to tensors, MissingExtra without torch.
    """
    torch = import_torch("Reading pickled weights")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ExportError(
            f"{path.name} holds more than weights, and pickled code is never run; save its state dict alone"
        ) from error
    except Exception as error:  # torch's errors over damaged bytes share no base but Exception
        raise ExportError(f"{path.name} is damaged or was not written by torch.save; copy it again") from error
    if not isinstance(state, dict) or not state:
        raise ExportError(f"{path.name} holds no tensors by name; save the state dict of the network alone")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ExportError(f"{path.name}: {name} is not a tensor; save the state dict of the network alone")
    return state


def _today(name: str) -> str:
    """Return a tensor's name since diffusers 0.15; before, attention had query, key, value and proj_attn."""
    old = _OLD_NAME.fullmatch(name)
    return f"{old[1]}.{_OLD_ATTENTION[old[2]]}.{old[3]}" if old else name

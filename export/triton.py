"""A plan's graphs as a model repository of Triton. The server runs the network's calls, a client runs the sampler.

REPOSITORY/manifest.json                          the plan's: schedule, image, licence
REPOSITORY/PRIOR_embedding, _forward, _pullback   config.pbtxt, 1/model.onnx, 1/weights.safetensors
REPOSITORY/PRIOR_gradient                         an ensemble of them, so that activations stay on the server
"""

import json
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..engines import FileError, InputError, MissingExtra, Plan
from ..engines.plan import FORMAT, MANIFEST, WEIGHTS
from ..engines.weights import read_safetensors
from .graph import external

MAX_BATCH = 16
"""The most rows of a call. Rows are independent, so the server may put several requests into one call."""
GRAPHS = ("embedding", "forward", "pullback")

Dims = Mapping[str, list[int]]
"""Sizes of tensors without the batch, by name."""


def check_repository(folder: Path, force: bool) -> Path:
    """Return the folder if a repository may be written there; with `force` it may replace one. Raises InputError."""
    if not folder.parent.is_dir():
        raise InputError(f"the folder {folder.parent} does not exist")
    if not folder.exists():
        return folder
    if not force:
        raise InputError(f"{folder} exists; give another name with -o, or --force to replace it")
    try:
        ours = json.loads((folder / MANIFEST).read_text())["format"] == FORMAT
    except (OSError, ValueError, LookupError, TypeError):
        ours = False
    if not ours:
        raise InputError(f"{folder} is no repository that frugal-rt wrote, and is not replaced; name another with -o")
    return folder


def write_repository(plan: Plan, folder: Path, force: bool = False) -> list[str]:
    """Write the models into `folder`, all or none; return their names.

    Raises InputError for a folder that may not be written, MissingExtra without onnx, PlanError or FileError.
    """
    check_repository(folder, force)
    draft, before = (folder.with_name(f".{folder.name[:100]}.{secrets.token_hex(4)}.tmp") for _ in range(2))
    try:
        draft.mkdir()
        names = _write(plan, draft)
        if folder.exists():
            folder.rename(before)
        draft.rename(folder)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        if before.exists() and not folder.exists():
            before.rename(folder)
        for left in (draft, before):
            shutil.rmtree(left, ignore_errors=True)
    return names


def _write(plan: Plan, root: Path) -> list[str]:
    prior = re.sub(r"[^A-Za-z0-9_.-]", "_", plan.manifest["prior"]["name"])
    graphs = plan.manifest["graphs"]
    for graph in GRAPHS:
        version = root / f"{prior}_{graph}" / "1"
        version.mkdir(parents=True)
        model, weights = _model(plan, graphs[graph])
        (version / "model.onnx").write_bytes(model)
        (version / WEIGHTS).write_bytes(weights)
        inputs, outputs = _dims(graphs[graph]["inputs"]), _dims(graphs[graph]["outputs"])
        text = _tensors("input", inputs, reshape=True) + _tensors("output", outputs) + "dynamic_batching { }\n"
        (version.parent / "config.pbtxt").write_text(_head(version.parent.name, 'backend: "onnxruntime"') + text)
    whole = root / f"{prior}_gradient"
    (whole / "1").mkdir(parents=True)  # an ensemble's version is an empty folder
    (whole / "config.pbtxt").write_text(_head(whole.name, 'platform: "ensemble"') + _ensemble(prior, graphs))
    (root / MANIFEST).write_text(json.dumps(plan.manifest, indent=2, sort_keys=True) + "\n")
    return [*(f"{prior}_{graph}" for graph in GRAPHS), whole.name]


def _model(plan: Plan, entry: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Return a graph, and a safetensors file of the weights that it reads from the file beside it."""
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra("Exporting", "onnx", "export") from error
    from safetensors.numpy import save

    tensors = plan.tensors()
    weights = save({name: tensors[name] for name in entry["weights"]})
    places = read_safetensors(memoryview(weights), plan.source)
    model = onnx.ModelProto.FromString(plan.graph(entry))
    kept = [one for one in model.graph.initializer if one.name not in places]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, *(external(name, *places[name]) for name in entry["weights"])])
    return model.SerializeToString(deterministic=True), weights


def _dims(shapes: Mapping[str, list[Any]]) -> Dims:
    """Return Triton's `dims`: without the batch, -1 for a free side, [1] where nothing else is left."""
    return {name: [n if isinstance(n, int) else -1 for n in shape[1:]] or [1] for name, shape in shapes.items()}


def _head(name: str, how: str) -> str:
    return f'name: "{name}"\n{how}\nmax_batch_size: {MAX_BATCH}\n'


def _tensors(kind: str, dims: Dims, reshape: bool = False) -> str:
    """Return the `input` or `output` of a config. `reshape`: Triton's (batch, 1) becomes the graph's t (batch,)."""

    def one(name: str, sizes: list[int]) -> str:
        kind = "TYPE_INT64" if name == "t" else "TYPE_FP32"
        more = " reshape { shape: [ ] }" if reshape and name == "t" else ""
        return f'  {{ name: "{name}" data_type: {kind} dims: {sizes}{more} }}'

    listed = ",\n".join(one(name, sizes) for name, sizes in dims.items())
    return f"{kind} [\n{listed}\n]\n"


def _ensemble(prior: str, graphs: Mapping[str, Any]) -> str:
    """Return the config of the ensemble of the three graphs: x, t and v to the network's answer and the gradient."""
    made = {name: shape for graph in GRAPHS for name, shape in graphs[graph]["outputs"].items()}
    asked = {name: shape for graph in GRAPHS for name, shape in graphs[graph]["inputs"].items() if name not in made}
    read = {name for graph in GRAPHS for name in graphs[graph]["inputs"]}
    answers = {name: shape for name, shape in made.items() if name not in read}

    def maps(kind: str, names: Iterable[str]) -> str:
        return " ".join(f'{kind} {{ key: "{name}" value: "{name}" }}' for name in names)

    steps = ",\n".join(
        f'    {{ model_name: "{prior}_{graph}" model_version: -1 '
        f"{maps('input_map', graphs[graph]['inputs'])} {maps('output_map', graphs[graph]['outputs'])} }}"
        for graph in GRAPHS
    )
    tensors = _tensors("input", _dims(asked)) + _tensors("output", _dims(answers))
    return f"{tensors}ensemble_scheduling {{\n  step [\n{steps}\n  ]\n}}\n"

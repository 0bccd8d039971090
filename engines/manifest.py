"""The manifest of a plan: its required entries, with the type and range of each.

A plan may come from anybody. After `fault` has found nothing, the rest of the code uses the manifest's numbers
unchecked: no value has a wrong type, no count is negative, and none is so large that memory or time would run out.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np

from .betas import BETA_SCHEDULES, PREDICTION_TYPES, UNSAID, VARIANCE_TYPES, train_betas
from .shapes import is_shape

FORMAT = "frugal-rt plan"
ONE_SIZE, ANY_SIZE = 2, 3
"""Versions of the format: a plan for images of one size, and one for images of any size. A plan has the lowest version
whose readers can open it."""
WEIGHTS = "weights.safetensors"
HALVES = {"fp16": "float16", "bf16": "bfloat16"}
"""The type of the values that are not float32 in a graph of half precision, by its precision."""
LONGEST_SIDE = 1 << 14
MOST_STEPS = 10_000
"""The most training timesteps; known priors have 1000 or 4000."""
LEAST_SIGNAL = 1e-30
"""The least abar at the last timestep; below it 1 / abar overflows in float32."""

Check = Callable[[Any], bool]
"""Returns whether a value of parsed JSON is valid."""


def parse(data: bytes) -> Any:
    """Parse JSON. Raises ValueError for bytes that are not JSON, for NaN and infinity, and for too deep a nesting."""
    try:
        return json.loads(data, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def fault(manifest: Mapping[str, Any]) -> str:
    """Return the path of the first invalid value in a manifest of a known version, such as "image.height", or ""."""
    version = manifest["format_version"]
    wrong = _mismatch(manifest, {**_MANIFEST, "image": _IMAGE[version]}) or _wrong_mixed(manifest.get("mixed", {}))
    return wrong or next(chain(_unlisted(manifest), _off_schedule(manifest), _misfits(manifest)), "")


def graph_entries(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return every graph's entry, by its path in the manifest."""
    found = {f"graphs.{name}": entry for name, entry in manifest["graphs"].items()}
    for precision, one in manifest.get("mixed", {}).items():
        for name in () if "refused" in one else _MIXED["graphs"]:
            found[f"mixed.{precision}.graphs.{name}"] = one["graphs"][name]
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _whole(least: int, most: int) -> Check:
    return lambda value: type(value) is int and least <= value <= most


def _number(least: float, most: float) -> Check:
    """Accept numbers between the two, exclusively."""
    return lambda value: type(value) in (int, float) and least < value < most


def _text(most: int) -> Check:
    """Accept a text of at most `most` characters that can be encoded in UTF-8."""

    def check(value: Any) -> bool:
        if type(value) is not str or len(value) > most:
            return False
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
        return True

    return check


def _line(most: int) -> Check:
    """Accept a text of one line."""
    return lambda value: _text(most)(value) and len(value.splitlines()) <= 1


def _one_of(*values: Any) -> Check:
    return lambda value: type(value) in map(type, values) and value in values


def _list(check: Check, most: int) -> Check:
    return lambda value: type(value) is list and len(value) <= most and all(map(check, value))


def _any(value: Any) -> bool:
    return True


def _is_sha256(value: Any) -> bool:
    return type(value) is str and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_option(value: Any) -> bool:
    """Return whether a network's config may hold the value. Numbers are bounded here; diffusers checks the words."""
    if type(value) is list:
        return len(value) <= 64 and all(type(one) is not list and _is_option(one) for one in value)
    if type(value) in (int, float):
        return bool(-LONGEST_SIDE <= value <= LONGEST_SIDE)
    return value is None or type(value) is bool or _text(1000)(value)


def has_attention(config: Mapping[str, Any]) -> bool:
    """Return whether the UNet2DModel of a config has attention, as diffusers' default blocks do."""
    kinds = "down_block_types", "up_block_types"
    blocks = [block for kind in kinds for block in config.get(kind, ["Attn"])]
    return bool(config.get("add_attention", True)) or any("Attn" in block for block in blocks)


def is_framing(value: Any) -> bool:
    """Return whether parsed JSON is a frame of `--align`: {"centre": [x, y], "side": s}, in shares of an image side."""
    if type(value) is not dict:
        return False
    centre = value.get("centre")
    numbers = [*centre, value.get("side")] if type(centre) is list and len(centre) == 2 else []
    return bool(numbers) and all(type(one) in (int, float) and 0 < one <= 1 for one in numbers)


_GRAPH = {"member": _text(200), "inputs": {"*": _any}, "outputs": {"*": _any}, "weights": _list(_text(300), 1 << 16)}
_MANIFEST: dict[str, Any] = {
    "members": {"*": {"bytes": _whole(0, 1 << 50), "sha256": _is_sha256}},
    "prior": {"name": _line(200), "card": _text(1 << 20), "licence": _line(10_000), "framing?": is_framing},
    "schedule": {
        "num_train_timesteps": _whole(2, MOST_STEPS),
        "beta_schedule?": _one_of(*BETA_SCHEDULES),
        "beta_start?": _number(0, 1),
        "beta_end?": _number(0, 1),
        "trained_betas?": lambda value: value is None or _list(_number(0, 1), MOST_STEPS)(value),
        "prediction_type?": _one_of(*PREDICTION_TYPES),
        "variance_type?": _one_of(*VARIANCE_TYPES),
    },
    "network": {
        "architecture?": _one_of("UNet2DModel"),
        "config": {
            "*": _is_option,
            "layers_per_block?": _whole(1, 64),
            **dict.fromkeys(("down_block_types?", "up_block_types?"), _list(_text(100), 64)),
        },
        "pixel_unshuffle": _whole(1, 64),
        "learned_variance": _one_of(False, True),
    },
    "graphs": dict.fromkeys(("embedding", "forward", "pullback"), _GRAPH),
    "precision": _one_of("float32"),
    "tools": {"*": _text(200)},
    "parity?": {"output?": _number(-1, math.inf), "gradient?": _number(-1, math.inf)},
    "engines?": lambda value: type(value) is list,  # `tensorrt.store` checks its entries
}
"""Checks of a manifest's values. A key that ends in "?" may be absent, and "*" stands for every key."""
_IMAGE: dict[int, dict[str, Any]] = {
    ONE_SIZE: {
        "channels": _whole(1, 16),
        "height": _whole(1, LONGEST_SIDE),
        "width": _whole(1, LONGEST_SIDE),
        "range": _one_of([-1, 1]),
    },
    ANY_SIZE: {
        "channels": _whole(1, 16),
        "height": _one_of(None),
        "width": _one_of(None),
        "range": _one_of([-1, 1]),
        "stride": _whole(1, 1024),
        "side": _whole(1, LONGEST_SIDE),
        "reach": _whole(1, LONGEST_SIDE),
    },
}
"""Checks of the manifest's `image`, by the format's version."""
_MIXED = {
    "graphs": {
        name: {**_GRAPH, "types": {"*": _one_of(*HALVES.values())}, "member": _text(200)}
        for name in ("forward", "pullback")
    }
}
_MEASURED = {**_MIXED, "parity": {"output": _number(-1, math.inf), "gradient": _number(-1, math.inf)}}
_REFUSED = {"refused": _text(1000)}
"""Checks of an entry under `mixed` for a precision that was refused at export."""


def _mismatch(value: Any, shape: Any, path: str = "") -> str:
    """Return the path of the first value that does not fit `shape`, a Check or a mapping of keys to shapes; or ""."""
    if callable(shape):
        return "" if shape(value) else path
    if not isinstance(value, dict):
        return path
    named = {key.removesuffix("?"): one for key, one in shape.items() if key != "*"}
    absent = {key.removesuffix("?") for key in shape if key.endswith("?")} - value.keys()
    keys = [key for key in named if key not in absent]
    keys += [key for key in value if key not in named] if "*" in shape else []
    places = (_mismatch(value.get(key), named.get(key, shape.get("*")), f"{path}.{key}".strip(".")) for key in keys)
    return next(filter(None, places), "")


def _wrong_mixed(mixed: Any) -> str:
    """Return the path of the first invalid value in `mixed`, or ""."""
    if not isinstance(mixed, dict):
        return "mixed"
    for precision, one in mixed.items():
        if precision not in HALVES:
            return f"mixed.{precision}"
        keys = one if isinstance(one, dict) else {}
        shape = _REFUSED if "refused" in keys else _MEASURED if "parity" in keys else _MIXED
        if wrong := _mismatch(one, shape, f"mixed.{precision}"):
            return wrong
    return ""


def _unlisted(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths of values that name a member which the plan does not list."""
    named = {f"{place}.member": entry["member"] for place, entry in graph_entries(manifest).items()}
    named[f"members.{WEIGHTS}"] = WEIGHTS
    yield from (place for place, member in named.items() if member not in manifest["members"])


def _off_schedule(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield paths in the schedule whose values contradict others, or reduce abar below LEAST_SIGNAL."""
    schedule = manifest["schedule"]
    betas = schedule.get("trained_betas")
    if betas is not None and len(betas) != schedule["num_train_timesteps"]:
        yield "schedule.trained_betas"
    if np.log1p(-train_betas(schedule)).sum() < math.log(LEAST_SIGNAL):
        yield "schedule.beta_end" if betas is None else "schedule.trained_betas"
    learned = {**UNSAID, **schedule}["variance_type"] == "learned_range"
    if learned != manifest["network"]["learned_variance"]:
        yield "network.learned_variance"


def _misfits(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield paths where the image, the network and its graphs do not fit one another."""
    image, network = manifest["image"], manifest["network"]
    free = manifest["format_version"] == ANY_SIZE
    if free and image["side"] % image["stride"]:
        yield "image.stride"
    sides = [image["stride"]] if free else [image["height"], image["width"]]
    if any(side % network["pixel_unshuffle"] for side in sides):
        yield "network.pixel_unshuffle"
    picture = ["batch", image["channels"], *(["height", "width"] if free else sides)]
    answers = {"out": picture, **({"variance": picture} if network["learned_variance"] else {})}
    entries = graph_entries(manifest)
    for place, entry in entries.items():
        for kind in ("inputs", "outputs"):
            yield from (f"{place}.{kind}.{name}" for name, one in entry[kind].items() if not is_shape(one, free))
    embedding = entries["graphs.embedding"]["outputs"].get("embedding", [])
    if entries["graphs.embedding"]["inputs"] != {"t": ["batch"]}:
        yield "graphs.embedding.inputs"
    if len(entries["graphs.embedding"]["outputs"]) != 1 or len(embedding) != 2:
        yield "graphs.embedding.outputs"
    for place, entry in entries.items():
        half, values = HALVES.get(place.split(".")[1]), {**entry["inputs"], **entry["outputs"]}
        if half and any(kind != half or name not in values for name, kind in entry["types"].items()):
            yield f"{place}.types"
        if not place.endswith("forward"):
            continue
        kept = {name: one for name, one in entry["outputs"].items() if name.startswith("kept:")}
        if entry["inputs"] != {"x": picture, "embedding": embedding}:
            yield f"{place}.inputs"
        if entry["outputs"] != {**answers, **kept}:
            yield f"{place}.outputs"
        back, wanted = place.replace("forward", "pullback"), {**kept, "embedding": embedding, "v": picture}
        taken = entries[back]["inputs"]
        if "v" not in taken or any(wanted.get(name) != one for name, one in taken.items()):
            yield f"{back}.inputs"
        if entries[back]["outputs"] != {"gradient": picture}:
            yield f"{back}.outputs"

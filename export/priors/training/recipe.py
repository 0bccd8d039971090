"""Recipes: how an embedded prior is trained, in one JSON file beside its weights."""

import json
import math
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from ....engines.errors import InputError


@dataclass(frozen=True)
class Batch:
    """A kind of batch: `crops` squares of `side` pixels, drawn in a `share` of the steps."""

    side: int
    crops: int
    share: float

    def __post_init__(self) -> None:
        _whole("side", self.side)
        _whole("crops", self.crops)
        _number("share", self.share, 0, 1)


@dataclass(frozen=True)
class Recipe:
    """The settings of a training. Only the first weights, the seed and the number of crops are given elsewhere.

    Raises InputError for a value out of range.
    """

    shards: str
    """Pattern of the tar files of photographs, in the data folder."""
    held_out: str
    """Tar file or folder of photographs that are never trained on, in the data folder."""
    network: dict[str, Any]
    """Arguments of diffusers' UNet2DModel. With 3 r^2 channels it works on r x r pixel-unshuffled images."""
    batches: tuple[Batch, ...]
    rate: float
    """Learning rate after the warm-up."""
    warm_up: int
    """Crops over which the rate rises to `rate`."""
    betas: tuple[float, float]
    """The betas of AdamW."""
    weight_decay: float
    average_part: float
    """n, where the average of the weights spans an n-th of the crops seen."""
    optimiser: str = "adamw"
    """"adamw", or "muon": Muon for all matrices between the first and the last convolution, and AdamW for the rest."""
    average_limit: int | None = None
    """The most crops that the average spans."""
    cosine: int | None = None
    """Crops over which the rate falls to zero along a cosine. None: constant, until a cool-down is begun."""
    index: str | None = None
    """Table, separated by tabs, with the `group` of each `file` of the shards."""
    groups: dict[str, float] | None = None
    """Share of the crops for each group of the index. None: each photograph once an epoch."""
    t_power: float = 1.0
    """p, where timesteps are 1000 u^p, with u uniform on [0, 1) and stratified in a batch."""
    loss_floor: float = 0.2
    """The floor of `denoising.loss_of`."""
    clip: float = 1.0
    """Largest norm of the gradient."""

    def __post_init__(self) -> None:
        for name in ("shards", "held_out"):
            _text(name, getattr(self, name))
        if self.optimiser not in ("adamw", "muon"):
            raise InputError(f'optimiser must be "adamw" or "muon"; it is {self.optimiser!r}')
        for name in ("rate", "clip", "t_power"):
            _number(name, getattr(self, name), 0, 100)
        _number("weight_decay", self.weight_decay, 0, 1, zero=True)
        _number("loss_floor", self.loss_floor, 0, 1, zero=True)
        _number("average_part", self.average_part, 1, 1e6)
        _whole("warm_up", self.warm_up)
        for name in ("average_limit", "cosine"):
            if getattr(self, name) is not None:
                _whole(name, getattr(self, name))
        if len(self.betas) != 2:
            raise InputError(f"betas must be two numbers; they are {list(self.betas)}")
        for beta in self.betas:
            _number("betas", beta, 0, 0.99999, zero=True)
        _shares("batches", [kind.share for kind in self.batches])
        if (self.groups is None) != (self.index is None):
            raise InputError("groups and index need each other: the index tells the group of each photograph")
        if self.groups is None and len(self.batches) > 1:
            raise InputError("batches must be of one kind where no groups are given, as epochs are counted in steps")
        if self.groups is not None:
            _text("index", self.index)
            for name, share in self.groups.items():
                _number(f"the share of {name}", share, 0, 1, zero=True)
            _shares("groups", list(self.groups.values()))
        channels, levels = self.network.get("in_channels"), self.network.get("down_block_types")
        if type(channels) is not int or channels < 3 or channels != 3 * self.unshuffle**2:
            raise InputError(f"in_channels of the network must be 3, 12, 27 or 48 (3 r^2); it is {channels!r}")
        if not isinstance(levels, list) or not levels:
            raise InputError(f"down_block_types of the network must be a list; it is {levels!r}")
        for kind in self.batches:
            if kind.side % self.stride:
                raise InputError(
                    f"side must be a multiple of {self.stride}, as the network halves its images; it is {kind.side}"
                )

    @property
    def unshuffle(self) -> int:
        """r, where the network works on r x r pixel-unshuffled images."""
        return math.isqrt(self.network["in_channels"] // 3)

    @property
    def stride(self) -> int:
        """Pixels that the sides of a picture must be multiples of."""
        return self.unshuffle << (len(self.network["down_block_types"]) - 1)


def read_recipe(path: Path) -> Recipe:
    """Read and check the recipe at `path`. Raises InputError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the recipe {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"the recipe {path.name} is not JSON: {error}") from error
    for name, kind in (("batches", list), ("betas", list), ("network", dict), ("groups", dict)):
        if isinstance(content, dict) and name in content and not isinstance(content[name], kind):
            raise InputError(f"{name} must be {'a list' if kind is list else 'an object'}; it is {content[name]!r}")
    recipe = dict(_fields(Recipe, content, "the recipe"))
    recipe["batches"] = tuple(Batch(**_fields(Batch, kind, "a kind of batch")) for kind in recipe["batches"])
    recipe["betas"] = tuple(recipe["betas"])
    return Recipe(**recipe)


def _fields(kind: type, content: Any, what: str) -> dict[str, Any]:
    """Return `content` after checking its keys: fields of the dataclass `kind`, all those without a default."""
    if not isinstance(content, dict):
        raise InputError(f"{what} must be an object of fields; it is {content!r}")
    known = {field.name: field.default is MISSING for field in fields(kind)}
    for name in content:
        if name not in known:
            raise InputError(f"{what} has no field {name!r}; its fields are {', '.join(known)}")
    for name, needed in known.items():
        if needed and name not in content:
            raise InputError(f"{what} lacks {name}")
    return content


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise InputError(f"{name} must be a name; it is {value!r}")


def _whole(name: str, value: Any) -> None:
    if type(value) is not int or value < 1:
        raise InputError(f"{name} must be a whole number above 0; it is {value!r}")


def _number(name: str, value: Any, low: float, high: float, zero: bool = False) -> None:
    if type(value) not in (int, float) or not (low < value <= high or (zero and value == 0)):
        raise InputError(f"{name} must be a number {'from' if zero else 'above'} {low} to {high:g}; it is {value!r}")


def _shares(name: str, shares: list[float]) -> None:
    if abs(sum(shares) - 1) > 1e-6:
        raise InputError(f"the shares of {name} must sum to 1; they sum to {sum(shares):g}")

"""The state of a training in one safetensors file: weights, their average, the optimisers' moments, the progress."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from ....engines.errors import FrugalError, InputError
from ....engines.files import atomic_write, make_folder
from .denoising import SCHEDULER, as_input, loss_of
from .muon import Muon
from .pictures import Draw
from .recipe import Recipe
from .widths import carried_over

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
SCHEDULER_CONFIG = "scheduler/scheduler_config.json"


@dataclass
class Progress:
    """The progress of a training, in steps and crops."""

    step: int = 0
    crops: int = 0
    """Crops seen, including those that the first weights had seen."""
    start: int = 0
    """Crops that the first weights had seen."""
    cool_from: int | None = None
    """Crops seen when the cool-down began."""
    cool_down: int = 0
    """Crops that the cool-down lasts."""

    def begin_cool_down(self, crops: int) -> None:
        """Begin a cool-down of `crops` crops, or continue it. Raises InputError where another one has begun."""
        if self.cool_from is None:
            self.cool_from, self.cool_down = self.crops, crops
        elif self.cool_down != crops:
            raise InputError(f"a cool-down of {self.cool_down} crops began at crop {self.cool_from}; go on with that")

    def end(self, recipe: Recipe) -> int | None:
        """Return the number of crops after which the learning rate is zero, or None."""
        if self.cool_from is not None:
            return self.cool_from + self.cool_down
        return recipe.cosine

    def rate(self, recipe: Recipe, batch: int) -> float:
        """Return the learning rate of the next step, of `batch` crops.

        A cool-down multiplies it by 1 - sqrt(share of the cool-down done), which Hägele et al. (2024) found best.
        """
        rate = recipe.rate * min(1.0, (self.crops - self.start + batch) / recipe.warm_up)
        if recipe.cosine is not None:
            rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, self.crops / recipe.cosine)))
        if self.cool_from is not None:
            rate *= 1 - math.sqrt(min(1.0, (self.crops - self.cool_from) / self.cool_down))
        return rate

    def average_share(self, recipe: Recipe, batch: int) -> float:
        """Return s of the average after a step of `batch` = B crops, w <- (1 - s) w + s w_now.

        s = n B / (n B + B + crops) averages over an n-th of the crops seen, and s = B / limit over `limit` crops.
        """
        part = recipe.average_part * batch
        share = part / (part + batch + self.crops)
        return share if recipe.average_limit is None else max(share, batch / recipe.average_limit)


class Training:
    """A network in training by a recipe, on one device."""

    def __init__(self, recipe: Recipe, device: str, bf16: bool, compiled: bool = False):
        self.recipe, self.device, self.bf16 = recipe, device, bf16
        self.network = build_network(recipe, device)
        self.called = torch.compile(self.network) if compiled else self.network
        self.weights: dict[str, torch.Tensor] = dict(self.network.named_parameters())
        self.average = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.matrices: dict[str, torch.Tensor] = {
            name: _matrix(weight) for name, weight in self.weights.items() if _is_muons(recipe, name, weight)
        }
        rest = [weight for name, weight in self.weights.items() if name not in self.matrices]
        common: dict[str, Any] = {"lr": recipe.rate, "weight_decay": recipe.weight_decay}
        self.optimisers: list[Any] = [torch.optim.AdamW(rest, betas=recipe.betas, fused=True, **common)]
        if self.matrices:
            precision = torch.bfloat16 if device == "cuda" else torch.float32  # many CPUs only emulate bfloat16
            self.optimisers.append(Muon(self.matrices.values(), precision=precision, **common))
        self.progress = Progress()

    def start_from(self, folder: Path, seen: int) -> None:
        """Load the weights of a prior in diffusers' layout, which has seen `seen` crops. Raises InputError."""
        self._copy(read_prior_weights(folder), self.weights, folder.name)
        self._copy(self.weights, self.average, folder.name)
        self.progress = Progress(crops=seen, start=seen)

    def widen(self, folder: Path, seed: int) -> None:
        """Start from a prior whose network has other widths, by `widths.carried_over`. Raises InputError."""
        weights, config = read_network(folder)
        self._copy(carried_over(weights, config, self.network.config, seed), self.weights, folder.name)
        self._copy(self.weights, self.average, folder.name)

    def step(self, x0: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Train on a batch x0 (B, 3, H, W) at timesteps t (B,), on the CPU; return its loss, on the device."""
        recipe, progress, batch = self.recipe, self.progress, len(x0)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = progress.rate(recipe, batch)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            loss = loss_of(self.called, x0, t, noise, recipe.unshuffle, recipe.loss_floor)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip)
        for name, matrix in self.matrices.items():
            gradient = self.weights[name].grad
            matrix.grad = None if gradient is None else _matrix(gradient)
        for optimiser in self.optimisers:
            optimiser.step()
        self.network.zero_grad()
        progress.step, progress.crops = progress.step + 1, progress.crops + batch
        with torch.no_grad():
            torch._foreach_lerp_(
                [*self.average.values()], [*self.weights.values()], progress.average_share(recipe, batch)
            )
        return loss.detach()

    def step_on(self, draw: Draw) -> torch.Tensor:
        """Train on a batch of pictures; return its loss, on the device."""
        device = self.device
        x0 = as_input(draw.crops, device)
        noise = torch.randn(x0.shape, generator=torch.Generator(device).manual_seed(draw.noise_seed), device=device)
        return self.step(x0, torch.from_numpy(draw.t), noise)

    def save(self, out: Path) -> None:
        """Write the average as a prior in diffusers' layout, and then the checkpoint beside it.

        A training that is killed in between makes the prior again, as it goes on from the checkpoint before.
        """
        write_prior(out, self.network, self.average)
        tensors = {}
        for name, weight in self.weights.items():
            tensors[f"network.{name}"], tensors[f"average.{name}"] = weight.detach(), self.average[name]
        for name, _, state in self._states():
            tensors |= {f"{moment}.{name}": state[moment] for moment in self._moments(name)}
        whole = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        _write(out / CHECKPOINT, save(whole, {"progress": json.dumps(asdict(self.progress))}))

    def load(self, out: Path) -> None:
        """Load the checkpoint in `out`. Raises InputError where it is of another network or damaged."""
        saved = _tensors(out / CHECKPOINT)
        with safe_open(out / CHECKPOINT, "pt") as file:
            self.progress = Progress(**json.loads(file.metadata()["progress"]))
        for name, tensors in (("network", self.weights), ("average", self.average)):
            self._copy(_part(saved, name), tensors, CHECKPOINT)
        step = torch.tensor(float(self.progress.step), device=self.device)
        for name, held, state in self._states():
            for moment in self._moments(name):
                if (tensor := saved.get(f"{moment}.{name}")) is None:
                    raise InputError(f"{CHECKPOINT} is of another optimiser than the recipe's; begin in another folder")
                # in the weight's memory format: the fused AdamW pairs elements by their place in memory
                state[moment] = torch.empty_like(held, requires_grad=False).copy_(tensor)
            if name not in self.matrices:
                state["step"] = step.clone()

    def _moments(self, name: str) -> tuple[str, ...]:
        """Return the names under which the weight's optimiser keeps its moments."""
        return ("momentum_buffer",) if name in self.matrices else ("exp_avg", "exp_avg_sq")

    def _states(self) -> Iterator[tuple[str, torch.Tensor, dict[str, Any]]]:
        """Yield each weight's name, the tensor that its optimiser holds, and what that keeps for it."""
        for name, weight in self.weights.items():
            held = self.matrices.get(name, weight)
            yield name, held, self.optimisers[name in self.matrices].state[held]

    def _copy(self, source: dict[str, torch.Tensor], target: dict[str, torch.Tensor], what: str) -> None:
        if _shapes(source) != _shapes(target):
            raise InputError(f"the weights in {what} are of another network than the recipe's")
        with torch.no_grad():
            for name, tensor in target.items():
                tensor.copy_(source[name])


def _is_muons(recipe: Recipe, name: str, weight: torch.Tensor) -> bool:
    """Tell whether Muon trains a weight: one with inputs and outputs, but for the first and the last convolution's."""
    return recipe.optimiser == "muon" and weight.ndim > 1 and not name.startswith(("conv_in.", "conv_out."))


def _matrix(weight: torch.Tensor) -> torch.Tensor:
    """View a weight (outputs, inputs, ...), channels last, as a matrix (outputs, the rest) in the same memory."""
    return weight.detach().movedim(1, -1).flatten(1)


def build_network(recipe: Recipe, device: str) -> Any:
    """Build the recipe's UNet2DModel with random weights, channels last. Raises InputError where diffusers refuses."""
    try:
        network: Any = UNet2DModel(**recipe.network)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"the recipe's network is not one that UNet2DModel builds: {error}") from error
    return network.to(device, memory_format=torch.channels_last)


def read_prior_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a prior with v-prediction in diffusers' layout. Raises InputError."""
    try:
        prediction = json.loads((folder / SCHEDULER_CONFIG).read_text()).get("prediction_type")
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} holds no readable {SCHEDULER_CONFIG}: {error}") from error
    if prediction != "v_prediction":
        raise InputError(f"{folder.name} predicts {prediction}; only a v_prediction can be trained on")
    return _tensors(folder / WEIGHTS)


def read_network(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read the weights of a prior and its network's config, defaults included. Raises InputError."""
    weights, of = read_prior_weights(folder), f"unet/config.json of {folder.name}"
    try:
        with torch.device("meta"):  # which gives the weights no memory, whatever their sizes
            network: Any = UNet2DModel.from_config(UNet2DModel.load_config(folder / "unet"))
    except (OSError, TypeError, ValueError, KeyError, ZeroDivisionError) as error:
        raise InputError(f"cannot build the network by {of}: {error}") from error
    if _shapes(network.state_dict()) != _shapes(weights):
        raise InputError(f"the weights are of another network than that of {of}")
    return weights, dict(network.config)


def write_prior(out: Path, network: Any, weights: dict[str, torch.Tensor]) -> None:
    """Write the folder that `frugal-rt export --weights` reads: float16 weights and the configs.

    Raises FrugalError, and writes nothing, where a weight is beyond float16.
    """
    half = {name: tensor.detach().to("cpu", torch.float16).contiguous() for name, tensor in weights.items()}
    for name, tensor in half.items():
        if not torch.isfinite(tensor).all():
            raise FrugalError(f"{name} holds values beyond 65504, which float16 does not; start from other weights")
    index: dict[str, Any] = {
        "_class_name": "DDPMPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    _write(out / WEIGHTS, save(half))
    _write(out / "unet/config.json", network.to_json_string().encode())
    _write(out / SCHEDULER_CONFIG, _json(SCHEDULER))
    _write(out / "model_index.json", _json(index))


def _part(saved: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with `name` and a dot, under the rest of their names."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in saved.items() if key.startswith(f"{name}.")}


def _shapes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read the weights {path}: {error}") from error


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=2).encode() + b"\n"


def _write(path: Path, content: bytes) -> None:
    make_folder(path.parent)
    with atomic_write(path) as file:
        file.write(content)

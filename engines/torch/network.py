"""The prior's network as a torch module, rebuilt from a plan's manifest. Imports torch and diffusers when called."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from ..errors import MissingExtra, PlanError, one_line
from ..extras import import_torch

if TYPE_CHECKING:
    from torch.nn import Module


def build_network(network: Mapping[str, Any]) -> "Module":
    """Build the module `(x (B,C,H,W), t (B,)) -> out`, or `-> (out, variance)` where the variance is learned.

    Its parameters are on the meta device. `network` is the manifest's entry: the diffusers config of a UNet2DModel, the
    pixel-unshuffle factor, and whether the variance is learned. Parameters are named `unet.<diffusers name>`, as in the
    plan's weights. Raises PlanError for a config that diffusers refuses, MissingExtra.
    """
    torch = import_torch("The torch backend")
    try:
        from diffusers.models.unets.unet_2d import UNet2DModel
    except ImportError as error:
        raise MissingExtra("The torch backend", "diffusers", "torch") from error

    class PixelUNet(torch.nn.Module):  # type: ignore[name-defined]
        """A UNet over r x r pixel-unshuffled images: pixel_shuffle(unet(pixel_unshuffle(x, r), t), r)."""

        def __init__(self) -> None:
            super().__init__()
            self.unet = UNet2DModel.from_config(network["config"])

        def forward(self, x, t):  # type: ignore[no-untyped-def]
            r = network["pixel_unshuffle"]
            inner = torch.nn.functional.pixel_unshuffle(x, r) if r > 1 else x
            inner = self.unet(inner, t, return_dict=False)[0]
            out = torch.nn.functional.pixel_shuffle(inner, r) if r > 1 else inner
            return torch.chunk(out, 2, dim=1) if network["learned_variance"] else out

    try:
        with torch.device("meta"):
            module: Any = PixelUNet()
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise PlanError(
            f"the plan's network config describes none that diffusers can build: {one_line(error)}"
        ) from error
    module.eval().requires_grad_(False)
    return cast("Module", module)


def load_weights(module: "Module", tensors: Mapping[str, Any], source: str) -> None:
    """Load the tensors into the module, numpy arrays without a copy. Raises PlanError if they do not fit."""
    torch = import_torch("The torch backend")
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    try:
        module.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise PlanError(f"{source}: the weights do not fit the network its config describes; {first}") from error
    module.requires_grad_(False)

"""The number of floating-point operations of a prior's network."""

from collections.abc import Mapping
from typing import Any

from .extras import import_torch, installed
from .torch.network import build_network


def network_flops(manifest: Mapping[str, Any]) -> dict[str, int] | None:
    """Count the floating-point operations for one image: `forward`, and `gradient`, the additional ones of a pullback.

    The image has the plan's size, or for a plan of any size the one of `Plan.image_shape`. Torch counts on shapes
    alone: a multiply-add is 2, normalisations and activations are left out. None where torch or diffusers is missing.
    """
    if not all(installed(name) for name in ("torch", "diffusers")):
        return None
    torch = import_torch("Counting operations")
    from torch.utils.flop_counter import FlopCounterMode

    module, image = build_network(manifest["network"]), manifest["image"]
    height, width = (image[side] or image["side"] for side in ("height", "width"))
    x = torch.empty(1, image["channels"], height, width, device="meta", requires_grad=True)
    t = torch.zeros(1, dtype=torch.int64, device="meta")
    with FlopCounterMode(display=False) as counter:
        out = module(x, t)
        forward = counter.get_total_flops()
        (out[0] if isinstance(out, tuple) else out).sum().backward()
    return {"forward": forward, "gradient": counter.get_total_flops() - forward}

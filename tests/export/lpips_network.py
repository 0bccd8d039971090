"""LPIPS with random weights, for our graph and as a module in torch."""

import numpy as np

from frugal_rt.export.lpips import CONVOLUTIONS, PACKAGE_NAMES, POOLED


def random_lpips(bias: float = 0.0) -> dict[str, np.ndarray]:
    """Return random weights, scaled so that features keep their magnitude."""
    random = np.random.default_rng(0)
    weights = {"shift": np.array([-0.03, -0.088, -0.188]), "scale": np.array([0.458, 0.448, 0.45])}
    shapes = ((64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3))
    for i, (out, taken, side) in enumerate(shapes):
        fan = taken * side * side
        weights[f"conv{i + 1}_weight"] = random.standard_normal((out, taken, side, side)) * np.sqrt(2 / fan)
        weights[f"conv{i + 1}_bias"] = 0.1 * random.standard_normal(out) + bias
        weights[f"lin{i}"] = random.uniform(0, 1, out)
    return {name: array.astype(np.float32) for name, array in weights.items()}


def torch_lpips(weights):
    """Return the architecture in torch, (image, reference) -> (N, 1, 1, 1), and the package's state dict."""
    import torch

    class Module(torch.nn.Module):
        def forward(self, image, reference):
            w = {name: torch.from_numpy(array) for name, array in weights.items()}
            total = 0
            for i, (f, g) in enumerate(zip(self.features(image, w), self.features(reference, w), strict=True)):
                f, g = (one / (one.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for one in (f, g))
                weighted = (w[f"lin{i}"].view(1, -1, 1, 1) * (f - g) ** 2).sum(1, keepdim=True)
                total = total + weighted.mean((2, 3), keepdim=True)
            return total

        def features(self, x, w):
            x = (x - w["shift"].view(1, 3, 1, 1)) / w["scale"].view(1, 3, 1, 1)
            for i, (stride, padding) in enumerate(CONVOLUTIONS):
                if i in POOLED:
                    x = torch.nn.functional.max_pool2d(x, 3, 2)
                kernel, bias = w[f"conv{i + 1}_weight"], w[f"conv{i + 1}_bias"]
                x = torch.relu(torch.nn.functional.conv2d(x, kernel, bias, stride, padding))
                yield x

        def state_dict(self):
            names = {"scaling_layer.shift": "shift", "scaling_layer.scale": "scale"}
            for i, name in enumerate(PACKAGE_NAMES):
                names |= {f"net.{name}.weight": f"conv{i + 1}_weight", f"net.{name}.bias": f"conv{i + 1}_bias"}
                names[f"lin{i}.model.1.weight"] = f"lin{i}"
            state = {theirs: torch.from_numpy(weights[ours]) for theirs, ours in names.items()}
            for i in range(5):
                state[f"lin{i}.model.1.weight"] = state[f"lin{i}.model.1.weight"].view(1, -1, 1, 1)
            state["scaling_layer.shift"] = state["scaling_layer.shift"].view(1, 3, 1, 1)
            state["scaling_layer.scale"] = state["scaling_layer.scale"].view(1, 3, 1, 1)
            return state

    return Module()

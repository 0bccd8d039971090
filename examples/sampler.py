"""Use frugal-rt like a sampler of deepinv: a physics, a measurement of tensors (B, C, H, W) on [0, 1], and a model.

python examples/sampler.py photo.jpg restored.png
"""

import sys

import torch

from frugal_rt import Restorer, operators, psnr, read, write


def main() -> None:
    x = (torch.from_numpy(read(sys.argv[1], size=(64, 64)))[None] + 1) / 2
    physics, sigma = operators.SuperResolution((3, 64, 64), 2), 0.02
    y = physics.A(x) + sigma * torch.randn(1, *physics.measurement_shape, generator=torch.manual_seed(0))
    model = Restorer.load("photo").at(64, 64)
    x_hat = model.restore(y, physics, sigma=sigma, aim="detail", range=(0, 1)).image
    write(sys.argv[2], 2 * x_hat[0] - 1)
    print(f"{psnr(2 * x - 1, 2 * x_hat - 1):.1f} dB")


if __name__ == "__main__":
    main()

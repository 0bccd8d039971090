"""Restore from three nonlinear operators, each written in a few lines, by DPS.

    python examples/nonlinear.py celeba face.png hdr --steps 100

writes hdr.png: the picture, its measurement and the restoration. The operators have no A^T, so DPS takes every step.
"""

import argparse
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from frugal_rt import Restorer, operators, psnr, read, to_pil

Shape = tuple[int, int, int]

# ITU-T T.81, Annex K: quantisation of luminance and of chrominance at quality 50, and JFIF's colours.
LUMA = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
CHROMA = (
    """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99""" + 32 * " 99"
)
YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def hdr(shape: Shape, gain: float = 2.0) -> operators.Custom:
    """Expose `gain` times too long: y = clip(gain x, -1, 1). Clipped pixels have no gradient."""
    return operators.Custom(
        shape,
        shape,
        apply=lambda x: (gain * x).clip(-1.0, 1.0),
        vjp=lambda x, r: gain * r * (gain * x < 1) * (gain * x > -1),
        name="hdr",
    )


def phase(shape: Shape) -> operators.Custom:
    """Measure the modulus of the Fourier transform of the image in a black frame (phase retrieval); vjp by autograd."""
    import torch

    channels, height, width = shape
    top, left = height // 2, width // 2

    def modulus(x: Any) -> Any:
        framed = torch.nn.functional.pad(x, (left, width - left, top, height - top))
        return torch.fft.fft2(framed, norm="ortho").abs()

    return operators.Custom.from_torch(shape, (channels, 2 * height, 2 * width), modulus, name="phase")


def jpeg(shape: Shape, quality: int = 10) -> operators.Custom:
    """Quantise as JPEG, without entropy coding and chroma subsampling.

    Rounding's Jacobian is taken to be the identity.
    """
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    base = np.array([[int(n) for n in table.split()] for table in (LUMA, CHROMA, CHROMA)]).reshape(3, 1, 1, 8, 8)
    steps = np.clip((base * scale + 50) // 100, 1, 255)
    cosines = np.cos(np.pi / 8 * np.outer(np.arange(8), np.arange(8) + 0.5)) / 2
    cosines[0] /= np.sqrt(2)
    _, height, width = shape

    def apply(x: Any) -> Any:
        xp = array_namespace(x)
        to_ycc, to_rgb, dct, q = (
            xp.asarray(a, dtype=x.dtype, device=x.device) for a in (YCC, np.linalg.inv(YCC), cosines, steps)
        )
        levels = xp.tensordot(to_ycc, (x + 1) * 127.5, axes=((1,), (1,)))  # (3, B, H, W)
        levels = levels - 128 * xp.asarray([[[[1]]], [[[0]]], [[[0]]]], dtype=x.dtype, device=x.device)
        blocks = xp.permute_dims(xp.reshape(levels, (3, -1, height // 8, 8, width // 8, 8)), (1, 0, 2, 4, 3, 5))
        blocks = dct.T @ (xp.round(dct @ blocks @ dct.T / q) * q) @ dct
        levels = xp.reshape(xp.permute_dims(blocks, (1, 0, 2, 4, 3, 5)), levels.shape)
        levels = levels + 128 * xp.asarray([[[[1]]], [[[0]]], [[[0]]]], dtype=x.dtype, device=x.device)
        rgb = xp.permute_dims(xp.tensordot(to_rgb, levels, axes=((1,), (0,))), (1, 0, 2, 3))
        return (rgb / 127.5 - 1).clip(-1.0, 1.0)

    return operators.Custom(shape, shape, apply, vjp=lambda x, r: r, name="jpeg")


EXAMPLES = {"hdr": hdr, "jpeg": jpeg, "phase": phase}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plan")
    parser.add_argument("picture")
    parser.add_argument("example", choices=EXAMPLES)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--sigma", type=float, default=0.01)
    asked = parser.parse_args()
    restorer = Restorer.load(asked.plan)
    _, height, width = restorer.image_shape
    clean = read(asked.picture, size=(width, height))
    operator = EXAMPLES[asked.example](restorer.image_shape)
    noise = np.random.default_rng(0).standard_normal(operator.measurement_shape)
    y = np.asarray(operator.A(clean) + asked.sigma * noise, np.float32)
    result = restorer.restore(y, operator, sigma=asked.sigma, steps=asked.steps)
    shown = y if y.shape == clean.shape else (y * 2 - 1)[:, ::2, ::2]
    to_pil(np.concatenate([clean, shown, result.image], axis=2)).save(f"{asked.example}.png")
    print(f"{asked.example}, {asked.steps} steps: {psnr(clean, result.image):.1f} dB")


if __name__ == "__main__":
    main()

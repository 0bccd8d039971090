"""Operators that are refused, a torch function as one, and deepinv's of the same degradation."""

import numpy as np
import pytest
import torch

from frugal_rt import InputError, operators
from frugal_rt.runtime.operators import Decomposable

from .cases import lopsided, normal, spots


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: operators.SuperResolution((3, 64, 64), 5), "x5 does not divide 64x64"),
        (lambda: operators.Bicubic((3, 64, 64), 5), "x5 does not divide 64x64"),
        (lambda: operators.Inpaint((3, 8, 8), np.ones((8, 8))), "every pixel is marked missing"),
        (lambda: operators.Inpaint((3, 8, 8), np.ones((4, 8))), "the mask is 8x4 but the image is 8x8"),
        (lambda: operators.Colorize((3, 8, 8), "luma"), "no grey weights 'luma'"),
        (lambda: operators.Colorize((1, 8, 8)), "3 channels"),
        (lambda: operators.Deblur.gaussian((3, 8, 8), 0), "standard deviation"),
        (lambda: operators.Deblur.uniform((3, 8, 8), 4), "odd size"),
        (lambda: operators.Deblur((3, 8, 8), np.array([1, 2, 4])), "the same from both ends"),
        (lambda: operators.Deblur((3, 8, 8), np.ones(4)), "an odd number of weights"),
        (lambda: operators.Circular((3, 8, 8), np.ones((3, 9))), "the kernel is 9x3, larger than the image, 8x8"),
        (lambda: operators.Circular((3, 8, 8), np.ones(3)), "a kernel is a real array"),
        (lambda: operators.Circular((3, 8, 8), np.zeros((3, 3))), "sum to more than 0"),
        (lambda: operators.Circular((3, 8, 8), np.full((3, 3), np.nan)), "must be finite"),
        (lambda: operators.Circular((3, 8, 8), np.ones((3, 3)), 3), "x3 does not divide"),
        (lambda: operators.Mirrored((3, 8, 8), lopsided()), "its own mirror image"),
        (lambda: operators.Matrix((3, 8, 8), np.ones((5, 60))), "the matrix is 5 x 60; for images of 8x8 it needs 64"),
        (lambda: operators.Matrix((3, 8, 8), np.ones(64)), "the matrix is 64; for"),
        (lambda: operators.Matrix((3, 8, 8), np.zeros((5, 64))), "measure something"),
        (lambda: operators.Matrix((3, 8, 8), np.full((5, 64), np.inf)), "finite"),
        (lambda: operators.Matrix((3, 8, 8), np.ones((5, 64), complex)), "real"),
        (lambda: operators.Matrix((3, 8, 8), np.broadcast_to(np.ones(64), (2**21, 64))), "entries; up to"),
        (lambda: operators.WalshHadamard((3, 8, 12), 0.5), "powers of two; the image is 12x8"),
        (lambda: operators.WalshHadamard((3, 8, 8), 0), "above 0 and up to 1"),
        (lambda: operators.Masked(operators.Bicubic((3, 8, 8), 2), np.eye(4)), "no closed form"),
        (lambda: operators.parse_kernel("motion:1"), "a length in pixels above 1"),
        (lambda: operators.parse_kernel("gaussian:1,-2"), "standard deviations in pixels above 0"),
        (lambda: operators.parse_kernel("disk:3"), "a kernel is gaussian:STD"),
    ],
)
def test_what_does_not_fit_is_refused(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()


def saturate(x):
    """Not linear: half the resolution of tanh(1.5 x)."""
    return torch.nn.functional.avg_pool2d(torch.tanh(1.5 * x), 2)


def test_a_torch_function_is_an_operator_in_every_namespace(array):
    """Against the derivative by hand: 1.5 (1 - tanh^2), spread over each 2x2 block and divided by 4."""
    operator = operators.Custom.from_torch((3, 8, 8), (3, 4, 4), saturate)
    x, r = normal((2, 3, 8, 8)), normal((2, 3, 4, 4), 1)
    y, pulled = operator.A(array(x)), operator.vjp(array(x), array(r))
    assert type(y) is type(pulled) is type(array(x))
    tanh = np.tanh(1.5 * x)
    np.testing.assert_allclose(y, tanh.reshape(2, 3, 4, 2, 4, 2).mean((3, 5)), rtol=1e-12)
    spread = r.repeat(2, axis=2).repeat(2, axis=3) / 4
    np.testing.assert_allclose(pulled, 1.5 * (1 - tanh**2) * spread, rtol=1e-12)


def deepinv_pairs(physics) -> dict[str, tuple[Decomposable, object]]:
    """Ours, and deepinv's of the same degradation."""
    shape = (3, 8, 12)
    kernel = operators.motion_kernel(3, 30) * [[1.0, 2.0, 4.0]] + [[0.1], [0.0], [0.2]]
    weights = torch.tensor(kernel / kernel.sum())[None, None]
    masked = operators.Inpaint(shape, spots(shape))
    return {
        "mask": (masked, physics.Inpainting(shape, mask=torch.tensor(~masked.missing).double().expand(shape))),
        "circular": (operators.Circular(shape, kernel), physics.Blur(weights, padding="circular")),
        "valid": (operators.valid_blur(shape, kernel), physics.Blur(weights, padding="valid")),
        "decimated": (
            operators.Circular(shape, kernel, 2),
            physics.Downsampling(shape, weights, 2, padding="circular"),
        ),
    }


@pytest.mark.parametrize("name", ["mask", "circular", "valid", "decimated"])
def test_deepinv_s_physics_agrees(name):
    """Where deepinv is installed: A, A^T, and the resolvent by its conjugate gradients."""
    ours, theirs = deepinv_pairs(pytest.importorskip("deepinv.physics", exc_type=ImportError))[name]
    x, y = (torch.tensor(normal((2, *shape))) for shape in (ours.image_shape, ours.measurement_shape))
    y = ours.A(x) + 0.1 * torch.as_tensor(ours.observed(y.numpy()))
    torch.testing.assert_close(theirs.A(x), ours.A(x), rtol=0, atol=1e-7)
    torch.testing.assert_close(theirs.A_adjoint(y), ours.AT(y), rtol=0, atol=1e-7)
    proximal = theirs.prox_l2(torch.zeros_like(x), y, 0.3)  # argmin 0.3 |A u - y|^2 + |u|^2
    torch.testing.assert_close(proximal, 0.3 * ours.AT(ours.resolvent(y, 1.0, 0.3)), rtol=0, atol=2e-3)


def test_an_operator_is_copied_though_another_thread_caches_a_property_meanwhile():
    class Meanwhile:
        def __get__(self, instance, owner):
            vars(operator)["cached"] = 1

    class Watched(operators.Denoise):
        given = Meanwhile()

    operator = Watched((3, 8, 8))
    vars(operator)["given"] = 2
    assert operator.__getstate__()["given"] == 2

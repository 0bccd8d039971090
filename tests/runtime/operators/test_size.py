"""Bounds on operators: what goes to another process, what is held, and what a request can make one hold."""

import inspect
import pickle
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from frugal_rt import InputError, operators
from frugal_rt.runtime.operators import Operator, Partial, Shape, dense
from frugal_rt.runtime.operators.jpeg import Component
from frugal_rt.runtime.operators.kernels import parse_kernel
from frugal_rt.runtime.operators.separable import Valid
from frugal_rt.runtime.pictures.damage import BORDERS, Damage
from frugal_rt.runtime.pictures.images import Photo
from frugal_rt.runtime.pictures.measurement import prepare

RANDOM = np.random.default_rng(0)
SHAPE: Shape = (3, 32, 32)
MISSING = RANDOM.random(SHAPE[1:]) < 0.3
KERNEL = RANDOM.random((5, 4))
ROWS = RANDOM.integers(-1, 2, (40, 32 * 32)).astype(np.int8)
SIDES = RANDOM.random((16, 32)), RANDOM.random((32, 32))
CODE = 1500
"""Bytes of names, shapes and numbers."""
TABLE = np.full((8, 8), 16)

GIVEN: dict[str, tuple[Callable[[], Operator], list[np.ndarray]]] = {
    "denoise": (lambda: operators.Denoise(SHAPE), []),
    "inpaint": (lambda: operators.Inpaint(SHAPE, MISSING), [MISSING]),
    "sr": (lambda: operators.SuperResolution(SHAPE, 4), []),
    "grey": (lambda: operators.Colorize(SHAPE), []),
    "masked": (lambda: operators.Masked(operators.Colorize(SHAPE), MISSING), [MISSING]),
    "bicubic": (lambda: operators.Bicubic(SHAPE, 2), []),
    "bicubic by blocks": (lambda: operators.BicubicBlocks(SHAPE, 2), []),
    "gaussian": (lambda: operators.Deblur.gaussian(SHAPE, 1.5), []),
    "mirrored": (lambda: operators.Mirrored(SHAPE, np.ones((5, 7))), [np.ones((5, 7))]),
    "circular": (lambda: operators.Circular(SHAPE, KERNEL), [KERNEL]),
    "tapered": (lambda: operators.Tapered(SHAPE, KERNEL), [KERNEL]),
    "valid": (lambda: Valid(SHAPE, np.ones((5, 7))), [np.ones((5, 7))]),
    "valid, by its matrix": (lambda: dense.ValidMatrix(SHAPE, KERNEL), [KERNEL]),
    "masked matrix": (
        lambda: operators.MaskedMatrix(SHAPE, operators.Circular((1, 32, 32), KERNEL), MISSING),
        [KERNEL, MISSING],
    ),
    "partial": (lambda: Partial(operators.Circular(SHAPE, KERNEL), missing=MISSING), [KERNEL, MISSING]),
    "jpeg": (lambda: operators.Jpeg(SHAPE, [Component(1, 1, TABLE)] * 3), [TABLE]),
    "masked jpeg": (
        lambda: operators.MaskedJpeg(operators.Jpeg(SHAPE, [Component(1, 1, TABLE)] * 3), MISSING),
        [TABLE, MISSING],
    ),
    "sense": (lambda: operators.WalshHadamard(SHAPE, 0.5), []),
    "separable": (lambda: operators.Separable(SHAPE, *SIDES), list(SIDES)),
    "matrix": (lambda: operators.Matrix(SHAPE, ROWS), [ROWS]),
}


def use(operator: Any) -> list[np.ndarray]:
    """Everything that it computes and places, in two libraries and types; the float32 answers."""
    operator.prepare()
    answers = []
    for array in (torch.asarray, np.asarray):
        random = np.random.default_rng(1)
        x, y = (random.normal(size=(1, *shape)) for shape in (operator.image_shape, operator.measurement_shape))
        x, y = array(x.astype("f")), array(operator.observed(y).astype("f"))
        answers = [operator.A(x), operator.AT(y), operator.resolvent(y, 0.1, 0.5)]
    return answers


@pytest.mark.parametrize("name", GIVEN)
def test_what_crosses_to_another_process_is_no_larger_than_what_was_given(name):
    make, given = GIVEN[name]
    operator = make()
    answers = use(operator)
    pickled = pickle.dumps(operator)
    assert len(pickled) < CODE + sum(array.nbytes for array in given)
    copy = pickle.loads(pickled)  # noqa: S301 (pickled here)
    for ours, theirs in zip(use(copy), answers, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_every_operator_is_among_them():
    def concrete(kind: type) -> set[type]:
        below = set().union(*map(concrete, kind.__subclasses__()))
        return below if inspect.isabstract(kind) else {kind, *below}

    ours = {kind for kind in concrete(Operator) if kind.__module__.startswith("frugal_rt.")}
    assert ours - {operators.Custom} == {type(make()) for make, _ in GIVEN.values()}


def test_the_bytes_held_are_those_given_computed_and_placed():
    matrix = RANDOM.random((3, 16))
    operator = operators.Matrix((1, 4, 4), matrix)
    assert operator.nbytes == 3 * 16 * 8
    operator.A(np.ones((1, 1, 4, 4)))  # shares it
    assert operator.nbytes == 3 * 16 * 8
    operator.prepare()
    decomposed = 3 * 16 * 8 + (3 * 3 + 3 + 3 * 16) * 8
    assert operator.nbytes == decomposed
    operator.Vt(torch.ones((1, 1, 4, 4), dtype=torch.float32))
    assert operator.nbytes == decomposed + 3 * 16 * 4
    inside = Partial(operators.Circular((1, 4, 4), np.ones((2, 3))), missing=np.eye(4, dtype=bool))
    assert inside.nbytes == 2 * 3 * 8 + 16
    inside.prepare()
    assert inside.nbytes == 2 * 3 * 8 + 16 + 3 * 16 * 8


def test_a_padded_picture_s_blur_makes_no_matrix():
    """The request that cost 76 CPU seconds, and 128 MiB on their way to a worker."""
    photo = Photo(RANDOM.uniform(-1, 1, (3, 60, 60)).astype(np.float32), None)
    job = prepare(photo, (3, 64, 64), Damage(kernel="motion:9,40"), "pad")
    assert isinstance(job.operator, Partial)
    assert len(pickle.dumps(job.operator)) < 8 << 10
    use(job.operator)
    assert job.operator.nbytes < 1 << 20


KERNELS = ("gaussian:2", "gaussian:1000", "gaussian:60", "gaussian:9,3,30", "motion:9,40")
LARGE = (3, 64, 4096)
"""A picture in tiles as the service takes it at most, and its most unequal sides."""
HELD = 48 << 20
"""Bytes: 64x4096 pixels are 2 MiB in float64, a matrix of MAX_DERIVED entries 8 MiB."""
WORK = 1 << 28
"""m^2 n of a decomposed matrix (m, n): a fifth of a second."""


def asked(shape: Shape) -> Iterator[tuple[Photo, Damage, str | None]]:
    """Every blur and every loss of resolution, border and way of fitting that a request can name; and a mask."""
    blurs = [Damage(task="deblur", kernel=one, border=border) for one, border in product(KERNELS, (None, *BORDERS))]
    filters = [{"filter": "bicubic"}, *({"kernel": one} for one in KERNELS)]
    shrunk = [Damage(task="sr", scale=scale, **one) for scale, one in product((2, 4, 8, 16), filters)]
    for damage, fit, masked in product(blurs + shrunk, (None, "pad"), (False, True)):
        height, width = (max(1, side // (damage.scale or 1) - (fit == "pad")) for side in shape[1:])
        pixels = RANDOM.uniform(-1, 1, (3, height, width)).astype(np.float32)
        yield Photo(pixels, np.arange(height * width).reshape(height, width) % 3 == 1 if masked else None), damage, fit


@pytest.mark.parametrize("shape", [(3, 64, 64), LARGE], ids=str)
def test_no_request_s_operator_is_large_or_long_to_prepare(shape, monkeypatch):
    """By what is decomposed, held and sent; its time is up to the machine."""
    decompose, prepared = np.linalg.svd, 0

    def bounded(matrix: np.ndarray, *args: Any, **kwargs: Any) -> Any:
        assert min(matrix.shape) ** 2 * max(matrix.shape) <= WORK
        return decompose(matrix, *args, **kwargs)

    monkeypatch.setattr(np.linalg, "svd", bounded)
    for photo, damage, fit in asked(shape):
        try:
            operator = prepare(photo, shape, damage, fit).operator
        except InputError:  # a kernel that is too large, or does not suit the border
            continue
        kernel = 0 if damage.kernel is None else parse_kernel(str(damage.kernel)).nbytes
        assert len(pickle.dumps(operator)) < CODE + photo.pixels[0].size + kernel + 2 * max(shape)
        operator.prepare()
        assert operator.nbytes < HELD
        prepared += 1
    assert prepared > 60

"""Every operator as a fixture, in every namespace of arrays."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from frugal_rt import operators
from frugal_rt.runtime.operators import Decomposable, Linear, Shape

from .cases import BUILDERS, ITERATIVE

SHAPES: list[Shape] = [(3, 8, 8), (3, 4, 12)]
NAMESPACES = {"numpy": np.asarray, "torch": torch.asarray}


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use an empty cache, so that decompositions are computed."""
    monkeypatch.setenv("FRUGAL_RT_CACHE", "off")


@pytest.fixture(params=BUILDERS)
def build(request: pytest.FixtureRequest) -> Callable[[Shape], Decomposable]:
    return BUILDERS[request.param]


@pytest.fixture(params=SHAPES, ids=str)
def decomposed(build: Callable[[Shape], Decomposable], request: pytest.FixtureRequest) -> Decomposable:
    return build(request.param)


@pytest.fixture(params=SHAPES, ids=str)
def iterative(request: pytest.FixtureRequest, iterated: Callable[[Shape], operators.Iterative]) -> operators.Iterative:
    return iterated(request.param)


@pytest.fixture
def ended(iterative: operators.Iterative) -> operators.Iterative:
    """An iterative operator with a tolerance of rounding."""
    iterative.tolerance, iterative.most = 1e-13, 1000
    return iterative


@pytest.fixture(params=ITERATIVE)
def iterated(request: pytest.FixtureRequest) -> Callable[[Shape], operators.Iterative]:
    return ITERATIVE[request.param]


@pytest.fixture(params=[*BUILDERS, *ITERATIVE])
def operator(request: pytest.FixtureRequest, shape: Shape) -> Linear:
    """Every operator; iterative ones have a tolerance of rounding."""
    made = {**BUILDERS, **ITERATIVE}[request.param](shape)
    if isinstance(made, operators.Iterative):
        made.tolerance, made.most = 1e-13, 1000
    return made


@pytest.fixture(params=SHAPES, ids=str)
def shape(request: pytest.FixtureRequest) -> Shape:
    return request.param


@pytest.fixture(params=NAMESPACES)
def array(request: pytest.FixtureRequest) -> Callable[[np.ndarray], object]:
    return NAMESPACES[request.param]

"""One step of many rows: of unlike operators and moves, of a network that fails."""

import numpy as np
import pytest

from frugal_rt import BackendError, DivergedError, operators
from frugal_rt.engines import Prediction
from frugal_rt.runtime.sampling.advance import advance
from frugal_rt.runtime.sampling.guidance import METHODS, Guidance
from frugal_rt.runtime.sampling.restoration import Move

from ..measurements import SHAPE, measurement
from ..operators.cases import jpeg


def test_a_dps_row_is_its_own_norm_s_not_the_batch_s(restorer, operator):
    """DPS's official code sums the norm over the batch, so that a large batch guides too little."""
    y = np.repeat(measurement(operator, 1), 6, axis=0)
    batch = restorer.restore(y, operator, steps=10, method="dps", zeta=2.0, seed=1)
    alone = restorer.restore(y[0], operator, steps=10, method="dps", zeta=2.0, seed=1)
    assert np.array_equal(batch.image[0], alone.image)


def test_rows_of_different_operators_moves_and_lengths_share_calls(restorer, finish):
    """A mixed batch gives each row what it gets alone, as a service needs."""
    mask = np.eye(16, dtype=bool)
    mixed = [
        (operators.SuperResolution(SHAPE, 2), {"steps": 12, "method": "closed-form"}),
        (operators.Colorize(SHAPE), {"steps": 9, "method": "closed-form"}),
        (operators.SuperResolution(SHAPE, 4), {"steps": 12, "switch": 5, "sigma": 0.3}),
        (operators.Inpaint(SHAPE, mask), {"steps": 15, "every": 3}),
        (operators.Deblur.gaussian(SHAPE, 1.0), {"steps": 12, "every": 5, "switch": 2, "sigma": 0}),
        (operators.Denoise(SHAPE), {"steps": 9, "method": "dps", "sigma": 0.2}),
        (operators.Denoise(SHAPE), {"aim": "detail", "sigma": 0.3}),
        (operators.Denoise(SHAPE), {"aim": "fidelity", "sigma": 0.3}),
        (operators.SuperResolution(SHAPE, 2), {"steps": 7, "method": "hybrid", "switch": 3, "guidance": "official"}),
        (
            operators.Custom(SHAPE, SHAPE, np.tanh, lambda x, r: (1 - np.tanh(x) ** 2) * r),
            {"steps": 12, "method": "dps", "zeta": 0.5},
        ),
        (operators.Colorize(SHAPE), {"steps": 15, "lam": 0.7, "method": "dmps"}),
        (operators.SuperResolution(SHAPE, 4), {"aim": "fidelity"}),
        (operators.SuperResolution(SHAPE, 4), {"aim": "detail", "sigma": 0.1}),
        (operators.Inpaint(SHAPE, mask), {"aim": "fidelity"}),
        (operators.Deblur.gaussian(SHAPE, 1.0), {"aim": "fidelity"}),
        (jpeg(SHAPE, (1, 1), (1, 1), (1, 1)), {"aim": "fidelity", "sigma": 0.12}),
    ]

    def rows():
        return [
            restorer._begin(measurement(operator, 1)[0], operator, Guidance(seed=1, sample=i, **how))[0]
            for i, (operator, how) in enumerate(mixed)
        ]

    together, alone = rows(), rows()
    assert {row.move for row in together} == set(Move)
    finish(together, restorer.engine)
    for row in alone:
        finish([row], restorer.engine)
    assert all(np.array_equal(a.x, b.x) for a, b in zip(together, alone, strict=True))
    assert [(a.k, a.gradients, a.trace) for a in together] == [(b.k, b.gradients, b.trace) for b in alone]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_gives_nan_is_an_error(restorer, operator, monkeypatch, bad, method):
    def broken(x, t):
        return Prediction(np.full_like(x, bad), None)

    monkeypatch.setattr(restorer.engine, "predict", broken)
    monkeypatch.setattr(restorer.engine, "pullback", lambda x, t: (broken(x, t), lambda v: v))
    with pytest.raises(DivergedError, match="left the finite numbers at step 9"):
        restorer.restore(measurement(operator, 1), operator, steps=10, method=method)


def test_a_constant_image_is_an_error(restorer, operator, monkeypatch):
    monkeypatch.setattr(restorer.engine, "predict", lambda x, t: Prediction(np.full_like(x, -1e3), None))
    with pytest.raises(DivergedError, match="constant image"):
        restorer.restore(measurement(operator, 1), operator, steps=10, method="dmps", lam=0.0)


def test_a_step_that_failed_can_be_made_again(restorer, operator, monkeypatch):
    """A network call that fails leaves the rows as they were: what follows is what would have been."""
    y = measurement(operator, 2)
    real, calls = restorer.engine.predict, []

    def interrupted(x, t):
        calls.append(t)
        if len(calls) == 4:
            raise BackendError("the device went away")
        return real(x, t)

    how = {"steps": 8, "method": "closed-form", "seed": 3}
    whole, retried = (restorer._begin(y, operator, Guidance(**how)) for _ in range(2))
    for _ in range(8):
        advance(whole, restorer.engine)
    monkeypatch.setattr(restorer.engine, "predict", interrupted)
    while retried[0].step >= 0:
        try:
            advance(retried, restorer.engine)
        except BackendError:
            assert len(calls) == 4
    assert len(calls) == 9
    assert all(np.array_equal(a.x, b.x) for a, b in zip(whole, retried, strict=True))

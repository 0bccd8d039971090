"""The loop: what shares a network call, and who may stop between steps."""

import numpy as np
import pytest

from frugal_rt import InputError
from frugal_rt.runtime.sampling.guidance import Guidance
from frugal_rt.runtime.sampling.loop import halved, run

from ..measurements import SHAPE, measurement


def test_on_step_sees_every_step_and_may_stop_between_them(restorer, operator, counted):
    events = []
    y = measurement(operator, 2)
    restorer.restore(y, operator, steps=6, switch=2, on_step=events.append)
    assert [event.step for event in events] == [5, 4, 3, 2, 1, 0]
    assert [event.phases[0] for event in events] == ["gradient"] * 4 + ["forward"] * 2
    assert all(event.x0hat.shape == (2, *SHAPE) and np.abs(event.x0hat).max() <= 1 for event in events)
    assert [bool(np.isfinite(event.settled[0])) for event in events] == [False] * 2 + [True] * 4  # compared: 5, 3, 1

    class Enough(Exception):
        pass

    def stop(event):
        if event.step == 3:
            raise Enough

    before = counted["predict"] + counted["pullback"]
    with pytest.raises(Enough):
        restorer.restore(y, operator, steps=6, switch=2, on_step=stop)
    assert counted["predict"] + counted["pullback"] - before == 2 * 3


def test_a_batch_is_cut_into_calls_of_the_size_asked_for(restorer, operator, monkeypatch):
    sizes = []
    real = restorer.engine.predict
    monkeypatch.setattr(restorer.engine, "predict", lambda x, t: sizes.append(len(x)) or real(x, t))
    y = measurement(operator, 5)
    cut = restorer.restore(y, operator, steps=3, method="closed-form", batch=2)
    assert sizes == [2, 2, 1] * 3
    assert cut.settings["batch"] == 2
    assert np.array_equal(cut.image, restorer.restore(y, operator, steps=3, method="closed-form", batch=5).image)
    with pytest.raises(InputError, match="batch must be at least 1; got 0"):
        restorer.restore(y, operator, batch=0)


@pytest.mark.parametrize(
    ("rows", "batch", "sizes"),
    [(0, 4, []), (3, 1, [1, 1, 1]), (8, 4, [4, 4]), (23, 16, [16, 4, 2, 1]), (2, 3, [1, 1]), (7, 3, [3, 3, 1])],
)
def test_what_a_batch_leaves_goes_in_halves_of_it(rows, batch, sizes):
    pieces = list(halved(range(rows), batch))
    assert [len(piece) for piece in pieces] == sizes
    assert [row for piece in pieces for row in piece] == list(range(rows))


def test_rows_that_switch_at_their_own_steps_make_calls_of_few_sizes(restorer, operator, monkeypatch):
    sizes = []
    for name in ("predict", "pullback"):
        call = getattr(restorer.engine, name)
        monkeypatch.setattr(restorer.engine, name, lambda x, t, call=call: (sizes.append(len(x)), call(x, t))[1])
    switches = (2, 4, 6, 8, 9, 10, 11)
    y = measurement(operator, 1)
    rows = [row for k in switches for row in restorer._begin(y, operator, Guidance(steps=20, switch=k))]
    run(rows, restorer.engine, batch=4)
    assert set(sizes) == {1, 2, 4}

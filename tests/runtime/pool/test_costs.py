"""The measured costs of a call."""

from frugal_rt import Restorer
from frugal_rt.runtime.pool.costs import Costs


def test_costs_are_measured_to_the_size_that_gains_nothing(tiny_plan, monkeypatch):
    restorer = Restorer.load(tiny_plan)  # one that has measured nothing
    seconds = {False: {1: 1.0, 2: 1.2, 4: 2.35}, True: {1: 1.0, 2: 1.99}}  # 4 saves 2%, and 2 half a per cent
    clock = [0.0]

    def advance(rows, engine):
        clock[0] += seconds[rows[0].move.pulls][len(rows)]

    monkeypatch.setattr("frugal_rt.runtime.sampling.loop.advance", advance)
    monkeypatch.setattr("frugal_rt.runtime.sampling.loop.time.perf_counter", lambda: clock[0])
    costs = Costs.measure(restorer)
    assert {size: round(taken, 6) for size, taken in costs.forward.items()} == {1: 1.0, 2: 1.2}
    assert {size: round(taken, 6) for size, taken in costs.pullback.items()} == {1: 1.0}
    assert [costs.size(rows, False) for rows in (1, 2, 3, 99)] == [1, 2, 2, 2]

"""A Restorer of the tiny prior, an operator, and counts of network calls."""

from collections.abc import Callable

import pytest

from frugal_rt import Restorer, operators
from frugal_rt.engines import Engine
from frugal_rt.runtime.sampling.advance import advance
from frugal_rt.runtime.sampling.restoration import Move, Restoration

from .measurements import SHAPE


@pytest.fixture
def finish() -> Callable[[list[Restoration], Engine], None]:
    """Return a function that advances rows until all are done, those that share a move together."""

    def finish(rows: list[Restoration], engine: Engine) -> None:
        while live := [row for row in rows if row.step >= 0]:
            moves = [row.move for row in live]
            for move in Move:
                if move in moves:
                    advance([row for row, its in zip(live, moves, strict=True) if its is move], engine)

    return finish


@pytest.fixture(scope="module")
def restorer(tiny_plan):
    return Restorer.load(tiny_plan)


@pytest.fixture
def operator():
    return operators.SuperResolution(SHAPE, 2)


@pytest.fixture
def counted(restorer, monkeypatch):
    """Count the rows in each kind of network call."""
    counts = {"predict": 0, "pullback": 0, "pulled": 0}
    predict, pullback = restorer.engine.predict, restorer.engine.pullback

    def counting_predict(x, t):
        counts["predict"] += len(x)
        return predict(x, t)

    def counting_pullback(x, t):
        counts["pullback"] += len(x)
        prediction, pull = pullback(x, t)

        def counting_pull(v):
            counts["pulled"] += len(v)
            return pull(v)

        return prediction, counting_pull

    monkeypatch.setattr(restorer.engine, "predict", counting_predict)
    monkeypatch.setattr(restorer.engine, "pullback", counting_pullback)
    return counts

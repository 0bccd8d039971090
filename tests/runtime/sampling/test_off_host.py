"""A GPU's steps ask nothing of the host and send it nothing: on torch's meta device, whose tensors have no values.

A meta tensor cannot be printed, compared, indexed by or copied to the host, as none may while a CUDA graph is captured.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from frugal_rt import Plan, operators
from frugal_rt.engines.torch import engine as torch_engine
from frugal_rt.engines.torch.arrays import TorchArrays
from frugal_rt.engines.torch.engine import TorchEngine
from frugal_rt.runtime.evaluation import suite
from frugal_rt.runtime.operators import Decomposable
from frugal_rt.runtime.restorer import Restorer
from frugal_rt.runtime.sampling import captured
from frugal_rt.runtime.sampling.advance import advance
from frugal_rt.runtime.sampling.guidance import Guidance

SHAPE = (3, 16, 16)
KERNEL = np.random.default_rng(0).random((5, 5))


MAKERS = {torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, torch.scalar_tensor}
"""Functions that send the host's numbers, which no operation shows."""


class OffHost(TorchDispatchMode):
    """Fails at the first operation that meets a tensor of the host's."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        tensors = [one for one in tree_leaves((args, kwargs, made)) if isinstance(one, torch.Tensor)]
        assert all(one.device.type == "meta" for one in tensors), f"{func} meets a tensor of the host's"
        return made


class NothingSent(TorchFunctionMode):
    """Fails where numbers of the host's become a tensor."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert func not in MAKERS or isinstance(args[0], torch.Tensor), f"{func} sends what the host has"
        return func(*args, **(kwargs or {}))


@contextmanager
def off_host() -> Iterator[None]:
    with OffHost(), NothingSent():
        yield


class MetaArrays(TorchArrays):
    """Arrays on the meta device. What is captured is called again, twice to be warm first."""

    def __init__(self, what: str, device: str):
        super().__init__(what, device)
        self.can_capture = True
        self.captured, self.replays = 0, 0

    def upload(self, array: np.ndarray) -> Callable[[], torch.Tensor]:
        tensor = self.asarray(array)  # a GPU's copy goes on beside its steps
        return lambda: tensor

    def throttle(self) -> None: ...

    def capture(self, work: Callable[[], None]) -> Callable[[], None] | None:
        if not self.can_capture:
            return None
        self.captured += 1
        work()
        work()

        def replay() -> None:
            self.replays += 1
            with off_host():
                work()

        return replay


@pytest.fixture
def engine(tiny_plan, monkeypatch) -> TorchEngine:
    """The torch engine with its network and state on the meta device."""
    monkeypatch.setattr(torch_engine, "TorchArrays", MetaArrays)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none for meta
    monkeypatch.setattr(captured, "WORTH", 0)
    return TorchEngine(Plan.open(tiny_plan), "meta")


@pytest.fixture
def restorer(engine, tiny_plan) -> Restorer:
    return Restorer(Plan.open(tiny_plan), engine)


OPERATORS: dict[str, Callable[[], Decomposable]] = {
    **{name: lambda task=task: task.operator(SHAPE) for name, task in suite.TASKS.items()},
    "bicubic": lambda: operators.Bicubic(SHAPE, 4),
    "circular": lambda: operators.Circular(SHAPE, KERNEL),
    "circular, smaller": lambda: operators.Circular(SHAPE, KERNEL, 2),
    "mirrored": lambda: operators.Mirrored(SHAPE, np.ones((5, 5))),
    "valid": lambda: operators.valid_blur(SHAPE, np.ones((5, 5))),
    "valid, by its matrix": lambda: operators.valid_blur(SHAPE, KERNEL),
    "masked": lambda: operators.Masked(operators.SuperResolution(SHAPE, 2), np.eye(8, dtype=bool)),
}
SETTINGS = [
    {"switch": 3},
    {"method": "dps", "zeta": 0.4},
    {"method": "dmps", "lam": 0.7},
]
"""Settings that together make every move."""


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_recorded_steps_keep_off_the_host(engine, restorer, name, settings):
    operator = OPERATORS[name]()
    rows = restorer._begin(np.zeros((2, *operator.measurement_shape)), operator, Guidance(steps=6, **settings))
    moves = set()  # all but the last step, after which the host asks for the result
    while rows[0].step > 0:
        moves.add(rows[0].move)
        advance(rows, engine)
    assert engine._arrays.captured == len(moves)
    assert engine._arrays.replays == 5
    assert rows[0].x.device.type == "meta"


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_steps_that_are_not_recorded_send_what_they_need_once(engine, restorer, settings):
    """Rows of two operators, a step apart: all but the noise is there from the first time on."""
    engine._arrays.can_capture = False
    known = [OPERATORS[name]() for name in ("box", "gaussian")]

    def restore(how: AbstractContextManager[object]) -> None:
        rows = [
            row
            for one in known
            for row in restorer._begin(np.zeros(one.measurement_shape), one, Guidance(steps=6, **settings))
        ]
        with how:
            advance(rows[1:], engine)
            while rows[0].step > 0:
                together = rows[0].move is rows[1].move and rows[1].step > 0
                for some in [rows] if together else [[row] for row in rows if row.step > 0]:
                    advance(some, engine)

    restore(nullcontext())
    restore(off_host())


def ask(x: torch.Tensor) -> torch.Tensor:
    return x if bool(x.sum() > 0) else -x


@pytest.mark.parametrize(
    "wrong",
    [
        ask,
        lambda x: x * torch.tensor(2.0),
        lambda x: x * torch.tensor(2.0, device=x.device),  # a copy, which a capture refuses
        lambda x: x + torch.ones(1),
        lambda x: torch.as_tensor(x.cpu()),
    ],
)
def test_it_would_be_noticed(engine, restorer, wrong):
    class Asking(operators.Denoise):
        def Vt(self, x):
            return wrong(x)

    (row,) = restorer._begin(np.zeros(SHAPE), Asking(SHAPE), Guidance(steps=6, method="closed-form"))
    with pytest.raises((RuntimeError, AssertionError)):
        advance([row], engine)

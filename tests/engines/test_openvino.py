"""OpenVINO in bfloat16 differs from torch by no more than rounding."""

import subprocess
import sys

import numpy as np
import pytest

from frugal_rt import Plan
from frugal_rt.engines import open_engine

from .calls import inputs


@pytest.mark.parametrize("batch", [1, 3])
def test_openvino_is_within_bfloat16_of_torch(openvino, tiny_plan, batch):
    """A significand of 8 bits rounds by 0.4%; a network of a dozen layers stays within a few percent."""
    x, t = inputs(batch)
    v = inputs(batch + 20)[0][:batch]
    (out, _), pull = open_engine(Plan.open(tiny_plan), "torch").pullback(x, t)
    gradient = pull(v)
    (ours, _), our_pull = openvino.pullback(x, t)
    for got, want in ((ours, out), (our_pull(v), gradient), (openvino.predict(x, t).out, out)):
        assert 0 < np.abs(got - want).max() < 0.06 * np.abs(want).max()


FIRST_CALLS = """
import sys, threading
from frugal_rt.engines.openvino import import_openvino

sys.setswitchinterval(1e-6)
together = threading.Barrier(4)

def call():
    together.wait()
    import_openvino().Type.i64.to_dtype()  # as its inference does for every input

threads = [threading.Thread(target=call, daemon=True) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.usefixtures("openvino")
def test_threads_make_their_first_calls_together():
    """Half of such processes would wait forever, were the table of types not made by one thread."""
    for _ in range(4):
        subprocess.run([sys.executable, "-c", FIRST_CALLS], check=True, timeout=60)

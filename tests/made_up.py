"""Input that is wrong, made up by Hypothesis: JSON of odd values, bytes that were damaged; the same each time."""

import math
from copy import deepcopy

import pytest

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

NUMBERS = [0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e-320, 1e308, math.inf, -math.inf, math.nan]
TEXTS = ["", "x", "\0", "\x1b[2J", "\ud800", "../../etc/passwd", "auto", "a" * 3000]
ODD = st.sampled_from([*NUMBERS, *TEXTS, True, None, [], {}, [[]], [{}], {"": None}]).map(deepcopy)
JSON = st.recursive(
    ODD | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
WORDS = ["denoise", "sr", "gaussian:1e-300", "gaussian:1,nan", "motion:1e9", "uniform:-3", "24x24", "detail", "frugal"]
VALUES = JSON | st.sampled_from(WORDS)


@st.composite
def damaged(draw, data: bytes) -> bytes:
    """Bytes cut, flipped, doubled, overwritten."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(changed) - 1)))
        length = draw(st.sampled_from([1, 2, 4, 8, 64, 1024]))
        match draw(st.integers(0, 4)):
            case 0:
                del changed[at:]
            case 1:
                changed[at : at + length] = draw(st.binary(max_size=length))
            case 2:
                changed[at:at] = changed[at : at + length]
            case 3:
                del changed[at : at + length]
            case 4 if changed:
                changed[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)


def is_a_sentence(error: Exception) -> None:
    assert str(error)
    assert "\n" not in str(error)


def cases(number: int) -> settings:
    """Settings of a test that makes so many, the same ones each time, as a failure must not come and go."""
    return settings(
        max_examples=number, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )

import pytest

from frugal_rt.engines.shapes import is_shape, sized


@pytest.mark.parametrize(
    ("shape", "sides", "right"),
    [
        (["batch", 3, 64, 64], False, True),
        (["batch"], False, True),
        (["batch", 3, "height", "width/2"], True, True),
        (["batch", 3, "height", "width/2"], False, False),
        (["batch", 3, "height/0", "width"], True, False),
        (["batch", 3, "depth", "width"], True, False),
        (["batch", 3, "height*2", "width"], True, False),
        (["batch", 0], True, False),
        (["batch", -1], True, False),
        (["batch", True], True, False),
        (["batch", 2.0], True, False),
        ([3, 64, 64], True, False),
        ("batch", True, False),
        (None, True, False),
    ],
)
def test_a_shape_is_the_batch_and_sizes(shape, sides, right):
    assert is_shape(shape, sides) is right


def test_sides_are_divided():
    assert sized(["batch", 64, "height/2", "width/4"], 5, 32, 24) == (5, 64, 16, 6)
    assert sized(["batch", 7], 2, 32, 24) == (2, 7)

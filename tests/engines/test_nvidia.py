"""The devices that the driver shows, and those of them that this process sees."""

import pytest

from frugal_rt.engines import InputError, nvidia


@pytest.mark.parametrize(
    ("listed", "number", "seen"), [(None, 3, "3"), ("5,6", 1, "6"), (" GPU-7f , 2", 0, "GPU-7f"), ("4", 0, "4")]
)
def test_a_process_sees_the_device_of_that_number_here(driver, listed, number, seen):
    driver(4, listed)
    assert nvidia.visible(number) == seen


def test_a_device_that_is_hidden_is_none(driver):
    driver(1, "5,6")
    with pytest.raises(InputError, match="there is no CUDA device 2: CUDA_VISIBLE_DEVICES is '5,6'"):
        nvidia.visible(2)

"""The devices that the driver shows, and those of them that this process sees."""

import ctypes
from types import SimpleNamespace

import pytest

from frugal_rt.engines import InputError, nvidia


@pytest.mark.parametrize(
    ("there", "found", "tried"),
    [
        (["libcuda.so.1"], {}, ["libcuda.so.1"]),
        (["libcuda.so.535"], {"cuda": "libcuda.so.535"}, ["libcuda.so.1", "libcuda.so.535"]),
        (["nvcuda.dll"], {"nvcuda": "nvcuda.dll"}, ["libcuda.so.1", "nvcuda.dll"]),
        ([], {}, ["libcuda.so.1"]),
    ],
)
def test_the_driver_is_opened_by_its_own_name_before_it_is_searched_for(monkeypatch, there, found, tried):
    opened, searched = [], []

    def load(name):
        opened.append(name)
        if name not in there:
            raise OSError(name)
        return SimpleNamespace(cuInit=lambda flags: 0)

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(nvidia, "find_library", lambda name: searched.append(name) or found.get(name))
    driver, why = nvidia._open()
    assert opened == tried
    assert (searched == []) == (tried == there == ["libcuda.so.1"])
    assert (driver is None) == (why is not None) == (there == [])


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

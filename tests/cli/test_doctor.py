"""`frugal-rt doctor`."""

from ..commands import frugal


def test_doctor_lists_every_backend(here):
    output = frugal("doctor").output
    assert all(f" {backend} " in output for backend in ("cpu", "cuda", "openvino", "torch"))

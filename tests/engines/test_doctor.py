"""The doctor finds each backend, or says what brings it."""

import onnxruntime

from frugal_rt.engines import BACKENDS, doctor, nvidia
from frugal_rt.engines.tensorrt import library

from .tensorrt.kept import needs_rtx


def test_doctor_knows_every_backend_and_names_a_remedy_for_each_that_is_missing():
    findings = doctor.findings()
    assert {finding.backend for finding in findings} >= set(BACKENDS) - {"auto"}
    assert all(finding.usable != bool(finding.remedy) for finding in findings)


def test_doctor_sees_two_onnxruntimes_as_a_fault(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda name: "1.0")
    cpu = doctor.findings()[0]
    assert not cpu.usable
    assert "pip uninstall onnxruntime onnxruntime-gpu" in cpu.remedy


def test_doctor_explains_both_flavours(monkeypatch):
    found = {finding.backend: finding for finding in doctor.findings()}
    for name in library.FLAVOURS:
        if name not in library.installed():
            assert found[name].detail == f"{name} is not installed"
        elif nvidia.trouble():
            assert nvidia.trouble() in found[name].detail


def test_doctor_finds_a_module_that_another_distribution_brought(gpu, monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda name: None)
    found = {finding.backend: finding for finding in doctor.findings()}
    assert found["cpu"] == ("cpu", True, f"onnxruntime {onnxruntime.__version__}", "")
    assert found["torch"].usable


@needs_rtx
def test_doctor_shows_the_gpu(gpu):
    found = {finding.backend: finding for finding in doctor.findings()}["tensorrt-rtx"]
    assert found.usable
    assert "NVIDIA H200, compute capability 9.0" in found.detail

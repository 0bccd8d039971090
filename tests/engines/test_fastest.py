"""The backend of `auto` on a CPU is measured once, kept, and the same for every process."""

import logging
import threading

import numpy as np
import pytest

from frugal_rt.engines import Plan, backends, doctor, fastest, open_engine
from frugal_rt.engines.base import Prediction
from frugal_rt.engines.errors import BackendError
from frugal_rt.engines.fastest import EXACT, LOCK, Measured, open_fastest, recall
from frugal_rt.engines.files import lock


class Counting:
    """An engine that answers with a constant, and waits for its clock."""

    def __init__(self, clock, seconds: float, answer: float):
        self.clock, self.seconds, self.answer, self.closed = clock, seconds, answer, False

    def predict(self, x, t) -> Prediction:
        self.clock.now += self.seconds
        return Prediction(np.full_like(x, self.answer), None)

    def close(self) -> None:
        self.closed = True


class Clock:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def plan(tiny_plan) -> Plan:
    return Plan.open(tiny_plan)


@pytest.fixture
def cached(monkeypatch, tmp_path):
    monkeypatch.setenv("FRUGAL_RT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fastest, "installed", lambda name: True)


@pytest.fixture
def opened(monkeypatch):
    """Return openers of two engines with given seconds and answers, and a list of those opened."""
    clock = Clock()
    monkeypatch.setattr(fastest.time, "perf_counter", clock.perf_counter)

    def make(cpu: float, openvino: float, answer: float = 1.0):
        names, engines = [], {"cpu": Counting(clock, cpu, 1.0), "openvino": Counting(clock, openvino, answer)}

        def opener(name):
            def open_one():
                names.append(name)
                return engines[name]

            return open_one

        return {name: opener(name) for name in engines}, names, engines

    return make


@pytest.mark.parametrize(
    ("cpu", "openvino", "answer", "taken"),
    [
        (1.0, 0.5, 1.0, "openvino"),
        (1.0, 0.95, 1.0, "cpu"),
        (1.0, 2.0, 1.0, "cpu"),
        (1.0, 0.1, 1.0 + 2 * EXACT, "cpu"),
        (1.0, 0.5, 1.0 + EXACT / 2, "openvino"),
    ],
)
@pytest.mark.usefixtures("cached")
def test_the_faster_is_taken_where_it_is_exact_enough_and_measured_once(plan, opened, cpu, openvino, answer, taken):
    openers, names, engines = opened(cpu, openvino, answer)
    assert recall(plan) is None
    assert open_fastest(plan, openers) is engines[taken]
    assert names == ["cpu", "openvino"]
    assert [name for name, one in engines.items() if one.closed] == [name for name in engines if name != taken]
    assert recall(plan) == Measured(pytest.approx(cpu), pytest.approx(openvino), pytest.approx(answer - 1))
    names.clear()
    assert open_fastest(plan, openers) is engines[taken]
    assert names == [taken]


def test_without_a_cache_or_openvino_nothing_is_measured(plan, opened, monkeypatch, tmp_path):
    openers, names, engines = opened(1.0, 0.1)
    monkeypatch.setattr(fastest, "installed", lambda name: True)
    monkeypatch.setenv("FRUGAL_RT_CACHE", "off")
    assert open_fastest(plan, openers) is engines["cpu"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("FRUGAL_RT_CACHE", str(tmp_path / "file"))  # which cannot be written
    assert open_fastest(plan, openers) is engines["cpu"]
    monkeypatch.setenv("FRUGAL_RT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fastest, "installed", lambda name: False)
    assert open_fastest(plan, openers) is engines["cpu"]
    assert names == ["cpu"] * 3
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("cached")
def test_where_openvino_does_not_run_the_cpu_is_taken_and_the_log_says_why(plan, opened, caplog):
    openers, _, engines = opened(1.0, 0.1)

    def refuse():
        raise BackendError("this CPU has no bfloat16 arithmetic")

    with caplog.at_level(logging.INFO, "frugal_rt"):
        assert open_fastest(plan, {**openers, "openvino": refuse}) is engines["cpu"]
    assert "no bfloat16 arithmetic" in caplog.text
    assert recall(plan) is None


@pytest.mark.usefixtures("cached")
def test_two_at_once_measure_once(plan, opened):
    openers, names, _ = opened(1.0, 0.5)
    threads = [threading.Thread(target=open_fastest, args=(plan, openers)) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(names) == ["cpu", *["openvino"] * 4]


@pytest.mark.usefixtures("cached")
def test_auto_is_what_was_measured_unless_the_environment_says_otherwise(plan, monkeypatch):
    pytest.importorskip("openvino", reason="openvino is not installed")
    taken = []
    monkeypatch.setattr(backends, "open_fastest", lambda plan, openers: taken.append({*openers}) or openers["cpu"]())
    assert open_engine(plan, "auto").name == "onnxruntime (cpu)"
    assert taken == []
    monkeypatch.delenv("FRUGAL_RT_BACKEND")
    assert open_engine(plan, "auto").name == "onnxruntime (cpu)"
    assert taken == [{"cpu", "openvino"}]
    monkeypatch.setenv("FRUGAL_RT_BACKEND", "torch")
    assert open_engine(plan, "auto").name.startswith("torch")
    assert open_engine(plan, "cpu").name == "onnxruntime (cpu)"


@pytest.mark.usefixtures("cached")
def test_the_doctor_says_what_auto_takes(monkeypatch):
    monkeypatch.setattr("frugal_rt.engines.openvino.import_openvino", lambda: None)
    assert "not measured yet" in doctor._openvino().detail
    monkeypatch.setattr(doctor, "recall", lambda plan: Measured(2.0, 1.0, 0.01))
    assert "photo in 0.50 of cpu's time, auto takes openvino" in doctor._openvino().detail


@pytest.fixture
def without_openvino(cached, monkeypatch):
    monkeypatch.setattr(fastest, "installed", lambda name: False)
    monkeypatch.setattr(fastest.machine, "instructions", lambda: "flags : sse2 avx512_bf16")


def test_the_first_slow_run_recommends_openvino(without_openvino):
    assert "frugal-rt[openvino]" in fastest.recommendation("onnxruntime (cpu)", 30)
    assert fastest.recommendation("onnxruntime (cpu)", 30) is None  # it was said


@pytest.mark.parametrize(("ran_by", "seconds"), [("onnxruntime (cpu)", 3), ("torch (cpu, fp32)", 30)])
def test_a_fast_run_and_another_backend_recommend_nothing(without_openvino, ran_by, seconds):
    assert fastest.recommendation(ran_by, seconds) is None


def test_a_cpu_without_bfloat16_is_not_told_of_openvino(without_openvino, monkeypatch):
    monkeypatch.setattr(fastest.machine, "instructions", lambda: "flags : sse2 avx2")
    assert fastest.recommendation("onnxruntime (cpu)", 30) is None


def test_without_a_cache_it_would_be_said_each_time_and_is_not(without_openvino, monkeypatch):
    monkeypatch.setenv("FRUGAL_RT_CACHE", "off")
    assert fastest.recommendation("onnxruntime (cpu)", 30) is None


def test_one_at_a_time_measures(cached, tmp_path):
    with fastest._alone() as can_keep, (tmp_path / "cache" / LOCK).open("ab") as file:
        assert can_keep
        assert not lock(file)
    with (tmp_path / "cache" / LOCK).open("ab") as file:
        assert lock(file)

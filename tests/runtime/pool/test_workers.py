"""The processes of a pool, and what holds while one hangs: stopped, within a message, in a call, in its start.

A pool notices after some ten seconds; one that waits for its worker exceeds the limits here by far.
"""

import contextlib
import importlib
import os
import signal
import sys
import threading

import numpy as np
import pytest

from frugal_rt import BackendError, DeadlineError, Pool, Restorer, WorkerError, operators
from frugal_rt.engines.machine import THREADS

from ..waiting import PATIENCE, until

SHAPE = (3, 16, 16)
SR = operators.SuperResolution(SHAPE, 2)
LIKE = operators.Denoise(SHAPE)
"""Its measurement is that of the operators below."""
LARGE = operators.Denoise((3, 256, 256))
"""Its measurement is more than a socket takes at once."""
SHORT = {"steps": 100, "method": "closed-form"}
HANGING = '''
import os, signal, stat, struct, time
from pathlib import Path
import numpy as np
from frugal_rt import InputError, operators

class Endless(operators.Denoise):
    """Never ends its first step."""
    def A(self, x):
        time.sleep(1e6)

class CutOff(operators.Denoise):
    """Says the beginning of something, and stops its process."""
    def A(self, x):
        for name in os.listdir("/proc/self/fd"):
            try:
                if stat.S_ISSOCK(os.stat(int(name)).st_mode):
                    os.write(int(name), struct.pack("!Q", 1000) + b"half")
            except OSError:
                pass
        os.kill(os.getpid(), signal.SIGSTOP)

class Odd(InputError):
    """Cannot be copied to another process."""
    def __init__(self, what, where):
        super().__init__(what + where)

class Failing(operators.Denoise):
    def A(self, x):
        raise Odd("no", "where")

class Slow(operators.Denoise):
    """Is never prepared, and says in a folder in which process."""
    def __init__(self, shape, folder):
        super().__init__(shape)
        self.folder = folder
    def prepare(self):
        (Path(self.folder) / f"{os.getpid()} {time.monotonic()}").touch()
        time.sleep(1e6)

class Patient(operators.Denoise):
    """Applies itself until it is stopped, and says in a folder when it begins and ends."""
    def __init__(self, shape, folder):
        super().__init__(shape)
        self.folder = folder
    def prepare(self):
        try:
            while True:
                self.A(np.zeros(self.image_shape))
                (Path(self.folder) / "begun").touch()
        finally:
            (Path(self.folder) / "ended").touch()

class Large(operators.Denoise):
    """Holds 8 MiB."""
    def __init__(self, shape, seed):
        super().__init__(shape)
        self.held = np.random.default_rng(seed).random(1 << 20)
'''


def measurement(operator=SR):
    return np.random.default_rng(1).uniform(-1, 1, operator.measurement_shape).astype(np.float32)


@pytest.fixture
def hanging(tmp_path, monkeypatch):
    """A module of operators that workers can import."""
    (tmp_path / "hanging.py").write_text(HANGING)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("hanging")
    del sys.modules["hanging"]


@pytest.fixture
def pool(hanging, tiny_plan):
    pool = Pool(tiny_plan, "cpu", limit=8)
    yield pool
    pool.close(timeout=1)


@pytest.fixture(scope="module")
def alone(tiny_plan):
    """The image of a seed that nothing else shares."""
    restorer = Restorer.load(tiny_plan, "cpu")
    return lambda seed: restorer.restore(measurement(), SR, **SHORT, seed=seed).image


@contextlib.contextmanager
def stopped(pool):
    """Its worker's process id, stopped; dead at the end, whoever killed it."""
    (process,) = pool.processes
    os.kill(process, signal.SIGSTOP)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def test_a_pool_s_workers_see_a_device_each_and_share_the_cores(driver, monkeypatch):
    given = []

    def launched(module, environment):
        given.append(environment)
        raise BackendError("no process is wanted")

    driver(2, "5,6")
    monkeypatch.setattr("frugal_rt.runtime.pool.workers.launch", launched)
    monkeypatch.setattr("frugal_rt.runtime.pool.workers.cores", lambda: 8)
    with pytest.raises(BackendError, match="no process is wanted"):
        Pool("celeba.plan", devices=(1, 0))
    assert {one["CUDA_VISIBLE_DEVICES"] for one in given} <= {"5", "6"}
    assert {one[THREADS] for one in given} == {"4"}


def test_a_stopped_worker_is_replaced_and_its_requests_give_the_same_images(pool, alone):
    moves = []
    futures = [pool.submit(measurement(), SR, **SHORT, seed=seed, on_move=moves.append) for seed in range(3)]
    until(lambda: moves, PATIENCE)
    with stopped(pool) as process:
        for seed, future in enumerate(futures):
            np.testing.assert_array_equal(future.result(PATIENCE).image, alone(seed))
        assert pool.restarts == 1
        assert not os.path.exists(f"/proc/{process}")  # noqa: PTH110 (no zombie is left)


def test_a_worker_whose_plan_was_written_over_says_so(pool, alone, caplog):
    """The system sends SIGBUS to a process that reads what its mapped file no longer has."""
    restarts = pool.restarts
    os.kill(pool.processes[0], signal.SIGBUS)
    until(lambda: pool.restarts > restarts, PATIENCE)
    assert "a worker ended with SIGBUS (a plan of over 512 MiB is mapped, and was written over" in caplog.text
    np.testing.assert_array_equal(pool.submit(measurement(), SR, **SHORT, seed=0).result(PATIENCE).image, alone(0))


def test_deadlines_hold_while_a_worker_is_stopped_and_nobody_is_sent_to_it(pool, alone):
    with stopped(pool):
        late = [pool.submit(measurement(LARGE), LARGE, steps=2, deadline=0.5) for _ in range(7)]
        for future in late:
            with pytest.raises(DeadlineError):
                future.result(30)
        honest = pool.submit(measurement(), SR, **SHORT, seed=5)
        until(lambda: not pool.is_ready, PATIENCE)
        np.testing.assert_array_equal(honest.result(PATIENCE).image, alone(5))
        assert pool.is_ready
        until(lambda: pool.images == 0)


def test_closing_is_bounded_where_a_worker_is_stopped(tiny_plan):
    pool = Pool(tiny_plan, "cpu")
    with stopped(pool) as process:
        futures = [pool.submit(measurement(LARGE), LARGE, steps=2) for _ in range(2)]
        closing = threading.Thread(target=pool.close, kwargs={"timeout": 1.0})
        closing.start()
        closing.join(60)
        assert not closing.is_alive()
        for future in futures:
            with pytest.raises(WorkerError, match="closed before"):
                future.result(0)
        assert not os.path.exists(f"/proc/{process}")  # noqa: PTH110


@pytest.mark.long
def test_draining_without_a_limit_ends_where_a_worker_is_stopped(tiny_plan, alone):
    pool = Pool(tiny_plan, "cpu")
    with stopped(pool):
        future = pool.submit(measurement(), SR, **SHORT, seed=2)
        closing = threading.Thread(target=pool.close)
        closing.start()
        closing.join(PATIENCE)
        assert not closing.is_alive()
        np.testing.assert_array_equal(future.result(0).image, alone(2))


def test_half_a_message_holds_nobody(pool, hanging, alone):
    operator = hanging.CutOff(SHAPE)
    cut_off = pool.submit(measurement(operator), operator, steps=2, method="dps")
    until(lambda: not pool.is_ready, PATIENCE)
    cut_off.cancel()
    with pytest.raises(DeadlineError):
        pool.submit(measurement(), SR, **SHORT, deadline=0.1).result(30)
    np.testing.assert_array_equal(pool.submit(measurement(), SR, **SHORT).result(PATIENCE).image, alone(0))
    assert pool.restarts == 1


@pytest.mark.long
def test_a_call_without_end_fails_its_request_and_no_other(pool, hanging, alone, monkeypatch):
    monkeypatch.setattr("frugal_rt.runtime.pool.pulse.CALL", 20)
    operator = hanging.Endless(SHAPE)
    endless = [
        pool.submit(measurement(operator), operator, steps=2, method="dps", priority=priority) for priority in (2, 1)
    ]
    honest = pool.submit(measurement(), SR, **SHORT)
    for future in endless:
        with pytest.raises(WorkerError, match="again when it was retried"):
            future.result(PATIENCE)
    np.testing.assert_array_equal(honest.result(PATIENCE).image, alone(0))
    assert pool.restarts >= 2  # each of which it was in


def test_an_error_that_cannot_be_read_fails_its_request(pool, hanging):
    operator = hanging.Failing(SHAPE)
    future = pool.submit(measurement(operator), operator, steps=2, method="dps")
    with pytest.raises(WorkerError, match="again when it was retried"):
        future.result(PATIENCE)
    until(lambda: pool.images == 0)


@pytest.mark.long
def test_a_start_that_hangs_is_given_up(tiny_plan, monkeypatch):
    monkeypatch.setattr("frugal_rt.runtime.pool.workers.START", 12)
    monkeypatch.setattr("frugal_rt.runtime.pool.workers.LONGEST", 0)
    pool = Pool(tiny_plan, "cpu")
    monkeypatch.setattr("frugal_rt.runtime.process._BOOT", "import time; time.sleep(1e6)")
    os.kill(pool.processes[0], signal.SIGKILL)
    with pytest.raises(WorkerError, match="before it was ready"):
        pool.submit(measurement(), SR, **SHORT).result(PATIENCE)
    assert pool.processes == []
    pool.close()


def test_closing_ends_a_swap_that_hangs(tiny_plan, monkeypatch):
    pool, raised = Pool(tiny_plan, "cpu"), []
    monkeypatch.setattr("frugal_rt.runtime.process._BOOT", "import time; time.sleep(1e6)")

    def swap():
        try:
            pool.swap(tiny_plan)
        except WorkerError as error:
            raised.append(error)

    swapping = threading.Thread(target=swap, daemon=True)
    swapping.start()
    until(lambda: len(pool.processes) == 2, PATIENCE)
    pool.close(drain=False)
    swapping.join(60)
    assert not swapping.is_alive()
    assert "closed before" in str(raised[0])
    assert pool.processes == []


def test_a_preparation_that_outlives_its_request_is_ended_and_harms_no_other(pool, hanging, alone, tmp_path):
    """Twice, while the same honest request waits behind it."""
    folder = tmp_path / "processes"
    folder.mkdir()
    slow = [pool.submit(measurement(LIKE), hanging.Slow(SHAPE, str(folder)), steps=2) for _ in range(4)]
    honest = pool.submit(measurement(), SR, **SHORT)
    for begun in (2, 4):
        until(lambda begun=begun: len([*folder.iterdir()]) == begun, PATIENCE)
        for future in slow[begun - 2 : begun]:
            future.cancel()
    np.testing.assert_array_equal(honest.result(PATIENCE).image, alone(0))
    assert pool.restarts == 2


def test_a_preparation_that_is_given_up_ends_by_itself_and_its_worker_stays(pool, hanging, alone, tmp_path):
    workers = pool.processes
    given_up = pool.submit(measurement(LIKE), hanging.Patient(SHAPE, str(tmp_path)), steps=2)
    until((tmp_path / "begun").exists, PATIENCE)
    given_up.cancel()
    until((tmp_path / "ended").exists, PATIENCE)
    np.testing.assert_array_equal(pool.submit(measurement(), SR, **SHORT).result(PATIENCE).image, alone(0))
    assert pool.processes == workers
    assert pool.restarts == 0


def test_a_worker_keeps_operators_by_their_bytes(pool, hanging):
    psutil = pytest.importorskip("psutil")
    worker = psutil.Process(*pool.processes)
    pool.submit(measurement(LIKE), hanging.Large(SHAPE, 0), steps=2).result(PATIENCE)
    before = worker.memory_info().rss
    for seed in range(30):
        pool.submit(measurement(LIKE), hanging.Large(SHAPE, seed), steps=2).result(PATIENCE)
    assert worker.memory_info().rss - before < 120 << 20

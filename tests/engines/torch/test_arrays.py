"""Calls of `TorchArrays` to CUDA, in order, logged by a simulated torch; tests/gpu runs the real one."""

import itertools
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from frugal_rt.engines.errors import BackendError
from frugal_rt.engines.torch import arrays as torch_arrays
from frugal_rt.engines.torch.arrays import OnTorch, TorchArrays


class Stream:
    def __init__(self, name, said):
        self.name, self._said = name, said

    def wait_stream(self, other):
        self._said.append(f"{self.name} waits for {other.name}")


class Cuda:
    """torch.cuda, with streams "default", "beside", "capture", "uploads" and "own"."""

    def __init__(self):
        self.said: list[str] = []
        names = ("default", "beside", "capture", "uploads", "own")
        self.streams = {name: Stream(name, self.said) for name in names}
        self.here = self.streams["default"]
        self._pools = itertools.count()
        self.fails = self.broken = False
        cuda = self

        class CUDAGraph:
            def capture_begin(self, pool, capture_error_mode):
                assert capture_error_mode == "thread_local"  # others upload meanwhile
                assert cuda.here.name == "capture"
                cuda.said.append(f"begin in pool {pool}")
                if cuda.fails:
                    raise RuntimeError("capture is not permitted")

            def capture_end(self):
                cuda.said.append("end")
                if cuda.broken:
                    raise RuntimeError("the capture was invalidated")

            def replay(self):
                cuda.said.append(f"replay on {cuda.here.name}")

            def reset(self):
                cuda.said.append("reset")

        self.CUDAGraph = CUDAGraph

    def is_available(self):
        return True

    def current_device(self):
        return 0

    def current_stream(self):
        return self.here

    def default_stream(self):
        return self.streams["default"]

    def graph_pool_handle(self):
        return next(self._pools)

    def synchronize(self):
        self.said.append("synchronize")

    def empty_cache(self):
        self.said.append("empty the cache")

    @contextmanager
    def stream(self, stream):
        before, self.here = self.here, stream
        yield
        self.here = before


@pytest.fixture
def cuda(monkeypatch) -> Cuda:
    cuda = Cuda()
    torch = SimpleNamespace(cuda=cuda, OutOfMemoryError=MemoryError, _C=SimpleNamespace())
    monkeypatch.setattr(torch_arrays, "import_torch", lambda what: torch)
    monkeypatch.setattr(
        torch_arrays, "streams", lambda torch: tuple(cuda.streams[name] for name in ("beside", "capture", "uploads"))
    )
    return cuda


@pytest.fixture
def arrays(cuda) -> TorchArrays:
    return TorchArrays("A test", "cuda")


def test_work_is_warm_and_alone_when_it_is_recorded(cuda, arrays):
    replay = arrays.capture(lambda: cuda.said.append(f"work on {cuda.here.name}"))
    assert cuda.said == [
        "synchronize",
        "work on capture",
        "work on capture",
        "synchronize",
        "empty the cache",
        "begin in pool 0",
        "work on capture",
        "end",
        "default waits for capture",
    ]
    cuda.said.clear()
    replay()
    assert cuda.said == ["replay on default"]


def test_recordings_share_memory_while_one_of_them_is_there(cuda, arrays):
    def pools():
        return [line for line in cuda.said if line.startswith("begin")]

    first = arrays.capture(lambda: None)
    second = arrays.capture(lambda: None)
    del first
    third = arrays.capture(lambda: None)
    assert pools() == ["begin in pool 0"] * 3
    del second, third
    arrays.capture(lambda: None)
    assert pools()[3:] == ["begin in pool 1"]


def test_the_device_is_done_before_an_engine_goes_and_has_its_memory_after(cuda, arrays):
    kept = [arrays.capture(lambda: None) for _ in range(2)]
    engine = OnTorch(arrays)
    engine.weights = Weights(cuda.said)
    cuda.said.clear()
    for _ in range(2):
        engine.close()
    assert cuda.said == ["synchronize", "reset", "reset", "the weights go", "empty the cache"]
    for name in ("capture", "upload", "throttle", "asarray", "can_capture", "throttled_seconds"):
        with pytest.raises(BackendError, match="this engine has been closed"):
            getattr(engine, name)
    assert len(kept) == 2


class Weights:
    """An object that logs when it is freed."""

    def __init__(self, said):
        self.said = said

    def __del__(self):
        self.said.append("the weights go")


def test_replays_follow_one_another_on_any_streams(cuda, arrays):
    replays = [arrays.capture(lambda: None) for _ in range(2)]
    cuda.said.clear()
    for name, replay in zip(("default", "own", "own", "default"), replays * 2, strict=True):
        with cuda.stream(cuda.streams[name]):
            replay()
    assert cuda.said == [
        "replay on default",
        "own waits for default",
        "replay on own",
        "replay on own",
        "default waits for own",
        "replay on default",
    ]


def test_what_cannot_be_recorded_is_said_once_and_not_tried_again(cuda, arrays, caplog):
    cuda.fails = True
    for _ in range(2):
        assert arrays.capture(lambda: None) is None
    assert not arrays.can_capture
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith("capture is not permitted")


@contextmanager
def breaks_in_capture(cuda, error):
    """Return work that runs normally at first, and raises `error` and breaks the capture when it is captured."""

    def work():
        if cuda.said[-1].startswith("begin"):
            cuda.broken = True
            raise error

    yield work
    assert cuda.said[-1] == "end"  # the capture is ended all the same
    cuda.broken = False


def test_the_error_that_broke_a_capture_is_said_and_not_the_capture_s(cuda, arrays, caplog):
    error = RuntimeError("a tensor was read on the host")
    with breaks_in_capture(cuda, error) as work:
        assert arrays.capture(work) is None
    (record,) = caplog.records
    assert record.getMessage().endswith("a tensor was read on the host")
    assert str(error.__context__) == "the capture was invalidated"
    assert error.__context__.__context__ is None  # no circle


@pytest.mark.parametrize("error", [TypeError("a fault of ours"), KeyboardInterrupt()])
def test_errors_of_other_kinds_leave_a_broken_capture_as_they_are(cuda, arrays, error):
    with breaks_in_capture(cuda, error) as work, pytest.raises(type(error)) as caught:
        arrays.capture(work)
    assert caught.value is error


def test_memory_that_runs_out_in_a_capture_ends_no_others(cuda, arrays):
    with breaks_in_capture(cuda, MemoryError("of the GPU")) as work:

        def in_an_engine():
            with arrays.memory():
                work()

        assert arrays.capture(in_an_engine) is None
    assert arrays.can_capture


def test_garbage_goes_before_a_capture_and_not_in_it(cuda, arrays):
    weights = Weights(cuda.said)
    weights.itself = weights
    del weights
    arrays.capture(lambda: None)
    assert cuda.said.index("the weights go") < cuda.said.index("empty the cache") < cuda.said.index("begin in pool 0")


def test_too_little_memory_for_one_recording_ends_no_others(cuda, arrays):
    def full():
        raise MemoryError("of the GPU")

    def in_an_engine():
        with arrays.memory():
            full()

    assert arrays.capture(in_an_engine) is None
    assert arrays.can_capture
    assert arrays.capture(lambda: None) is not None


@pytest.mark.parametrize(
    ("here", "beside", "goes"), [("default", False, "beside"), ("own", False, "own"), ("own", True, "beside")]
)
def test_calls_of_another_library_are_ordered_with_torch_s(cuda, arrays, here, beside, goes):
    with cuda.stream(cuda.streams[here]), arrays.queue(beside=beside) as stream:
        assert stream.name == goes
        cuda.said.append("call")
    waits = [f"beside waits for {here}", "call", f"{here} waits for beside"]
    assert cuda.said == (waits if goes == "beside" else ["call"])

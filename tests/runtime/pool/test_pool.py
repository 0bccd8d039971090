"""The pool: many callers, worker processes, and what happens when one of them dies."""

import asyncio
import os
import signal
import threading
from concurrent.futures import CancelledError, wait

import numpy as np
import pytest

from frugal_rt import BusyError, DeadlineError, InputError, PlanError, Pool, Restorer, WorkerError, operators
from frugal_rt.engines.errors import Stopped
from frugal_rt.engines.tiled import tile_count
from frugal_rt.export import export_plan, read_prior
from frugal_rt.runtime.operators import Denoise
from frugal_rt.runtime.pool.messages import Report
from frugal_rt.runtime.pool.requests import PLACE, places_of

from ..waiting import PATIENCE, stopped, until

SHAPE = (3, 16, 16)
SR = operators.SuperResolution(SHAPE, 2)
LONG = {"steps": 1000, "method": "dps"}
"""Seconds of work."""


def measurement(operator=SR, rows=None):
    shape = operator.measurement_shape if rows is None else (rows, *operator.measurement_shape)
    return np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)


@pytest.fixture(scope="module")
def restorer(tiny_plan):
    return Restorer.load(tiny_plan, "cpu")


@pytest.fixture
def reports():
    return []


@pytest.fixture
def pool(tiny_plan, reports):
    pool = Pool(tiny_plan, "cpu", limit=8, on_report=reports.append)
    yield pool
    pool.close(timeout=60)


def started(pool, **settings):
    """A long request that is under way, and its events."""
    moves = []
    future = pool.submit(measurement(), SR, on_move=moves.append, **{**LONG, **settings})
    until(lambda: moves)
    return future, moves


def test_results_are_those_of_a_restorer_bit_for_bit_from_threads_and_coroutines(pool, restorer):
    asked = [
        (SR, {"steps": 8, "sigma": 0.1}),
        (operators.Denoise(SHAPE), {"steps": 5, "method": "closed-form", "seed": 3}),
        (operators.Deblur.gaussian(SHAPE, 1.0), {"steps": 6, "method": "dps", "preset": "fast"}),
        (operators.Denoise(SHAPE), {"sigma": 0.3, "aim": "detail"}),
    ]
    futures = [pool.submit(measurement(operator), operator, **settings) for operator, settings in asked]

    async def both():
        return await asyncio.gather(*(pool.restore(measurement(o, 2), o, **settings) for o, settings in asked[:2]))

    batches = asyncio.run(both())
    for future, (operator, settings) in zip(futures, asked, strict=True):
        alone = restorer.restore(measurement(operator), operator, **settings)
        np.testing.assert_array_equal(future.result().image, alone.image)
        assert future.result().image.shape == SHAPE
        assert future.result().trace == alone.trace
    for batch, (operator, settings) in zip(batches, asked, strict=False):
        alone = restorer.restore(measurement(operator, 2), operator, **settings)
        np.testing.assert_array_equal(batch.image, alone.image)
    assert pool.images == 0


def test_events_come_after_every_step_and_carry_previews_where_asked(pool):
    moves, plain = [], []
    pool.submit(measurement(), SR, steps=6, on_move=moves.append, previews=True).result()
    pool.submit(measurement(), SR, steps=3, on_move=plain.append).result()
    assert [move.left for move in moves] == [5, 4, 3, 2, 1, 0]
    assert {move.steps for move in moves} == {6}
    assert all(move.x0hat.shape == SHAPE and np.abs(move.x0hat).max() <= 1 for move in moves)
    assert [move.x0hat for move in plain] == [None] * 3


def test_requests_share_calls_and_reports_say_so(tiny_plan):
    reports = []
    with Pool(tiny_plan, "cpu", on_report=reports.append) as pool:
        room = max(pool.costs.forward)
        blocked, _ = started(pool)
        with stopped(*pool.processes):
            futures = [pool.submit(measurement(), SR, steps=60, method="closed-form", seed=i) for i in range(8)]
        wait(futures)
        blocked.cancel()
    assert max(report.rows for report in reports if not report.pulls) == min(8, room)
    assert max(report.active for report in reports) == 9
    assert all(report.seconds > 0 and report.own >= 0 for report in reports)


def test_cancelling_stops_within_a_step_and_frees_the_place(pool, reports):
    future, moves = started(pool)
    assert future.cancel()
    until(lambda: pool.images == 0)
    pool.submit(measurement(), SR, steps=3).result()
    assert reports[-1].active == 0  # nothing runs any more
    assert len(moves) < 900
    with pytest.raises(CancelledError):
        future.result()

    async def given_up():
        task = asyncio.create_task(pool.restore(measurement(), SR, **LONG))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(given_up())
    until(lambda: pool.images == 0)


def test_a_deadline_stops_what_runs_and_what_waits(pool):
    moves = []
    with pytest.raises(DeadlineError, match="deadline"):
        pool.submit(measurement(), SR, deadline=0.2, on_move=moves.append, **LONG).result()
    assert len(moves) < LONG["steps"]
    assert pool.submit(measurement(), SR, steps=3, deadline=60).result().image.shape == SHAPE


def test_the_limit_counts_images_and_says_when_to_come_back(pool):
    pool.submit(measurement(), SR, steps=4).result()
    until(lambda: pool.images == 0)
    with stopped(*pool.processes):
        futures = [pool.submit(measurement(rows=7), SR, **LONG), pool.submit(measurement(), SR, **LONG)]
        with pytest.raises(BusyError, match="takes 8") as caught:
            pool.submit(measurement(), SR)
        assert caught.value.retry_after >= 1
        futures[0].cancel()
        until(lambda: pool.images == 1)
    assert pool.submit(measurement(), SR, steps=3).result().k
    futures[1].cancel()


def test_priority_overtakes_what_waits(pool):
    order = []
    blocked, _ = started(pool)
    with stopped(*pool.processes):
        futures = [
            pool.submit(measurement(), SR, steps=200, method="closed-form", priority=priority) for priority in (0, 0, 5)
        ]
    for i, future in enumerate(futures):
        future.add_done_callback(lambda done, i=i: order.append(i))
    wait(futures)
    blocked.cancel()
    assert order[0] == 2


def test_what_cannot_be_restored_says_why(pool):
    with pytest.raises(InputError, match="sigma is on the"):
        pool.submit(measurement(), SR, sigma=7.0).result()
    with pytest.raises(InputError, match="there is no setting 'stepps'"):
        pool.submit(measurement(), SR, stepps=3)
    with pytest.raises(InputError, match="a setting cannot go to the worker's process"):
        pool.submit(measurement(), SR, switch=lambda: 0)
    with pytest.raises(TypeError, match="seed is a whole number"):
        pool.submit(measurement(), SR, seed=lambda: 0)
    with pytest.raises(InputError, match=r"of integers \(uint8\), not on the \[-1, 1\] scale"):
        pool.submit(np.full(SR.measurement_shape, 9, np.uint8), SR).result()
    with pytest.raises(InputError, match="measurements of this prior are"):
        pool.submit(np.zeros((3, 5, 5), np.float32), SR).result()
    with pytest.raises(InputError, match="cannot go to the worker's process"):
        pool.submit(measurement(), operators.Custom(SHAPE, SHAPE, lambda x: x, lambda x, r: r))
    assert pool.submit(measurement(), SR, steps=3).result().image.shape == SHAPE
    until(lambda: pool.images == 0)


def test_a_callback_that_fails_loses_nobodys_result(pool, caplog):
    def broken(move):
        raise RuntimeError("a bug of the caller's")

    futures = [pool.submit(measurement(), SR, steps=3, on_move=broken), pool.submit(measurement(), SR, steps=3)]
    assert [future.result().image.shape for future in futures] == [SHAPE, SHAPE]
    assert "a callback given to the pool failed" in caplog.text


def test_a_worker_that_dies_is_replaced_and_its_requests_give_the_same_images(pool, restorer):
    (first,), killed = pool.processes, []

    def kill(move):
        if not killed:
            killed.append(os.kill(first, signal.SIGKILL))

    asked = {"steps": 300, "method": "closed-form", "on_move": kill}
    with stopped(first):
        futures = [pool.submit(measurement(), SR, seed=seed, **asked) for seed in range(3)]
    for seed, future in enumerate(futures):
        alone = restorer.restore(measurement(), SR, steps=300, method="closed-form", seed=seed)
        np.testing.assert_array_equal(future.result(timeout=60).image, alone.image)
    (second,) = pool.processes
    assert second != first
    assert not os.path.exists(f"/proc/{first}")  # noqa: PTH110 (no zombie is left)


def test_a_request_that_kills_two_workers_fails_and_the_pool_goes_on(pool):
    future, moves = started(pool)
    for _ in range(2):
        (process,) = pool.processes
        moves.clear()
        until(lambda: moves)
        os.kill(process, signal.SIGKILL)
        until(lambda process=process: process not in pool.processes)
        until(lambda: pool.processes or future.done())
    with pytest.raises(WorkerError, match="again when it was retried"):
        future.result(timeout=30)
    assert pool.submit(measurement(), SR, steps=3).result(timeout=60).image.shape == SHAPE


def test_a_plan_is_swapped_without_losing_what_was_taken(pool, restorer, make_prior, tmp_path):
    other = tmp_path / "other.plan"
    export_plan(
        read_prior(make_prior({"in_channels": 12, "out_channels": 12, "block_out_channels": [16, 16]}), "b"),
        other,
        precisions=(),
    )
    old = [pool.submit(measurement(), SR, steps=400, method="closed-form", seed=seed) for seed in range(3)]
    before = pool.processes
    pool.swap(other)
    new = pool.submit(measurement(), SR, steps=5)
    assert pool.prior == "b"
    expected = Restorer.load(other, "cpu").restore(measurement(), SR, steps=5)
    np.testing.assert_array_equal(new.result().image, expected.image)
    for seed, future in enumerate(old):
        alone = restorer.restore(measurement(), SR, steps=400, method="closed-form", seed=seed)
        np.testing.assert_array_equal(future.result().image, alone.image)
    until(lambda: len(pool.processes) == 1)
    assert pool.processes != before


def test_a_plan_that_cannot_be_loaded_leaves_the_old_one(pool, tmp_path):
    with pytest.raises(PlanError, match="no file"):
        pool.swap(tmp_path / "nothing.plan")
    assert pool.submit(measurement(), SR, steps=3).result().image.shape == SHAPE
    assert len(pool.processes) == 1


def test_of_two_swaps_the_plan_that_was_asked_for_last_stays(monkeypatch):
    opened = []

    class Workers:
        def __init__(self, on_report): ...

        def open(self, devices, setup):
            opened.append(setup.plan)
            if setup.plan == "second":
                later.start()
                later.join(0.2)  # it waits for this swap

        def stop(self): ...

    monkeypatch.setattr("frugal_rt.runtime.pool.pool.Workers", Workers)
    with Pool("first") as pool:
        later = threading.Thread(target=pool.swap, args=("third",))
        pool.swap("second")
        later.join()
        assert opened == ["first", "second", "third"]
        assert pool.plan == "third"


def test_opening_raises_what_the_plan_or_backend_is_refused_for(tmp_path):
    with pytest.raises(PlanError, match="no file"):
        Pool(tmp_path / "nothing.plan")
    assert not [thread for thread in threading.enumerate() if thread.name == "frugal-rt-pool"]


def test_a_worker_that_dies_before_it_is_ready_is_an_error_and_not_a_wait(tiny_plan, monkeypatch):
    monkeypatch.setattr("frugal_rt.runtime.process._BOOT", "raise SystemExit(3)")
    with pytest.raises(WorkerError, match="before it was ready"):
        Pool(tiny_plan, "cpu")


def test_requests_that_come_while_no_worker_can_start_fail_and_leave_their_places(tiny_plan, monkeypatch):
    pool = Pool(tiny_plan, "cpu", limit=2)
    monkeypatch.setattr("frugal_rt.runtime.process._BOOT", "raise SystemExit(3)")
    (process,) = pool.processes
    os.kill(process, signal.SIGKILL)
    for _ in range(5):
        with pytest.raises(WorkerError, match=r"no worker can be started|died before it was ready"):
            pool.submit(measurement(), SR).result(timeout=60)
    until(lambda: pool.images == 0)
    assert not pool.is_ready
    pool.close(timeout=60)


def test_a_plan_that_was_gone_when_its_worker_died_is_taken_again_when_it_is_back(plan_copy, monkeypatch, caplog):
    monkeypatch.setattr("frugal_rt.runtime.pool.workers.REST", 0.05)
    monkeypatch.setattr("frugal_rt.runtime.pool.workers.LONGEST_REST", 0.2)
    with Pool(plan_copy, "cpu") as pool:
        before = pool.submit(measurement(), SR, steps=3).result(timeout=60).image
        measured = pool.costs
        plan_copy.rename(plan_copy.with_suffix(".away"))
        os.kill(pool.processes[0], signal.SIGKILL)
        until(lambda: "no worker can be started: there is no file" in caplog.text)
        with pytest.raises(WorkerError, match="no worker can be started"):
            pool.submit(measurement(), SR, steps=3).result(timeout=60)
        plan_copy.with_suffix(".away").rename(plan_copy)
        until(lambda: pool.is_ready, 60)
        np.testing.assert_array_equal(pool.submit(measurement(), SR, steps=3).result(timeout=60).image, before)
        assert pool.costs == measured  # they are not measured again
        assert pool.images == 0


def test_deaths_are_forgotten_after_a_rest(tiny_plan, monkeypatch):
    monkeypatch.setattr("frugal_rt.runtime.pool.workers.REST", 0.05)
    with Pool(tiny_plan, "cpu") as pool:
        with monkeypatch.context() as patch:
            patch.setattr("frugal_rt.runtime.process._BOOT", "raise SystemExit(3)")
            os.kill(pool.processes[0], signal.SIGKILL)
            until(lambda: pool._workers._slots[0].rests > 1, 60)
            assert not pool.is_ready
        until(lambda: pool.is_ready, 60)
        assert pool.submit(measurement(), SR, steps=3).result(timeout=60).image.shape == SHAPE


def test_a_call_under_way_is_ended_when_its_request_is_given_up(local_plan):
    """Within it: its report says that it was, before any of its rows moved."""
    reports = []
    shape, small = (3, 1024, 1024), (3, 16, 16)
    with Pool(local_plan, "cpu", on_report=reports.append) as pool:
        for _ in range(20):  # one that is given up between two calls has no report of it
            before = len(reports)
            future = pool.submit(np.zeros(shape), operators.Denoise(shape), sigma=0.3, steps=50, method="dps")
            until(lambda before=before: len(reports) > before)
            future.cancel()
            pool.submit(np.zeros(small), operators.Denoise(small), sigma=0.3, steps=3).result(timeout=PATIENCE)
            if ended := [report for report in reports if report.failed]:
                break
        assert [type(why) for why in ended[0].failed.values()] == [Stopped]
        assert ended[0].moved == ()


def test_a_request_that_cannot_be_submitted_leaves_its_place(pool):
    for _ in range(pool.limit + 1):
        with pytest.raises(TypeError):
            pool.submit(measurement(), SR, deadline="soon")
    until(lambda: pool.images == 0)
    assert pool.submit(measurement(), SR, steps=3).result(timeout=60).image.shape == SHAPE


def test_a_bug_of_the_pool_ends_the_request_that_met_it(pool, monkeypatch):
    def broken(self, request):
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr("frugal_rt.runtime.pool.workers.Workers._assign", broken)
        with pytest.raises(WorkerError, match="the pool failed over this restoration"):
            pool.submit(measurement(), SR).result(timeout=10)
    until(lambda: pool.images == 0)
    assert pool.submit(measurement(), SR, steps=3).result(timeout=60).image.shape == SHAPE


def test_waiting_for_what_was_cancelled_ends(pool):
    futures = [started(pool)[0], pool.submit(measurement(), SR, **LONG)]
    for future in futures:
        future.cancel()
    assert not wait(futures, timeout=10).not_done


def test_closing_finishes_what_was_taken_and_takes_nothing_more(tiny_plan):
    pool = Pool(tiny_plan, "cpu")
    futures = [pool.submit(measurement(), SR, steps=30) for _ in range(4)]
    closing = threading.Thread(target=pool.close)
    closing.start()
    until(lambda: not pool.is_ready)
    with pytest.raises(WorkerError, match="closed, or closing"):
        pool.submit(measurement(), SR)
    closing.join()
    assert all(future.result().image.shape == SHAPE for future in futures)
    assert pool.processes == []
    pool.close()


def test_closing_at_once_fails_what_is_left(tiny_plan):
    pool = Pool(tiny_plan, "cpu")
    future, _ = started(pool)
    (process,) = pool.processes
    pool.close(drain=False)
    with pytest.raises(WorkerError, match="closed before"):
        future.result(timeout=1)
    assert not os.path.exists(f"/proc/{process}")  # noqa: PTH110


def test_two_workers_take_turns(tiny_plan):
    with Pool(tiny_plan, "cpu", devices=(None, None)) as pool:
        assert len(pool.processes) == 2
        futures = [pool.submit(measurement(), SR, steps=100, method="closed-form", seed=seed) for seed in range(4)]
        os.kill(pool.processes[0], signal.SIGKILL)
        images = [future.result(timeout=60).image for future in futures]
        again = [pool.submit(measurement(), SR, steps=100, method="closed-form", seed=seed) for seed in range(4)]
        np.testing.assert_array_equal(images, [future.result(timeout=60).image for future in again])


def test_a_program_whose_loop_is_uvloop_changes_nothing(tiny_plan, monkeypatch):
    class Loop(asyncio.SelectorEventLoop):
        def add_reader(self, fd, callback, *args):
            os.set_blocking(fd, False)  # as libuv does with what it polls
            super().add_reader(fd, callback, *args)

    monkeypatch.setattr(asyncio, "new_event_loop", Loop)
    operator = operators.Denoise((3, 256, 256))  # more bytes than a socket takes at once
    with Pool(tiny_plan, "cpu") as pool:
        workers = pool.processes
        futures = [pool.submit(measurement(operator), operator, sigma=0.1, steps=2) for _ in range(3)]
        for future in futures:
            assert future.result(60).image.shape == operator.image_shape
        assert pool.processes == workers


@pytest.mark.parametrize(
    ("images", "pixels", "steps", "limit", "places"),
    [
        (1, 64 * 64, 20, 8, 1),
        (1, 64 * 64, 1000, 8, 1),
        (5, 512 * 512, 100, 8, 5),
        (1, 512 * 513, 2, 8, 2),
        (2, 1024 * 1024, 20, 64, 8),
        (1, 4000 * 3000, 20, 8, 8),
        (1, 512 * 512, 101, 8, 2),
        (1, 512 * 512, 1000, 64, 10),
        (3, 256 * 256, 1000, 64, 9),
    ],
)
def test_an_image_of_many_pixels_or_steps_takes_several_places_and_one_finds_those_there_are(
    images, pixels, steps, limit, places
):
    assert places_of(images, pixels, steps, limit) == places


def test_what_a_request_costs_is_counted_by_its_steps_and_tiles(pool, local_plan):
    def taken(pool, side: int, **settings) -> int:
        operator = operators.Denoise((3, side, side))
        future = pool.submit(np.zeros(operator.measurement_shape, np.float32), operator, sigma=0.3, **settings)
        try:
            return pool.images
        finally:
            future.cancel()
            until(lambda: pool.images == 0)

    assert taken(pool, 16, steps=1000, method="dps") == 1
    assert tile_count(384, 16) == 47
    assert taken(pool, 384) == -(-(47**2) * 16 * 16 // PLACE)
    with Pool(local_plan, "cpu", limit=64) as any_size:
        assert taken(any_size, 1024) == 4
        assert taken(any_size, 512, steps=1000, method="dps") == 10


def test_images_of_many_sizes_are_each_restored_as_alone(local_plan):
    """Rows of two sizes have no call together; those of one size share theirs."""
    reports: list[Report] = []
    restorer, shapes = Restorer.load(local_plan, "cpu"), [(3, 16, 16), (3, 9, 21), (3, 16, 16), (3, 40, 8), (3, 9, 21)]
    random = np.random.default_rng(5)
    asked = [(random.uniform(-1, 1, shape).astype(np.float32), Denoise(shape)) for shape in shapes]
    settings = {"sigma": 0.3, "steps": 12}
    with Pool(local_plan, "cpu", on_report=reports.append) as pool:
        assert pool.any_size
        assert pool.image_shape == (3, 16, 16)
        results = [future.result() for future in [pool.submit(y, operator, **settings) for y, operator in asked]]
    for (y, operator), result in zip(asked, results, strict=True):
        alone = restorer.at(*operator.image_shape[1:]).restore(y, operator, **settings)
        np.testing.assert_array_equal(result.image, alone.image)
    assert max(report.rows for report in reports) == 2

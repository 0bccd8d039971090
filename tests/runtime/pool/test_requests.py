"""The places of a pool: held by futures, and given back once however each of them ends."""

import threading
from concurrent.futures import CancelledError

import pytest

from frugal_rt import BusyError, InputError, WorkerError
from frugal_rt.runtime.pool.requests import Places, Request


@pytest.fixture
def places():
    return Places(4)


def taken(places, images=3):
    with places.take(images, 0.5) as future:
        return Request(7, images, False, b"", future, places, None)


ENDS = {
    "a result": lambda request: request.end("a result"),
    "an error": lambda request: request.end(InputError("no")),
    "its cancellation": lambda request: request.future.cancel(),
    "its cancellation, then an error": lambda request: (request.future.cancel(), request.end(InputError("no"))),
    "two of them": lambda request: (request.end("a result"), request.end(InputError("no"))),
    "an error before it is given up": lambda request: (request.end(InputError("no")), request.give_up()),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_places_are_held_until_the_end_and_given_back_once(places, end):
    other, request = taken(places, 1), taken(places)
    assert places.taken == 4
    end(request)
    assert places.taken == 1
    end(other)
    assert places.taken == 0
    assert places.wait(0)


def test_what_is_raised_where_they_are_taken_gives_them_back(places):
    with pytest.raises(KeyboardInterrupt), places.take(3, 0.5) as future:
        raise KeyboardInterrupt
    assert places.taken == 0
    with pytest.raises(CancelledError):
        future.result(0)


def test_they_are_free_before_who_waits_hears_of_it(places):
    seen = []
    request = taken(places)
    request.future.set_result = lambda result: seen.append(places.taken)
    request.end("a result")
    assert seen == [0]


def test_the_first_outcome_stays(places):
    request = taken(places)
    request.end("a result")
    request.end(InputError("no"))
    assert request.future.result(0) == "a result"


def test_no_more_are_taken_than_there_are(places):
    taken(places)
    with pytest.raises(BusyError, match="has 3 images and takes 4") as caught:
        taken(places, 2)
    assert caught.value.retry_after == 1.5
    assert places.taken == 3
    taken(places, 1)


def test_none_is_taken_when_closed_and_the_last_to_go_is_waited_for(places):
    request = taken(places)
    places.close()
    with pytest.raises(WorkerError, match="closed, or closing"):
        taken(places, 1)
    assert not places.wait(0)
    threading.Timer(0.05, request.future.cancel).start()
    assert places.wait(60)

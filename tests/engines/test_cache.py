"""The cache: a damaged entry is made again, and the entries used longest ago are removed."""

import os

import numpy as np
import pytest

from frugal_rt.engines import cache

from .calls import answers


def test_a_damaged_cache_entry_is_made_again(tiny_plan, cached, caplog):
    first = answers(tiny_plan)
    for entry in [path.with_suffix("") for path in cached.glob("*.sha256")]:
        data = bytearray(entry.read_bytes())
        data[len(data) // 2] ^= 1
        entry.write_bytes(data)
    for a, b in zip(first, answers(tiny_plan), strict=True):
        np.testing.assert_array_equal(a, b)
    assert caplog.text.count("is damaged and is made again") == 3
    caplog.clear()
    answers(tiny_plan)
    assert not caplog.text


def test_nothing_in_a_key_stands_for_another_thing():
    keys = [("a", "b"), ("ab",), ("a\0b",), ("b", "a"), (["a", "b"],), (["a"], "b"), ("a", ["b"]), ('a", "b',), ()]
    assert len({cache.key("svd", *parts) for parts in keys}) == len(keys)


def test_a_cache_that_cannot_be_written_is_no_error(tiny_plan, cached):
    cached.write_text("a file where the folder should be")
    assert np.isfinite(answers(tiny_plan)).all()


def test_the_cache_forgets_what_was_used_longest_ago(cached, monkeypatch):
    for i, name in enumerate(("svd-a", "svd-b", "svd-c")):
        cache.keep(name, lambda path: path.write_bytes(bytes(100)))
        os.utime(cached / name, (i, i))
    monkeypatch.setitem(cache.LIMITS, "svd", 250)
    assert cache.find("svd-a")  # used now, so b is the oldest
    cache.keep("svd-d", lambda path: path.write_bytes(bytes(100)))
    assert {path.name for path in cached.iterdir()} == {"svd-a", "svd-a.sha256", "svd-d", "svd-d.sha256"}


@pytest.mark.parametrize("flooded", cache.LIMITS)
def test_many_entries_of_one_kind_push_out_none_of_another(flooded, cached, monkeypatch):
    monkeypatch.setattr(cache, "LIMITS", dict.fromkeys(cache.LIMITS, 250))

    def keep(kind: str, what: str, used: float) -> str:
        name = cache.key(kind, what)
        cache.keep(name, lambda path: path.write_bytes(bytes(100)))
        os.utime(cached / name, (used, used))
        return name

    others = [keep(kind, "first", 0) for kind in cache.LIMITS if kind != flooded]
    flood = [keep(flooded, str(i), 1 + i) for i in range(5)]
    assert {path.name for path in cached.iterdir() if path.suffix != ".sha256"} == {*others, *flood[-2:]}

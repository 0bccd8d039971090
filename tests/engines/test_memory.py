"""Arrays kept for the next call, and the memory that a process may have."""

import pytest

from frugal_rt.engines import machine, memory
from frugal_rt.engines.memory import Free


def test_two_sizes_are_kept_and_a_third_takes_the_oldest_s_place():
    free: Free[str] = Free()
    assert free.take((1, 8, 8)) is None
    for size in "abc":
        free.give(size, size.upper())
    assert [free.take(size) for size in "abc"] == [None, "B", "C"]
    assert free.take("c") is None


def test_bytes_are_bounded_but_for_what_was_used_last(monkeypatch):
    monkeypatch.setattr(memory, "BYTES_KEPT", 10)
    free: Free[str] = Free()
    free.give("a", "A", 6)
    free.give("b", "B", 6)
    assert free.take("a") is None
    free.give("b", "B2", 30)
    assert free.take("b") == "B2"
    assert free.take("b") is None


@pytest.mark.parametrize(
    ("listing", "files", "limits"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "1000", "memory.max": "5000"}, [1000, 5000]),
        ("0::/\n", {"memory.max": "700"}, [700]),
        ("5:memory:/box\n3:cpu:/box\n", {"memory/box/memory.limit_in_bytes": "123"}, [123]),
        ("0::/gone\n", {}, []),
        ("", {}, []),
    ],
)
def test_the_limits_of_control_groups(tmp_path, listing, files, limits):
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text + "\n")
    (tmp_path / "cgroup").write_text(listing)
    assert list(machine.memory_limits(tmp_path / "cgroup", tmp_path / "fs")) == limits


def test_there_is_memory():
    assert machine.memory() > 1 << 20

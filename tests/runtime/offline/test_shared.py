"""A folder with what is no picture in it, and one that several processes fill or a killed one left half filled."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frugal_rt import FileError
from frugal_rt.engines import files
from frugal_rt.engines.files import atomic_write, remove_drafts
from frugal_rt.runtime.offline import claims, outputs, run
from frugal_rt.runtime.offline.claims import Claims
from frugal_rt.runtime.offline.outputs import Targets
from frugal_rt.runtime.pictures import images

from ...commands import frugal

COMMAND = [sys.executable, "-m", "frugal_rt"]
RESTORE = ("restore", "-e", "tiny.plan", "--steps", "4", "--task", "denoise", "--sigma", "0.2")


@pytest.fixture
def here(three_faces) -> Path:
    return three_faces


def many(number: int) -> list[str]:
    """So many pictures, in `many`; their names."""
    Path("many").mkdir()
    random = np.random.default_rng(0)
    for i in range(number):
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(f"many/{i:02}.png")
    return [f"{i:02}.png" for i in range(number)]


def begun(*arguments: str) -> "subprocess.Popen[str]":
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*COMMAND, *arguments], **pipes)


def test_what_is_no_file_fails_alone_or_is_passed_over(here):
    os.mkfifo("faces/pipe.png")
    Path("faces/loop.png").symlink_to("loop.png")
    Path("faces/nowhere.png").symlink_to("gone.png")
    Path("faces/zero.png").symlink_to("/dev/zero")
    Path("faces/folder.png").mkdir()
    Path("faces/" + "n" * 251 + ".jpg").write_bytes(Path("faces/a.jpg").read_bytes())
    result = frugal(*RESTORE, "faces", "-o", "out", "--format", "webp", "--json")
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    assert [Path(one["image"]).name[:5] for one in said["restored"]] == ["a.jpg", "b.png", "c.web"]
    whys = {Path(one["image"]).name[:4]: one["error"] for one in said["failed"]}
    assert whys.keys() == {"loop", "nowh", "nnnn"}
    assert "too long for a file" in whys["nnnn"]
    assert "2 passed over, pipes or devices, which may never end: pipe.png, zero.png" in result.stderr
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.webp", "b.webp", "c.webp"]


def test_those_that_are_named_fail_alone(here, monkeypatch):
    monkeypatch.setattr(images, "PATIENCE", 0.1)
    os.mkfifo("pipe.png")
    named = ["faces/a.jpg", "pipe.png", "/dev/zero", "x" * 300 + ".png"]
    result = frugal(*RESTORE, *named, "-o", "out")
    assert result.exit_code == 1
    assert "1 restored, 0 failed" not in result.stdout
    for sentence in ("nobody writes into the pipe pipe.png", "/dev/zero is a device or a socket", "too long"):
        assert sentence in result.stderr.lower() or sentence in result.stderr
    assert [path.name for path in Path("out").iterdir()] == ["a.png"]


def test_a_pipe_is_waited_for_where_somebody_writes(here, monkeypatch):
    monkeypatch.setattr(images, "PATIENCE", 5)
    os.mkfifo("pipe.png")
    data = Path("faces/b.png").read_bytes()

    def write() -> None:
        time.sleep(0.1)
        with open("pipe.png", "wb") as pipe:  # noqa: PTH123
            time.sleep(0.1)
            pipe.write(data[:10])
            pipe.flush()
            time.sleep(0.1)
            pipe.write(data[10:])

    thread = threading.Thread(target=write)
    thread.start()
    assert images.read_bytes(Path("pipe.png")) == data
    thread.join()


def test_a_name_that_the_system_refuses_as_it_is_written_fails_alone(here, monkeypatch):
    whole = run.write_result

    def refused(target, *more):
        if target.name == "b.png":
            raise FileError("cannot write b.png: no such name here") from OSError(errno.EILSEQ, "")
        if target.name == "c.png" and full:
            raise FileError("the disk is full") from OSError(errno.ENOSPC, "")
        return whole(target, *more)

    monkeypatch.setattr(run, "write_result", refused)
    full = False
    result = frugal(*RESTORE, "-q", "faces", "-o", "out")
    assert (result.exit_code, result.stderr) == (1, "Error: faces/b.png: cannot write b.png: no such name here\n")
    assert [path.name for path in sorted(Path("out").iterdir())] == ["a.png", "c.png"]
    full = True
    result = frugal(*RESTORE, "-q", "faces", "-o", "other")
    assert (result.exit_code, result.stderr) == (1, "Error: the disk is full\n")


def test_equal_pictures_give_equal_files_whatever_shares_their_calls(here):
    """With onnxruntime on the CPU, to the byte: settings say nothing of the batch."""
    assert frugal(*RESTORE, "--backend", "cpu", "faces", "-o", "out").exit_code == 0
    for name in ("a.jpg", "b.png", "c.webp"):
        assert frugal(*RESTORE, "--backend", "cpu", f"faces/{name}", "-o", "alone.png", "--force").exit_code == 0
        assert Path("alone.png").read_bytes() == Path(f"out/{Path(name).stem}.png").read_bytes()


def test_drafts_of_a_killed_process_are_removed_and_those_of_a_living_one_are_not(tmp_path):
    script = (
        "import sys, time; from frugal_rt.engines.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as file: file.write(b'half'); file.flush(); print(flush=True); time.sleep(99)"
    )
    killed, living = (
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / name)], stdout=subprocess.PIPE)
        for name in ("killed.png", "living.png")
    )
    try:
        for process in (killed, living):
            process.stdout.readline()
        killed.kill()
        killed.wait()
        (tmp_path / ".mine.tmp").write_text("mine")
        (tmp_path / "mine.12345678.tmp").write_text("mine")
        assert len(list(tmp_path.iterdir())) == 4
        remove_drafts(tmp_path)
        names = {path.name for path in tmp_path.iterdir()}
        assert {".mine.tmp", "mine.12345678.tmp"} < names
        (draft,) = names - {".mine.tmp", "mine.12345678.tmp"}
        assert draft.startswith(".living.png.")
    finally:
        living.kill()
        living.wait()


def test_a_file_is_renamed_before_another_process_can_take_it_for_abandoned(tmp_path, monkeypatch):
    rename = Path.replace

    def late(draft, target):
        script = "import sys; from pathlib import Path; from frugal_rt.engines.files import remove_drafts as remove"
        subprocess.run([sys.executable, "-c", f"{script}; remove(Path(sys.argv[1]))", str(tmp_path)], check=True)
        return rename(draft, target)

    monkeypatch.setattr(Path, "replace", late)
    with atomic_write(tmp_path / "a.png") as file:
        file.write(b"whole")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"whole"]


def test_a_file_being_written_stays_where_there_are_no_locks(tmp_path, monkeypatch):
    def refused(*more):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(files.fcntl, "flock", refused)
    with atomic_write(tmp_path / "a.png") as file:
        file.write(b"whole")
        remove_drafts(tmp_path)
    assert (tmp_path / "a.png").read_bytes() == b"whole"


def test_a_run_with_nothing_to_do_removes_what_a_killed_one_was_writing(here):
    assert frugal(*RESTORE, "faces", "-o", "out").exit_code == 0
    Path("out/.a.png.0123abcd.tmp").write_bytes(b"half a picture")
    assert frugal(*RESTORE, "faces", "-o", "out", "--resume").exit_code == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.png", "b.png", "c.png"]


def test_a_run_after_one_that_was_killed_finishes_it_and_leaves_nothing_else(here):
    names = many(40)  # more than are restored together, so that it is killed before the last
    slow = [*RESTORE, "--samples", "1", "many", "-o", "out"]
    process = begun(*slow)
    while not Path("out").is_dir() or len(list(Path("out").glob("*.png"))) < 1:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    Path("out/.03.png.0123abcd.tmp").write_bytes(b"half a picture")
    assert frugal(*slow, "--resume").exit_code == 0
    assert sorted(path.name for path in Path("out").iterdir()) == names


def test_two_processes_share_one_folder(here):
    names = many(48)
    both = [begun(*RESTORE, "many", "-o", "out", "--resume") for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    counts = [list(map(int, (text.split()[0], text.split()[2], text.split()[4]))) for text in map(last, said)]
    assert sum(restored for restored, _, _ in counts) == len(names), counts
    assert all(restored + failed + there == len(names) for restored, failed, there in counts), counts
    assert sorted(path.name for path in Path("out").iterdir()) == names


def test_a_result_that_appears_as_the_targets_are_settled_is_not_replaced(tmp_path, monkeypatch):
    """Whatever look at the folder finds it first: with --resume it is another process's, or it is there."""
    for looks in range(1, 6):
        asked = iter([False] * looks)
        monkeypatch.setattr(outputs, "is_whole", lambda target, samples, asked=asked: next(asked, True))
        targets = Targets.settle([Path("a.png")], False, tmp_path, 1, resume=True, force=False)
        assert not targets.replaced
        assert (targets.there == []) == bool(targets.paths)


def last(said: tuple[str, str]) -> str:
    """The last line that a command wrote: how many were restored, failed, and were there."""
    return said[0].strip().splitlines()[-1]


HOLD = """
import sys, time
from pathlib import Path
from frugal_rt.runtime.offline.claims import Claims
claims = Claims(Path(sys.argv[1]))
print(claims.take("a"), flush=True)
sys.stdin.readline()
claims.close()
"""


def holder(folder: Path) -> "subprocess.Popen[str]":
    """A process that has claimed "a" in the folder, until a line comes."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "True\n"
    return process


def test_a_claim_is_of_one_process_and_goes_with_it(tmp_path):
    folder = tmp_path / "out"
    other = holder(folder)
    mine = Claims(folder)
    assert not mine.take("a")
    assert mine.take("b")
    threading.Timer(0.2, other.kill).start()
    assert mine.take("a", wait=True)
    other.wait()
    mine.close()
    assert not list(folder.iterdir())  # it was the other's to take away


def test_claims_hold_where_the_file_was_removed_as_it_was_opened(tmp_path, monkeypatch):
    """As the last of the other processes does; one that comes later then makes another file."""
    folder, lock, others = tmp_path / "out", claims.fcntl.lockf, []

    def removed(*arguments):
        monkeypatch.setattr(claims.fcntl, "lockf", lock)
        (folder / claims.NAME).unlink()
        others.append(holder(folder))
        lock(*arguments)

    monkeypatch.setattr(claims.fcntl, "lockf", removed)
    mine = Claims(folder)
    assert not mine.take("a")
    assert mine.take("b")
    others[0].communicate("\n")
    assert mine.take("a")
    mine.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_of_two_that_close_together_one_takes_the_file_away(tmp_path, monkeypatch, when):
    """Whichever side of this process's try for the last place the other one closes on."""
    folder, lock = tmp_path / "out", Claims._lock
    mine, other = Claims(folder), holder(folder)

    def tried(self, byte, *more):
        if when == "before":
            other.communicate("\n")
        got = lock(self, byte, *more)
        if when == "after":
            other.communicate("\n")
        return got

    monkeypatch.setattr(Claims, "_lock", tried)
    mine.close()
    assert other.returncode == 0
    assert not folder.exists()


def test_claims_hold_where_the_folder_was_removed_as_the_file_was_opened(tmp_path, monkeypatch):
    """As by a process that had made it, and wrote nothing."""
    folder, make_folder, times = tmp_path / "out", claims.make_folder, []

    def removed(path):
        make_folder(path)
        times.append(path)
        if len(times) < 3:
            path.rmdir()

    monkeypatch.setattr(claims, "make_folder", removed)
    mine = Claims(folder)
    monkeypatch.undo()
    other = holder(folder)
    assert not mine.take("a")
    other.communicate("\n")
    mine.close()


def test_a_folder_without_locks_gives_every_claim(tmp_path, monkeypatch):
    def refused(*more):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(claims.fcntl, "lockf", refused)
    mine = Claims(tmp_path / "out")
    assert mine.take("a")
    mine.close()
    assert not (tmp_path / "out").exists()

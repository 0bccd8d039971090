"""A folder that one command at a time writes into."""

import subprocess
import sys

import pytest

from frugal_rt import FileError, InputError
from frugal_rt.engines import files
from frugal_rt.engines.files import HELD, alone

HOLDER = """
import sys
from pathlib import Path
from frugal_rt.engines.files import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_held_by_one_and_then_by_the_next(tmp_path):
    folder = tmp_path / "new"
    with alone(folder), pytest.raises(InputError, match="another command is writing into") as caught, alone(folder):
        pass
    assert "\n" not in str(caught.value)
    with alone(folder):
        pass
    assert not list(folder.iterdir())


def test_a_killed_process_holds_nothing(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="another command"), alone(tmp_path):
            pass
        holder.kill()
    assert (tmp_path / HELD).exists()
    with alone(tmp_path):
        pass


def test_a_folder_is_held_though_its_last_holder_removed_the_file_as_it_was_opened(tmp_path, monkeypatch):
    real = files.lock

    def removed_first(file):
        monkeypatch.setattr(files, "lock", real)
        (tmp_path / HELD).unlink()
        return real(file)

    monkeypatch.setattr(files, "lock", removed_first)
    with alone(tmp_path), pytest.raises(InputError, match="another command"), alone(tmp_path):
        pass


def test_without_locks_every_folder_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    with alone(tmp_path), alone(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot make the folder"), alone(tmp_path / "file"):
        pass

"""`-` for standard input and output: a picture comes in and goes out, and nothing else does."""

import io
import json
import os
import pty
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from frugal_rt.cli import main
from frugal_rt.runtime.offline import streams
from frugal_rt.runtime.pictures.formats import read_settings

from ..commands import FRUGAL, frugal, refuses, runs

RESTORE = ("restore", "-e", "tiny.plan", "--steps", "4")


def piped(data: bytes, *arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, input=data, catch_exceptions=False)


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)))


def test_a_picture_comes_from_standard_input_and_goes_to_standard_output(here):
    runs(*RESTORE, "clean.png", "-o", "plain.png")
    result = piped(Path("clean.png").read_bytes(), *RESTORE, "-", "-o", "-")
    assert result.exit_code == 0, result.stderr
    np.testing.assert_array_equal(pixels(result.stdout_bytes), pixels(Path("plain.png").read_bytes()))
    assert "standard input: denoise" in result.stderr
    assert re.search(r"^standard output: \d+\.\d s, 4 network calls", result.stderr, re.MULTILINE)
    assert sorted(path.name for path in here.iterdir()) == ["clean.png", "plain.png", "tiny.plan"]
    for kind, said in (("jpg", "JPEG"), ("webp", "WEBP"), ("tif", "TIFF")):
        written = frugal(*RESTORE, "clean.png", "-o", "-", "--format", kind).stdout_bytes
        assert Image.open(io.BytesIO(written)).format == said


def test_what_was_piped_is_restored_again_by_its_params(here):
    data = Path("clean.png").read_bytes()
    assert piped(data, *RESTORE, "-", "first.tif", "--seed", "3").exit_code == 0
    assert read_settings(Path("first.tif"))["params"]["options"]["images"] == ["-"]
    assert piped(data, "restore", "--params", "first.tif", "-o", "again.tif").exit_code == 0
    assert pixels(Path("first.tif").read_bytes()).tolist() == pixels(Path("again.tif").read_bytes()).tolist()


def test_limits_hold_for_what_is_piped(here, monkeypatch):
    result = piped(b"hello", *RESTORE, "-", "-o", "x.png")
    assert result.exit_code == 1
    assert "Error: standard input is not a picture this can read" in result.stderr
    monkeypatch.setattr(streams, "MAX_BYTES", 1 << 20)
    result = piped(b"x" * ((1 << 20) + 1), *RESTORE, "-", "-o", "x.png")
    assert "Error: standard input has more than 1 MiB" in result.stderr
    huge = io.BytesIO()
    Image.new("1", (9000, 9000)).save(huge, "PNG")
    assert "81000000 pixels; up to 64000000" in piped(huge.getvalue(), *RESTORE, "-", "-o", "x.png").stderr
    assert not Path("x.png").exists()


def test_what_does_not_go_with_a_stream(here):
    refuses("say where the restoration of standard input goes", *RESTORE, "-")
    refuses("- is one picture from standard input", *RESTORE, "-", "clean.png", "-o", "out", status=2)
    refuses("- is one picture", *RESTORE, "-", "-o", "x.png", "--devices", "0", status=2)
    refuses("standard output takes one picture", *RESTORE, ".", "-o", "-")
    refuses("--samples makes several pictures", *RESTORE, "clean.png", "-o", "-", "--samples", "2")
    refuses("--json and -o - both write", *RESTORE, "clean.png", "-o", "-", "--json", status=2)


def test_a_picture_is_neither_read_from_nor_written_to_a_terminal(here):
    ours, theirs = pty.openpty()
    for arguments, stream, sentence in (
        (("clean.png", "-o", "-"), "stdout", "a picture is not written to a terminal"),
        (("-", "-o", "x.png"), "stdin", "standard input is a terminal"),
    ):
        streams_of = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, stream: theirs}
        command = [*FRUGAL, *RESTORE, *arguments]
        run = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=120, check=False, **streams_of)
        assert run.returncode == 1
        assert [line for line in run.stderr.splitlines() if sentence in line]
        assert "Traceback" not in run.stderr
    os.close(ours)
    os.close(theirs)


def test_a_reader_that_leaves_is_no_news(here):
    reader, writer = os.pipe()
    os.close(reader)
    command = [*FRUGAL, *RESTORE, "clean.png", "-o", "-", "-q"]
    run = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(writer)
    assert (run.returncode, run.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "arguments",
    [(*RESTORE, "clean.png", "-o", "-"), (*RESTORE, "clean.png", "-o", "x.png"), ("doctor", "--help"), ("--help",)],
)
def test_a_full_disk_behind_standard_output_is_one_sentence(here, arguments):
    with Path("/dev/full").open("wb") as full:
        command = [*FRUGAL, *arguments]
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert run.returncode == 1
    said = run.stderr.splitlines()[-1]
    assert said.startswith("Error: cannot write to standard output: ")
    assert "Traceback" not in run.stderr
    assert "Exception ignored" not in run.stderr


def test_a_pipe_that_is_named_is_read_once(here):
    restored = subprocess.run(
        [*FRUGAL, *RESTORE, "/dev/stdin", "--noise", "5", "-o", "piped.png", "--save-params", "p.json"],
        input=Path("clean.png").read_bytes(),
        capture_output=True,
        check=False,
    )
    assert restored.returncode == 0, restored.stderr
    assert "images" not in json.loads(Path("p.json").read_text())["sha256"]
    runs(*RESTORE, "clean.png", "--noise", "5", "-o", "named.png")
    np.testing.assert_array_equal(np.asarray(Image.open("piped.png")), np.asarray(Image.open("named.png")))


def test_a_pipe_needs_a_name_for_its_restoration_and_is_none_of_a_folder(here):
    Path("photos").mkdir()
    os.mkfifo("photos/pipe.png")  # nobody writes to it: to open it would be to wait
    refuses("say where the restoration of pipe.png goes: -o FILE", *RESTORE, "photos/pipe.png")
    refuses("there are no pictures in photos", *RESTORE, "photos", "-o", "out")


def test_names_that_are_not_utf8_are_restored_beside_themselves(here):
    name = os.fsdecode(b"caf\xe9.png")
    Path(name).write_bytes(Path("clean.png").read_bytes())
    assert runs(*RESTORE, name, "--noise", "5").exit_code == 0
    assert Path(os.fsdecode(b"caf\xe9.restored.png")).is_file()

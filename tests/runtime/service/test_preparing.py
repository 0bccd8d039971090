"""Pictures that cost whoever decodes them: the service and everybody else go on, and the clock runs from arrival."""

import asyncio
import io
import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace

import httpx
import numpy as np
import psutil
import pytest
from attack_pictures import large_png, odd_ppm, run_length_bmp, slow_jpeg
from PIL import Image

from frugal_rt.runtime.pictures import decoding
from frugal_rt.runtime.pictures.damage import Damage
from frugal_rt.runtime.pictures.decoding import Limits
from frugal_rt.runtime.process import cpu_ticks
from frugal_rt.runtime.service import preparing
from frugal_rt.runtime.service.preparer import Ask, Setup, _answer

MANY = 40_000
"""Scans of a JPEG that take minutes, and that the services of these tests take: others refuse them unread."""


@pytest.fixture(scope="module")
def serving(serve):
    return serve(limit=8, scans=MANY + 100)


@pytest.fixture(scope="module")
def endless() -> bytes:
    """A picture that takes minutes to decode, and is small by its bytes and pixels."""
    return slow_jpeg(1000, MANY)


@pytest.fixture(scope="module")
def large_and_endless() -> bytes:
    return slow_jpeg(2000, MANY)


def ask(serving, picture: bytes, **asked):
    return serving.post(picture, **{"task": "denoise", "sigma": 0.1, "steps": 3, "fit": "resize", **asked})


def error(answer, status: int) -> str:
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (large_png(6000, 4000), "the image has 24000000 pixels; up to 4194304 are read"),
        (odd_ppm(300, 300), "the image is a PPM, which only the command line reads; send it as a PNG"),
        (run_length_bmp(300), "the image is a BMP of a kind that is decoded byte by byte; send it as a PNG"),
        (b"P3 1 1 255 0 0 0", "the image is a PPM"),
        (b"hello", "the image is not a picture this can read (PNG, JPEG, WEBP, TIFF, BMP, GIF, .npy)"),
    ],
    ids=["24 megapixels", "PPM", "BMP in run lengths", "PPM in words", "text"],
)
def test_pictures_are_refused_by_their_heads(serving, picture, says):
    assert says in error(ask(serving, picture), 422)


def test_the_formats_that_are_said_are_taken(serving):
    formats = set(serving.get("/v1/service").json()["formats"])
    assert "PPM" not in formats
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8))
    for kind in formats - {"NPY"}:
        file = io.BytesIO()
        image.save(file, kind)
        assert ask(serving, file.getvalue()).status_code == 200, kind


def test_a_deadline_holds_while_a_picture_is_decoded(serving, endless, large_and_endless, png):
    for picture in (endless, large_and_endless):
        assert "deadline" in error(ask(serving, picture, timeout=0.4), 504)
    assert ask(serving, png).status_code == 200


def test_the_clock_starts_when_a_request_arrives(serving, png):
    form = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="%s"; filename="a"\r\n\r\n%s\r\n' % part
        for part in ((b"image", png), (b"parameters", json.dumps({"task": "denoise", "timeout": 0.3}).encode()))
    )
    head = "POST /v1/restore HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += "Content-Type: multipart/form-data; boundary=x"
    with socket.create_connection(serving.address, timeout=30) as connection:
        connection.sendall(f"{head}\r\nContent-Length: {len(form) + 7}\r\n\r\n".encode())
        time.sleep(0.4)
        connection.sendall(form + b"--x--\r\n")
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert answer.startswith(b"HTTP/1.1 504 ")


def test_a_picture_has_so_much_of_a_processor(serving, endless, png):
    assert "takes over 5 s of a processor to be prepared" in error(ask(serving, endless), 422)
    assert ask(serving, png).status_code == 200


def test_small_pictures_do_not_wait_for_large_ones(serving, large_and_endless, png):
    with ThreadPoolExecutor(3) as clients:
        slow = [clients.submit(ask, serving, large_and_endless, timeout=20) for _ in range(3)]
        serving.wait(lambda: decodes(serving) or any(one.done() for one in slow))
        assert not any(one.done() for one in slow), [one.result().text for one in slow if one.done()]
        assert ask(serving, png).status_code == 200
        assert not all(one.done() for one in slow)
        assert {one.result().status_code for one in slow} <= {422, 504}


def decodes(serving) -> bool:
    """Whether the process for large pictures is at work."""
    try:
        return any(one.nice() > 0 and one.cpu_percent(0.2) > 0 for one in serving.preparers())
    except psutil.Error:
        return False  # one of them was ended just now


def test_a_client_that_hangs_up_makes_way_for_the_next(serving, large_and_endless):
    size = len(large_and_endless)
    gone = [socket.create_connection(serving.address) for _ in range(6)]
    for connection in gone:
        connection.sendall(f"POST /v1/restore HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode())
        connection.sendall(large_and_endless)
    serving.wait(lambda: decodes(serving))
    for connection in gone:
        connection.close()
    serving.wait(lambda: serving.log.read_text().count("the client hung up") == 6)
    assert ask(serving, large_png(1400, 1400)).status_code == 200


def test_processes_that_die_are_replaced(serving, png):
    large = large_png(1400, 1400)
    assert ask(serving, large).status_code == 200
    before = serving.preparers()
    assert len(before) == 2
    for process in before:
        process.kill()
    assert [ask(serving, picture).status_code for picture in (png, large)] == [200, 200]
    assert not {process.pid for process in before} & {process.pid for process in serving.preparers()}


def test_a_process_that_dies_over_a_picture_is_told_of(serving, large_and_endless):
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(ask, serving, large_and_endless)
        serving.wait(lambda: decodes(serving) or asked.done())
        for process in serving.preparers():
            process.kill()
        assert "decodes pictures ended (SIGKILL); ask again" in error(asked.result(), 503)
    assert ask(serving, large_png(1400, 1400)).status_code == 200


def test_a_process_that_hangs_is_replaced_at_the_deadline(serving, png):
    for process in serving.preparers():
        process.send_signal(signal.SIGSTOP)
    assert "deadline" in error(ask(serving, png, timeout=0.5), 504)
    assert ask(serving, png).status_code == 200


@pytest.mark.parametrize(("ticks", "answered"), [([0, 3, 3, 5], True), ([0, 3, 3, 3], False), ([None] * 4, False)])
def test_a_process_that_works_is_waited_for_and_one_that_does_not_is_given_up(monkeypatch, ticks, answered):
    """It answers at the fourth look at its CPU time, where there is one."""
    looks, gate = iter(ticks), threading.Event()

    def look(process):
        found = next(looks, 9)
        if found == 5:
            gate.set()
        return found

    process = SimpleNamespace(poll=lambda: None, kill=gate.set, wait=lambda: None)
    connection = SimpleNamespace(send=lambda setup: None)
    monkeypatch.setattr(preparing, "launch", lambda *arguments: (process, connection))
    monkeypatch.setattr(preparing, "cpu_ticks", look, raising=False)
    monkeypatch.setattr(preparing, "_exchange", lambda *message: gate.wait() and "an answer")
    monkeypatch.setattr(preparing, "PATIENCE", 0.02)
    lane = preparing._Lane(Setup(Limits(), 0, 0, 0, 0))
    with nullcontext() if answered else pytest.raises(preparing._Ended, match="no answer"):
        assert asyncio.run(lane.ask("a peer")) == "an answer"


def test_a_process_s_cpu_time_is_this_one_s():
    me = SimpleNamespace(pid=os.getpid())
    before = cpu_ticks(me)
    if before is None:
        pytest.skip("the system does not tell it")
    assert before / os.sysconf("SC_CLK_TCK") == pytest.approx(sum(os.times()[:2]), abs=0.5)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_has_so_much_memory(serving, png):
    """The head of a WebP of 169 megapixels, for which its decoder asks memory before anybody knows its size."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "WEBP", lossless=True)
    size, body = (13000 - 1).to_bytes(3, "little"), file.getvalue()[12:]
    extended = b"VP8X" + (10).to_bytes(4, "little") + b"\x02\0\0\0" + size + size
    anim = b"ANIM" + (6).to_bytes(4, "little") + bytes(6)
    frame = bytes(6) + (15).to_bytes(3, "little") * 2 + bytes(4) + body
    chunks = extended + anim + b"ANMF" + len(frame).to_bytes(4, "little") + frame
    webp = b"RIFF" + (len(chunks) + 4).to_bytes(4, "little") + b"WEBP" + chunks
    with Image.open(io.BytesIO(webp)) as opened:
        assert opened.size == (13000, 13000)  # where there is the memory, it can be opened
    assert "broken picture" in error(ask(serving, webp), 422)
    assert ask(serving, png).status_code == 200


def test_a_stop_ends_what_is_being_decoded(serve, large_and_endless):
    serving = serve(timeout=1.0, scans=MANY + 100)
    processes: list[object] = []
    with ThreadPoolExecutor(1) as client:
        asked: Future = client.submit(ask, serving, large_and_endless)
        serving.wait(lambda: decodes(serving) or asked.done())
        processes = serving.children()
        assert serving.stop() == 0
        assert asked.result().status_code == 504
    assert not any(process.is_running() for process in processes)


def test_a_jpeg_is_restored_from_its_own_coefficients(serving):
    """Stored on its side, and answered upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file, levels = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (20, 34, 3), np.uint8)
    Image.fromarray(levels).save(file, "JPEG", quality=30, exif=exif)
    answer = serving.post(file.getvalue(), task="jpeg")
    assert answer.status_code == 200, answer.text
    assert Image.open(io.BytesIO(answer.content)).size == (20, 34)
    plain = io.BytesIO()
    Image.fromarray(levels).save(plain, "PNG")
    assert "this picture is none" in error(serving.post(plain.getvalue(), task="jpeg"), 422)
    missing, mask = np.zeros((34, 20), bool), io.BytesIO()
    missing[5:9, 4:9] = True
    Image.fromarray(missing).save(mask, "PNG")
    form = {"image": file.getvalue(), "mask": mask.getvalue(), "parameters": (None, json.dumps({"task": "jpeg"}))}
    masked = httpx.post(f"{serving.url}/v1/restore", files=form, timeout=120)
    assert masked.status_code == 200, masked.text
    settings = json.loads(Image.open(io.BytesIO(masked.content)).text["frugal-rt"])
    assert (settings["task"], settings["operator"]["missing"]) == ("jpeg", 20)


def test_the_parts_of_each_file_are_counted_once(png, monkeypatch):
    counted, check_parts = [], decoding.check_parts

    def count(data, *more):
        counted.append(data)
        check_parts(data, *more)

    monkeypatch.setattr(decoding, "check_parts", count)
    mask = io.BytesIO()
    Image.fromarray(np.eye(16, dtype=bool)).save(mask, "PNG")
    ask = Ask(Damage(sigma=0.1), None, (3, 16, 16), any_size=False, masked=True)
    prepared = _answer(Setup(Limits(1 << 20), 1 << 20, 1.0, 0, 0), ask, png, mask.getvalue())
    assert prepared.measurement.task == "inpaint"
    assert counted == [png, mask.getvalue()]

"""A service under requests that are wrong in every way we could think of, by seeded mutations.

FRUGAL_RT_FUZZ=10000 makes it so many, FRUGAL_RT_FUZZ_SEED=1 makes them others.
"""

import asyncio
import contextlib
import io
import json
import os
import socket
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

NUMBER = int(os.environ.get("FRUGAL_RT_FUZZ", 300))
SEED = int(os.environ.get("FRUGAL_RT_FUZZ_SEED", 0))
TOGETHER = 8
ANSWERS = {200, 202, 204, 400, 403, 404, 405, 408, 409, 410, 413, 415, 422, 429, 431}
Random = np.random.Generator


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def npy(array: Any, pickled: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=pickled)
    return file.getvalue()


def npy_that_says(shape: str, kind: str = "<f4", version: bytes = b"\x01\x00", body: bytes = b"") -> bytes:
    """A .npy whose header says what its bytes do not bear out."""
    head = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(head))
    return b"\x93NUMPY" + version + length + head + body


def png_that_says(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def pictures() -> list[bytes]:
    """Good ones of every kind, three times over, and bad ones made by hand."""
    random = np.random.default_rng(SEED)
    rgb = Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8))
    grey = rgb.convert("L")
    deep = Image.fromarray(random.integers(0, 65536, (16, 16), np.uint16))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "x" * 200
    good = [
        *(saved(rgb, kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")),
        saved(rgb.convert("RGBA"), "PNG"),
        saved(rgb.convert("P"), "PNG", transparency=3),
        saved(grey, "PNG"),
        saved(rgb.convert("1"), "PNG"),
        saved(rgb.convert("LA"), "PNG"),
        saved(rgb.convert("CMYK"), "JPEG"),
        saved(rgb.convert("CMYK"), "TIFF"),
        saved(rgb.convert("LAB"), "TIFF"),
        saved(deep, "PNG"),
        saved(deep, "TIFF"),
        saved(grey.convert("F"), "TIFF"),
        saved(grey.convert("I"), "TIFF"),
        saved(rgb, "TIFF", compression="tiff_lzw"),
        saved(rgb, "JPEG", exif=exif),
        saved(rgb, "PNG", icc_profile=b"\0" * 16 + b"RGB " + b"\0" * 99),
        saved(rgb, "JPEG", progressive=True),
        saved(rgb, "GIF", save_all=True, append_images=[grey.convert("P")] * 5),
        saved(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(90)] * 5),
        saved(rgb, "PNG", save_all=True, append_images=[rgb.rotate(90)] * 5),
        saved(rgb.resize((4, 4)), "PNG"),
        saved(rgb.resize((1, 1)), "PNG"),
        saved(rgb.resize((40, 24)), "PNG"),
        saved(rgb.resize((900, 900)), "PNG"),
        npy(random.normal(size=(3, 16, 16)).astype(np.float32)),
        npy(random.normal(size=(16, 16))),
        npy(np.zeros((1, 16, 16), np.int8)),
        npy(np.where(random.random((3, 16, 16)) < 0.3, np.nan, 0.1)),
    ]
    bad = [
        b"",
        b"\0",
        b"\x93NUMPY",
        b"\x89PNG\r\n\x1a\n",
        b"<svg/>",
        b"%PDF-1.4",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        random.bytes(5000),
        saved(rgb, "ICO"),
        saved(rgb, "TGA"),
        npy(np.full((3, 16, 16), np.nan)),
        npy(np.full((3, 16, 16), np.inf)),
        npy(np.full((3, 16, 16), 1e300)),
        npy(np.full((3, 16, 16), 1e-320)),
        npy(np.zeros((0, 16, 16))),
        npy(np.zeros((3, 0, 0))),
        npy(np.zeros((2, 3, 16, 16))),
        npy(np.zeros(())),
        npy(np.zeros((3, 16, 16), complex)),
        npy(np.zeros((3, 16, 16), "M8[s]")),
        npy(np.zeros((16, 16), "U3")),
        npy(np.zeros((16, 16), [("a", float), ("b", int)])),
        npy(np.array([[{}, []]], object), pickled=True),
        npy_that_says("(3, 1000000000, 1000000000)"),
        npy_that_says("(-3, 16, 16)"),
        npy_that_says("(-1, -1, 16)", body=b"\0" * 3072),
        npy_that_says("(3, 16, 16)", "|O", body=b"cos\nsystem\n(S'true'\ntR."),
        npy_that_says("(3, 16, 16)", "|V2000000000"),
        npy_that_says("(16, 16)", "<U2000000000"),
        npy_that_says("(3, 16, 16)", version=b"\x03\x00", body=b"\0" * 3072),
        npy_that_says("(3, 16, 16)", version=b"\x09\x00"),
        npy_that_says("(" * 200 + ")" * 200),
        npy_that_says("(3, 16, 16)".ljust(60000)),
        npy_that_says("(" + "1," * 100 + ")"),
        npy_that_says("(3, 16.0, 16)"),
        npy_that_says("(True, 16, 16)", body=b"\0" * 9999),
        npy_that_says("__import__('os').getpid()"),
        png_that_says(0, 0),
        png_that_says(1 << 30, 1 << 30),
        png_that_says(20000, 20000, data=b"\0" * (1 << 22)),
        png_that_says(999, 999, data=b"\0" * (1 << 24)),
        png_that_says(16, 16, 3, 7),
        png_that_says(16, 16, data=b""),
        b"P6 1000000000 1000000000 255\n",
        b"P6 16 16 99999999\n" + bytes(768),
        b"P5 -16 16 255\n" + bytes(256),
        b"Pf 16 16 nan\n" + bytes(1024),
        b"Pf 16 16 1.0\n" + np.full(256, np.nan, np.float32).tobytes(),
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 90, 0, 0, 54, 40, 1 << 30, -(1 << 30), 1, 24, 0, 0, 0, 0, 0, 0),
        b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",",
        b"RIFF\xff\xff\xff\xffWEBPVP8X\x0a\0\0\0" + b"\xff" * 10,
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 400,
        b"\xff\xd8\xff\xe1\xff\xffExif\0\0" + b"\xff" * 300,
    ]
    return good * 3 + bad


NUMBERS = (0, -1, 1, 2, 3, 4, 16, 17, 0.5, 1e-320, 1e308, -0.0, 10**30, -(10**30), 2**63, 2**64, 2**64 - 1, True, None)
TEXTS = (
    "", "a", "\0", "/etc/passwd", "../../etc/passwd", "file.png", "x.npy", "é\ud800", "💥" * 30, "A" * 10000, "auto",
    "gaussian:1", "gaussian:nan", "gaussian:1e308", "gaussian:1,2,3,4", "gaussian:128", "gaussian:1e-300",
    "gaussian:1_0", "gaussian:2,0.5,inf", "motion:5,30", "motion:1e9", "motion:inf", "motion:1.0000001",
    "motion:9,1e300", "uniform:3", "uniform:3.0", "uniform:99999999999999999999", "uniform:-3", "uniform:\u0663",
    ":", "kernel:", "http://127.0.0.1/", "denoise", "sr", "matrix", "NaN", "0x10", "{}", "' or 1=1 --", "$(id)",
    "%s%n", "<script>",
)  # fmt: skip
VALUES = (*NUMBERS, *TEXTS, [], {}, [1], [4, 4], [16, 16], [0, 4], [4, 4, 4], ["4", "4"], [[4]], {"a": 1}, [4096, 4096])
TASKS: tuple[dict[str, Any], ...] = (
    {},
    {"task": "denoise"},
    {"task": "inpaint", "hole": [4, 4]},
    {"task": "outpaint", "keep": [8, 8]},
    {"task": "sr", "scale": 4},
    {"task": "sr", "scale": 2, "filter": "bicubic"},
    {"task": "sr", "scale": 2, "kernel": "gaussian:1"},
    {"task": "colorize", "grey": "mean"},
    {"task": "deblur", "kernel": "gaussian:1.5"},
    {"task": "deblur", "kernel": "motion:5,30", "border": "taper"},
    {"task": "deblur", "kernel": "uniform:3", "border": "valid"},
    {"task": "sense", "keep_fraction": 0.5},
    {"method": "dps"},
    {"method": "dmps", "lambda": 1.0},
    {"method": "hybrid", "switch": 1, "every": 2},
    {"guidance": "official"},
    {"fit": "crop"},
    {"fit": "resize"},
    {"tile": True},
)
KEYS = (*dict.fromkeys(key for task in TASKS for key in task), "sigma", "zeta", "seed", "steps", "preset", "timeout",
        "matrix", "mask", "share", "__class__", "", "\0", "task ", "é", "lam")  # fmt: skip
DOCUMENTS = (
    b"", b" ", b"null", b"[]", b"1", b'"x"', b"{", b"{}}", b"\xff\xfe", b"\xef\xbb\xbf{}", b"\0", b'{"a":\0}',
    b"[" * 5000, b'{"a":' * 3000, b'{"sigma": NaN}', b'{"sigma": Infinity}', b'{"sigma": 1e999}',
    b'{"seed": 1' + b"0" * 6000 + b"}", b'{"task":"denoise","task":"sr"}', b'{"x":' + b'"y"' * 9000 + b"}",
    b" " * 20000, b'{"task":"\\ud800"}', b'{"kernel":"\\u0000"}', b"{'task':'denoise'}", b"// comment\n{}",
    b'{"steps":2.0}', b'{"steps":"2"}', b'{"hole":"4x4"}',
)  # fmt: skip


def mutated(random: Random, data: bytes, others: list[bytes]) -> bytes:
    """Bytes a little, or very, different."""
    kind = random.choice([0, 0, 0, 0, 0, 0, 2, 3, 4, 5, 6, 7])
    if kind == 0 or not data:
        return data
    changed = bytearray(data)
    where = int(random.integers(len(data)))
    match kind:
        case 2:  # cut off
            return data[:where]
        case 3:  # flip bits
            for place in random.integers(len(data), size=int(random.integers(1, 20))):
                changed[place] ^= 1 << int(random.integers(8))
        case 4:  # overwrite
            end = min(len(data), where + int(random.integers(1, 64)))
            changed[where:end] = random.bytes(end - where)
        case 5:  # another's magic
            other = others[int(random.integers(len(others)))]
            changed[:8] = other[:8]
        case 6:  # another's end
            return data[:where] + others[int(random.integers(len(others)))][where:]
        case _:  # in the header, where it hurts
            place = int(random.integers(min(len(data), 64)))
            changed[place] = int(random.integers(256))
    return bytes(changed)


def parameters(random: Random) -> bytes:
    if random.random() < 0.1:
        return DOCUMENTS[int(random.integers(len(DOCUMENTS)))]
    asked: dict[str, Any] = {"steps": 2, **TASKS[int(random.integers(len(TASKS)))]}
    for _ in range(int(random.choice([0, 0, 0, 1, 1, 2, 4]))):
        asked[KEYS[int(random.integers(len(KEYS)))]] = VALUES[int(random.integers(len(VALUES)))]
    if isinstance(asked["steps"], int) and asked["steps"] > 16:
        asked["steps"] = 3  # right, and slow
    return json.dumps(asked).encode()


def form(random: Random, parts: list[tuple[str, str | None, bytes]]) -> tuple[bytes, bytes]:
    """A multipart body and its content type, sometimes of another boundary, or cut off."""
    body = b""
    for name, file, content in parts:
        named = f'; filename="{file}"' if file is not None else ""
        body += f'--xyz\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + content + b"\r\n"
    body += b"--xyz--\r\n"
    match random.integers(20):
        case 0:
            return body[: int(random.integers(len(body)))], b"multipart/form-data; boundary=xyz"
        case 1:
            return body, b"multipart/form-data"
        case 2:
            return body, b"multipart/form-data; boundary=abc"
        case 3:
            return body, b"multipart/form-data; boundary=" + b"a" * 500
        case _:
            return body, b"multipart/form-data; boundary=xyz"


Asked = tuple[str, str, bytes, dict[bytes, bytes]]
"""Method, path, body, headers."""


def restoration(random: Random, some: list[bytes]) -> Asked:
    """A request to restore."""
    image = mutated(random, some[int(random.integers(len(some)))], some)
    headers = {b"prefer": b"respond-async"} if random.random() < 0.1 else {}
    path = "/v1/restore"
    if random.random() < 0.1:
        path += f"?previews={random.choice(['true', '1', 'x', '%00', ''])}"
    if random.random() < 0.2:
        kind = random.choice(["image/png", "application/json", "text/plain", "", "application/x-www-form-urlencoded"])
        from urllib.parse import quote

        query = f"{'&' if '?' in path else '?'}parameters={quote(parameters(random))}"
        return "POST", path + query, image, {**headers, b"content-type": str(kind).encode()}
    parts: list[tuple[str, str | None, bytes]] = [("image", "../../a.png", image)]
    if random.random() < 0.9:
        parts.append(("parameters", None, parameters(random)))
    if random.random() < 0.2:
        parts.append(("mask", "m", mutated(random, some[int(random.integers(len(some)))], some)))
    match random.integers(30):
        case 0:
            parts.append(("extra", "x", b"1"))
        case 1:
            parts *= 3
        case 2:
            parts = parts[1:]
        case 3:
            parts = [("image", None, image)]  # as text
        case 4:
            parts += [(f"p{i}", None, b"x") for i in range(50)]
        case 5:
            parts = [("image", "a", image), ("parameters", "p.json", parameters(random))]
    body, kind_of = form(random, parts)
    return "POST", path, body, {**headers, b"content-type": kind_of}


def other(random: Random) -> Asked:
    """A request of another kind."""
    job = random.choice(["x", "..", "%2e%2e", "%00", "a" * 3000, "%ff", "☃", "x/image", "x/events", "x/y", ""])
    paths = [f"/v1/jobs/{job}", "/", "/page.js", "/%2e%2e/app.py", "/app.py", "/metrics", "/livez", "/openapi.json"]
    path = str(random.choice([*paths, "/v1/restore", "//", "/v1/service?x=1", "/docs", "/sample.png"]))
    method = str(random.choice(["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "PATCH", "BREW"]))
    headers = [{}, {b"x-request-id": b"\xff\xfe"}, {b"x-request-id": b"a" * 5000}, {b"authorization": b"Bearer \xff"},
               {b"accept": b"\0"[:0]}, {b"content-type": b"\xff"}, {b"range": b"bytes=0-9999999999"},
               {b"origin": b"null"}]  # fmt: skip
    return method, path, random.bytes(int(random.integers(64))), headers[int(random.integers(len(headers)))]


RAW = (
    b"\0" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/restore HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\0\x01\0", b"POST /v1/restore HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/restore HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
    b"POST /v1/restore HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    b"POST /v1/restore HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
    b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(3000)) + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX:" + b"y" * 200000 + b"\r\n\r\n",
)  # fmt: skip


def test_nothing_that_a_client_sends_breaks_the_service(serve):
    httpx = pytest.importorskip("httpx")
    psutil = pytest.importorskip("psutil")
    serving = serve(limit=512, max_bytes=1 << 20, max_pixels=1_000_000, timeout=120.0, upload_seconds=20.0)
    some = pictures()
    whole = serving.post(some[0], task="denoise", sigma=0.1, steps=4)
    assert whole.status_code == 200
    (worker,) = serving.workers()
    processes = [psutil.Process(serving.process.pid), worker]
    counts: dict[int, int] = {}
    wrong: list[str] = []

    async def send(client: Any, number: int) -> None:
        random = np.random.default_rng([SEED, number])
        method, path, body, headers = restoration(random, some) if random.random() < 0.9 else other(random)
        try:
            request = client.build_request(method, path, content=body, headers=list(headers.items()))
            answer = await client.send(request)
        except (httpx.LocalProtocolError, httpx.InvalidURL):
            return  # the client would not send it
        except httpx.RemoteProtocolError:
            counts[0] = counts.get(0, 0) + 1  # the server closed a connection that was no HTTP
            return
        counts[answer.status_code] = counts.get(answer.status_code, 0) + 1
        allowed = ANSWERS | ({504} if b'"timeout"' in body or "timeout" in path else set())
        if answer.status_code not in allowed:
            wrong.append(f"request {number}: {answer.status_code} {answer.text[:300]}")
        elif answer.status_code == 200 and method == "POST":
            assert Image.open(io.BytesIO(answer.content)).size[0] >= 16
        elif method == "POST" and answer.status_code not in (202, 404, 405):
            assert answer.json()["error"], f"request {number}"
            assert "/frugal_rt/" not in answer.text, answer.text
            assert "root:" not in answer.text

    async def all_of_them() -> None:
        numbers = iter(range(NUMBER))
        async with httpx.AsyncClient(base_url=serving.url, timeout=200) as client:

            async def one() -> None:
                for number in numbers:
                    await send(client, number)

            await asyncio.gather(*(one() for _ in range(TOGETHER)))

    memory = 0
    try:
        asyncio.run(all_of_them())
        memory = sum(process.memory_info().rss for process in processes)
        for raw in RAW:
            with socket.create_connection(serving.address, timeout=10) as connection:
                connection.sendall(raw)
                with contextlib.suppress(OSError):  # it may have been closed by then
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(1000)
    finally:
        print(f"{NUMBER} requests, seed {SEED}: {dict(sorted(counts.items()))}, {memory >> 20} MiB")
    assert not wrong, "\n".join(wrong)
    serving.wait(lambda: serving.metric("frugal_images") == 0, 60)
    assert [process.pid for process in serving.workers()] == [worker.pid], "the worker died"
    assert "Traceback" not in serving.log.read_text()
    assert memory < (1 << 30)
    again = serving.post(some[0], task="denoise", sigma=0.1, steps=4)
    np.testing.assert_array_equal(*(np.asarray(Image.open(io.BytesIO(one.content))) for one in (whole, again)))

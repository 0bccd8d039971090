"""Input from outside, made up by Hypothesis: plans, pictures, parameters, forms. Each is taken or refused in a
sentence, and raises nothing else.

FRUGAL_RT_FUZZ=1000 makes it so many of each, in place of 10,000. They are the same ones each time, as a failure must
not come and go.
"""

import asyncio
import io
import json
import os
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from frugal_rt import BusyError, InputError, Plan, PlanError
from frugal_rt.engines import manifest as manifests
from frugal_rt.engines.betas import train_betas
from frugal_rt.engines.embedded import embedded_plan
from frugal_rt.engines.onnx_reader import read_graph
from frugal_rt.engines.plan import WEIGHTS
from frugal_rt.engines.weights import read_safetensors
from frugal_rt.runtime.pictures.decoding import Limits, Photo, decode_photo

pytest.importorskip("hypothesis")
from hypothesis import given
from hypothesis import strategies as st

from .made_up import JSON, VALUES, cases, damaged, is_a_sentence

pytestmark = pytest.mark.long

NUMBER = int(os.environ.get("FRUGAL_RT_FUZZ", 10_000))
many, fewer = cases(NUMBER), cases(max(100, NUMBER // 10))


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Every place in parsed JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(one for key, each in inner for one in places(each, (*path, key)))]


def put(value: Any, path: tuple, new: Any) -> Any:
    if not path:
        return new
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if new is GONE:
        inner.pop(path[-1])
    else:
        inner[path[-1]] = new
    return value


GONE = object()


# Plans


@pytest.fixture(scope="module")
def plan() -> Plan:
    return embedded_plan("celeba")


@pytest.fixture(scope="module")
def manifest(plan) -> dict:
    """Return places with fewer of the frequent kinds, so that the others are drawn too."""
    whole = deepcopy(plan.manifest)
    for graph in whole["graphs"].values():
        graph["weights"] = graph["weights"][:2]
    del whole["mixed"]["bf16"]
    return whole


@pytest.fixture(scope="module")
def spots(manifest) -> list[tuple]:
    return places(manifest)


@many
@given(data=st.data())
def test_a_manifest_is_refused_by_a_place_or_holds_what_its_readers_need(manifest, spots, data):
    changed = deepcopy(manifest)
    for path in data.draw(st.lists(st.sampled_from(spots), min_size=1, max_size=3)):
        try:
            changed = put(changed, path, data.draw(st.just(GONE) | JSON) if path else data.draw(JSON))
        except (AttributeError, KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    try:
        parsed = manifests.parse(json.dumps(changed).encode())
        kind, version = parsed["format"], parsed["format_version"]
        if kind != manifests.FORMAT or type(version) is not int or version not in (2, 3):
            return
    except (ValueError, KeyError, TypeError):  # as the reader has it
        return
    if manifests.fault(parsed):
        return
    betas = train_betas(parsed["schedule"])
    assert ((betas > 0) & (betas < 1)).all()
    assert len(betas) == parsed["schedule"]["num_train_timesteps"]
    assert np.isfinite(np.float32(1 / np.prod(1 - betas)))
    assert 1 <= Plan(parsed, {}).image_shape[1] <= manifests.LONGEST_SIDE


@many
@given(data=st.data())
def test_a_plan_is_refused_in_a_sentence_or_is_what_it_was(data, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "hostile"
    folder.mkdir(exist_ok=True)
    path = folder / "a.plan"
    if not small:
        small.append(small_plan(path))
    path.write_bytes(data.draw(damaged(small[0])))
    try:
        opened = Plan.open(path)
        opened.check()
    except PlanError as error:
        is_a_sentence(error)


small: list[bytes] = []


def small_plan(path: Path) -> bytes:
    """The bytes of a plan in which the manifest and the directory are most of it."""
    whole = embedded_plan("celeba")
    manifest = {key: value for key, value in whole.manifest.items() if key not in ("members", "mixed")}
    Plan(manifest, {WEIGHTS: b"\0" * 99, **{f"{name}.onnx": b"" for name in manifest["graphs"]}}).save(path)
    return path.read_bytes()


@fewer
@given(
    header=st.dictionaries(st.text(max_size=5), JSON, max_size=3) | JSON, more=st.binary(max_size=40), data=st.data()
)
def test_a_header_of_weights_is_refused_or_describes_the_bytes(header, more, data):
    entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    if isinstance(header, dict) and data.draw(st.booleans()):
        header["w"] = put(deepcopy(entry), data.draw(st.sampled_from(places(entry)[1:])), data.draw(JSON))
    text = json.dumps(header).encode()
    length = data.draw(st.just(len(text)) | st.integers(0, 2**64 - 1))
    held = length.to_bytes(8, "little") + text + more
    try:
        tensors = read_safetensors(memoryview(held), "a.plan")
    except PlanError:
        return
    for array, offset in tensors.values():
        assert array.nbytes <= len(held) - offset
        array.sum()


@fewer
@given(data=st.data())
def test_a_graph_is_refused_in_a_sentence_or_read(plan, data):
    name = data.draw(st.sampled_from(["embedding.onnx", "forward.onnx"]))
    try:
        read_graph(memoryview(data.draw(damaged(bytes(plan.member(name))))), name)
    except PlanError as error:
        is_a_sentence(error)


# Pictures


def saved(kind: str, mode: str = "RGB", **how: Any) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, kind, **how)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


EXIF = Image.Exif()
EXIF[0x0112], EXIF[0x010E] = 6, "x" * 50
PICTURES = [
    *(saved(kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")),
    *(saved("PNG", mode) for mode in ("L", "P", "RGBA", "LA", "1", "I;16")),
    *(saved("TIFF", mode) for mode in ("CMYK", "LAB", "F", "I;16")),
    saved("JPEG", "CMYK"),
    saved("JPEG", progressive=True, exif=EXIF),
    saved("PNG", icc_profile=b"\0" * 16 + b"RGB " + b"\0" * 99),
    saved("TIFF", compression="tiff_lzw"),
    saved("GIF", "P", save_all=True, append_images=[Image.new("P", (12, 9), 3)]),
    npy(np.zeros((3, 9, 12), np.float32)),
    npy(np.full((9, 12), np.nan)),
]
LIMITS = Limits(1 << 20, ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"), compiled=True, max_metadata=256 << 10)


@many
@given(data=st.data())
def test_a_picture_is_decoded_or_refused(data):
    picture = data.draw(st.sampled_from(PICTURES).flatmap(damaged))
    name = "image.npy" if picture.startswith(b"\x93NUMPY") else "the image"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            photo = decode_photo(picture, name, limits=LIMITS, frame=data.draw(st.none() | st.integers(1, 3)))
        except InputError as error:
            is_a_sentence(error)
            return
    assert isinstance(photo, Photo)
    assert photo.pixels.dtype == np.float32
    known = photo.pixels if photo.missing is None else photo.pixels[:, ~photo.missing]
    assert np.isfinite(known).all()


# Parameters and forms


@pytest.fixture(scope="module")
def parameters() -> Any:
    pytest.importorskip("fastapi")
    from frugal_rt.runtime.service.parameters import Parameters

    return Parameters


@many
@given(data=st.data())
def test_parameters_are_refused_in_a_sentence_or_are_options_of_the_command(parameters, data):
    names = st.sampled_from([*parameters.model_fields, "lambda"]) | st.text(max_size=8)
    asked = data.draw(st.dictionaries(names, VALUES, max_size=5) | JSON)
    text = json.dumps(asked).encode()
    given_text = data.draw(st.just(text) | damaged(text) | st.binary(max_size=30))
    try:
        read = parameters.read(given_text)
        read.damage(None)
    except InputError:
        return
    json.dumps([read.settings(), read.options()], allow_nan=False)
    again = {name: value for name, value in asked.items() if value is not None} if given_text == text else {}
    assert set(again) <= {*parameters.model_fields, "lambda"}


@fewer
@given(data=st.data())
def test_a_form_is_read_or_refused_with_a_status(data):
    pytest.importorskip("fastapi")
    from fastapi import HTTPException, Request

    from frugal_rt.runtime.service.uploads import Uploads

    parts = data.draw(st.lists(st.sampled_from(["image", "mask", "parameters", "x", ""]), max_size=4))
    body = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
        % (name.encode(), data.draw(st.sampled_from([b"", b'; filename="f"'])), data.draw(st.binary(max_size=20)))
        for name in parts
    )
    whole = body + b"--b--\r\n"
    body = data.draw(st.just(whole) | damaged(whole))
    kinds = ["multipart/form-data; boundary=b", "Multipart/Form-Data; Boundary=b", "multipart/form-data", "image/png"]
    kind = data.draw(st.sampled_from([one.encode() for one in kinds]) | st.binary(max_size=30))
    query = data.draw(
        st.sampled_from([b"", b"parameters=%7B%7D", b"parameters=1&parameters=2"]) | st.binary(max_size=10)
    )
    chunks = [body[i : i + 7] for i in range(0, len(body), 7)] or [b""]

    async def receive() -> dict[str, Any]:
        chunk = chunks.pop(0) if chunks else b""
        return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}

    async def read() -> None:
        scope = {"type": "http", "headers": [(b"content-type", kind)], "query_string": query, "method": "POST"}
        async with Uploads(1 << 20, 5.0).receive(Request(scope, receive)) as upload:
            assert upload.picture.read(1)
            assert body != whole or kind != b"multipart/form-data; boundary=b" or parts.count("image") == 1

    status = 422
    try:
        asyncio.run(read())
    except HTTPException as error:
        status = error.status_code
    except (InputError, BusyError) as error:
        is_a_sentence(error)
    assert 400 <= status < 500

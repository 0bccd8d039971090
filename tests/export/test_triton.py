"""The model repository for Triton: read by the server's own schema, its graphs run from the folder alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from frugal_rt import Plan
from frugal_rt.engines import open_engine
from frugal_rt.export.triton import write_repository

from ..commands import frugal

TYPES = {"TYPE_FP32": "tensor(float)", "TYPE_INT64": "tensor(int64)"}
MODELS = ["tiny_embedding", "tiny_forward", "tiny_pullback", "tiny_gradient"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory, tiny_plan) -> Path:
    folder = tmp_path_factory.mktemp("triton") / "repository"
    assert write_repository(Plan.open(tiny_plan), folder) == MODELS
    return folder


def config(folder: Path) -> Any:
    """Parse a config.pbtxt by Triton's schema."""
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="needs tritonclient[grpc]")
    from google.protobuf import text_format

    return text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())


def types_of(tensors: Any) -> dict[str, str]:
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    return {one.name: TYPES[schema.DataType.Name(one.data_type)] for one in tensors}


def shapes_of(tensors: Any) -> dict[str, list[int | str]]:
    """With the batch that Triton puts before; a reshape is what reaches the graph."""
    shapes = {one.name: one.reshape.shape if one.HasField("reshape") else one.dims for one in tensors}
    return {name: ["batch", *shape] for name, shape in shapes.items()}


@pytest.mark.parametrize("model", MODELS[:3])
def test_a_config_says_what_the_graph_is(repository, model):
    said = config(repository / model)
    assert (said.name, said.backend, said.HasField("dynamic_batching")) == (model, "onnxruntime", True)
    assert said.max_batch_size == 16
    session = onnxruntime.InferenceSession(str(repository / model / "1" / "model.onnx"))
    for listed, real in ((said.input, session.get_inputs()), (said.output, session.get_outputs())):
        assert types_of(listed) == {one.name: one.type for one in real}
        assert shapes_of(listed) == {one.name: one.shape for one in real}
        assert all(one.dims for one in listed)  # Triton takes no empty list


def run_as_triton_would(repository: Path, said: Any, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An ensemble's answers, its steps in order, each tensor under the names that the maps give it."""
    known = dict(given)
    for step in said.ensemble_scheduling.step:
        model = config(repository / step.model_name)
        session = onnxruntime.InferenceSession(str(repository / step.model_name / "1" / "model.onnx"))
        inputs = {}
        for one in model.input:
            value = known[step.input_map[one.name]]
            assert list(value.shape[1:]) == list(one.dims), one.name
            inputs[one.name] = value.reshape(len(value), *one.reshape.shape) if one.HasField("reshape") else value
        names = list(step.output_map)
        known |= dict(zip((step.output_map[n] for n in names), session.run(names, inputs), strict=True))
    return {one.name: known[one.name] for one in said.output}


def test_the_ensemble_gives_the_plans_answer_and_gradient(repository, tiny_plan):
    said = config(repository / "tiny_gradient")
    assert (said.platform, [one.name for one in said.output]) == ("ensemble", ["out", "gradient"])
    assert sorted(types_of(said.input).items()) == [("t", TYPES["TYPE_INT64"])] + [
        (name, TYPES["TYPE_FP32"]) for name in "vx"
    ]
    x, v = np.random.default_rng(0).standard_normal((2, 3, *Plan.open(tiny_plan).image_shape), dtype=np.float32)
    t = np.array([3, 500, 999])
    found = run_as_triton_would(repository, said, {"x": x, "v": v, "t": t[:, None]})
    prediction, pull = open_engine(Plan.open(tiny_plan), "cpu").pullback(x, t)
    np.testing.assert_allclose(found["out"], prediction.out, atol=1e-5)
    np.testing.assert_allclose(found["gradient"], pull(v), atol=1e-5)
    assert (repository / "tiny_gradient" / "1").is_dir()


def test_a_learned_variance_is_served_too(make_prior, tmp_path):
    prior = make_prior({"out_channels": 6}, {"variance_type": "learned_range"})
    result = frugal("export", "--weights", str(prior), "--format", "triton", "-o", str(tmp_path / "r"), "--json")
    assert result.exit_code == 0, result.output
    whole = json.loads(result.stdout)["models"][-1]
    assert [one.name for one in config(tmp_path / "r" / whole).output] == ["out", "variance", "gradient"]


def test_a_plan_becomes_a_repository_with_its_manifest(tmp_path, tiny_plan, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = frugal("export", "--plan", str(tiny_plan), "--format", "triton")
    assert result.exit_code == 0, result.output
    assert "licence of the weights: Public domain" in result.output
    manifest = json.loads(Path("tiny.triton/manifest.json").read_text())
    assert manifest["schedule"] == Plan.open(tiny_plan).manifest["schedule"]
    assert sorted(path.name for path in Path("tiny.triton").iterdir()) == sorted([*MODELS, "manifest.json"])


def test_a_repository_is_replaced_only_when_asked_and_only_one_of_ours(tmp_path, tiny_plan):
    folder = tmp_path / "r"
    command = ("export", "--plan", str(tiny_plan), "--format", "triton", "-o", str(folder))
    assert frugal(*command).exit_code == 0
    assert "r exists; give another name with -o, or --force" in frugal(*command).stderr
    (folder / "tiny_forward" / "config.pbtxt").write_text("old")
    assert frugal(*command, "--force").exit_code == 0
    assert (folder / "tiny_forward" / "config.pbtxt").read_text() != "old"
    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.png").write_bytes(b"precious")
    refused = frugal(*command[:-1], str(other), "--force")
    assert "photos is no repository that frugal-rt wrote" in refused.stderr
    assert (other / "a.png").read_bytes() == b"precious"


def test_a_repository_that_cannot_be_finished_leaves_what_was_there(tmp_path, tiny_plan, plan_copy):
    folder = tmp_path / "r"
    write_repository(Plan.open(tiny_plan), folder)
    before = (folder / "tiny_forward" / "config.pbtxt").read_bytes()
    data = bytearray(plan_copy.read_bytes())
    place = data.rindex(b"frugal-rt")  # in a graph
    data[place] ^= 1
    plan_copy.write_bytes(data)
    result = frugal("export", "--plan", str(plan_copy), "--format", "triton", "-o", str(folder), "--force")
    assert result.exit_code == 1
    assert "is damaged" in result.stderr
    assert (folder / "tiny_forward" / "config.pbtxt").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r", "tiny.plan"]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (("--plan", "x.plan"), "--plan names a plan that is exported already"),
        (("--plan", "x.plan", "--model", "celeba", "--format", "triton"), "say which prior"),
        (("--plan", "x.plan", "--format", "triton"), "there is no file x.plan"),
        (("--model", "celeba", "--format", "triton", "-o", "nowhere/r"), "the folder nowhere does not exist"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(tmp_path, monkeypatch, asked, sentence):
    monkeypatch.chdir(tmp_path)
    result = frugal("export", *asked)
    assert result.exit_code == 1
    assert sentence in result.stderr

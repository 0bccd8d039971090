"""Exporting: any prior of the form, and none that differs from its plan."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffusers import UNet2DModel

from frugal_rt import ExportError, InputError, Plan, PlanError
from frugal_rt.engines import open_engine
from frugal_rt.export import build_plan, export_plan, find_prior, read_prior, verify


@pytest.mark.parametrize(
    ("unet", "scheduler", "shape", "learned"),
    [
        ({}, {}, (3, 8, 8), False),
        ({"in_channels": 12, "out_channels": 12}, {"prediction_type": "v_prediction"}, (3, 16, 16), False),
        ({"out_channels": 6}, {"variance_type": "learned_range"}, (3, 8, 8), True),
        ({"in_channels": 12, "out_channels": 24}, {"variance_type": "learned_range"}, (3, 16, 16), True),
        ({"in_channels": 1, "out_channels": 1}, {"beta_schedule": "squaredcos_cap_v2"}, (1, 8, 8), False),
    ],
)
def test_any_prior_of_the_form_is_what_diffusers_computes(make_prior, tmp_path, unet, scheduler, shape, learned):
    folder = make_prior(unet, scheduler)
    export_plan(read_prior(folder), tmp_path / "a.plan")
    plan = Plan.open(tmp_path / "a.plan")
    image = plan.manifest["image"]
    assert (image["channels"], image["height"], image["width"]) == shape
    x, t = np.random.default_rng(0).standard_normal((2, *shape), dtype=np.float32), np.array([7, 900])
    out, variance = open_engine(plan, "cpu").predict(x, t)

    model = UNet2DModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False).eval()
    r = shape[1] // 8
    with torch.no_grad():
        inner = model(torch.nn.functional.pixel_unshuffle(torch.tensor(x), r), torch.tensor(t)).sample
        expected = torch.nn.functional.pixel_shuffle(inner, r).numpy()
    np.testing.assert_allclose(out, expected[:, : shape[0]], atol=1e-5)
    assert (variance is not None) == learned
    if learned:
        np.testing.assert_allclose(variance, expected[:, shape[0] :], atol=1e-5)


def test_the_manifest_says_what_the_plan_is(celeba_plan):
    manifest = Plan.open(celeba_plan).manifest
    assert "non-commercial" in manifest["prior"]["licence"]
    assert "CelebA" in manifest["prior"]["card"]
    assert manifest["image"] == {"channels": 3, "height": 64, "width": 64, "range": [-1, 1]}
    assert 0 < manifest["parity"]["max_rel_error"] < 1e-4
    assert manifest["precision"] == "float32"
    assert {"torch", "onnx", "frugal-rt"} <= manifest["tools"].keys()


def test_exporting_twice_gives_the_same_plan(make_prior, tmp_path):
    prior = read_prior(make_prior(), "same")
    for name in ("a", "b"):
        export_plan(prior, tmp_path / f"{name}.plan")
    assert (tmp_path / "a.plan").read_bytes() == (tmp_path / "b.plan").read_bytes()


def test_the_extracted_graph_stands_alone(tiny_plan, tmp_path):
    Plan.open(tiny_plan).extract(tmp_path)
    onnx.checker.check_model(str(tmp_path / "forward.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "forward.onnx"), providers=["CPUExecutionProvider"])
    x, t = np.random.default_rng(0).standard_normal((3, 3, 16, 16), dtype=np.float32), np.array([0, 5, 999])
    ours = open_engine(Plan.open(tiny_plan), "cpu").predict(x, t).out
    np.testing.assert_array_equal(session.run(None, {"x": x, "t": t})[0], ours)


def test_the_graph_holds_no_weight_of_its_own(tiny_plan):
    model = onnx.load_from_string(bytes(Plan.open(tiny_plan).member("forward.onnx")))
    assert model.graph.initializer
    assert all(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)


@pytest.mark.parametrize("factor", [1.001, 1.1])
def test_a_plan_that_differs_from_torch_is_not_written(make_prior, tmp_path, monkeypatch, factor):
    real = verify.OnnxRuntimeEngine.predict

    def wrong(self, x, t):
        prediction = real(self, x, t)
        return prediction._replace(out=prediction.out * factor)

    monkeypatch.setattr(verify.OnnxRuntimeEngine, "predict", wrong)
    with pytest.raises(ExportError, match="parity failed on noise, batch 1"):
        export_plan(read_prior(make_prior()), tmp_path / "a.plan")
    assert not list(tmp_path.iterdir())


def test_a_plan_that_gives_nan_is_not_written(make_prior, monkeypatch):
    plan = build_plan(read_prior(make_prior()))
    real = verify.OnnxRuntimeEngine.predict

    def nan(self, x, t):
        prediction = real(self, x, t)
        return prediction._replace(out=np.where(np.abs(x).max() > 100, np.nan, prediction.out))

    monkeypatch.setattr(verify.OnnxRuntimeEngine, "predict", nan)
    with pytest.raises(ExportError, match="parity failed on huge values"):
        verify.parity(plan)


def change_config(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("break_it", "error", "sentence"),
    [
        (lambda f: (f / "unet" / "config.json").unlink(), InputError, "is not a diffusers DDPM folder"),
        (lambda f: (f / "unet" / "config.json").write_text("{"), InputError, "is not JSON"),
        (lambda f: next((f / "unet").glob("*.safetensors")).unlink(), InputError, r"holds no unet/diffusion_pytorch"),
        (lambda f: next((f / "unet").glob("*.safetensors")).write_text("x"), ExportError, "cannot read"),
        (
            lambda f: change_config(f, "unet/config.json", _class_name="UNet2DConditionModel"),
            ExportError,
            "only an unconditional",
        ),
        (lambda f: change_config(f, "unet/config.json", in_channels=0), ExportError, "in_channels must be"),
        (lambda f: change_config(f, "unet/config.json", sample_size=[8, 8]), ExportError, "sample_size must be"),
        (lambda f: (f / "unet" / "config.json").write_text("[]"), InputError, "is not a JSON object"),
        (lambda f: change_config(f, "unet/config.json", in_channels=4), ExportError, "4 input channels"),
        (
            lambda f: change_config(f, "unet/config.json", block_out_channels=[8, 32]),
            PlanError,
            "do not fit.*size mismatch for unet",
        ),
        (
            lambda f: change_config(f, "scheduler/scheduler_config.json", variance_type="learned"),
            ExportError,
            "variance learned",
        ),
        (
            lambda f: change_config(f, "scheduler/scheduler_config.json", prediction_type="flow"),
            ExportError,
            "'flow' is not known",
        ),
        (
            lambda f: change_config(f, "scheduler/scheduler_config.json", rescale_betas_zero_snr=True),
            ExportError,
            "zero terminal SNR",
        ),
        (
            lambda f: change_config(f, "scheduler/scheduler_config.json", beta_schedule="sigmoid"),
            ExportError,
            "'sigmoid' is not known",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused(make_prior, break_it, error, sentence):
    folder = make_prior()
    break_it(folder)
    with pytest.raises(error, match=sentence):
        build_plan(read_prior(folder))


def test_an_unknown_model_lists_those_there_are():
    with pytest.raises(InputError, match=r"no prior 'imagenet'; choose one of celeba, or give a folder: --weights DIR"):
        find_prior("imagenet")

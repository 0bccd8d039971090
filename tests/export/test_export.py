"""Exporting: any prior of the form, and none that differs from its plan."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffusers import UNet2DModel

from frugal_rt import ExportError, InputError, Plan, PlanError, Restorer, operators
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
    export_plan(read_prior(folder), tmp_path / "a.plan", precisions=())
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
    assert 0 < manifest["parity"]["output"] < 1e-4
    assert 0 < manifest["parity"]["gradient"] < 1e-4
    assert manifest["precision"] == "float32"
    assert {"torch", "onnx", "frugal-rt"} <= manifest["tools"].keys()


def test_exporting_twice_gives_the_same_plan(make_prior, tmp_path):
    prior = read_prior(make_prior(), "same")
    for name in ("a", "b"):
        export_plan(prior, tmp_path / f"{name}.plan")
    assert (tmp_path / "a.plan").read_bytes() == (tmp_path / "b.plan").read_bytes()


def test_the_extracted_graphs_stand_alone(tiny_plan, tmp_path):
    """onnxruntime alone, on the extracted files, gives what our engine gives: outputs and gradient."""
    plan = Plan.open(tiny_plan)
    plan.extract(tmp_path)
    sessions = {}
    for graph in plan.manifest["graphs"]:
        path = str(tmp_path / f"{graph}.onnx")
        onnx.checker.check_model(path)
        sessions[graph] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x, t = np.random.default_rng(0).standard_normal((3, 3, 16, 16), dtype=np.float32), np.array([0, 5, 999])
    values = {"x": x, "v": x}
    values["embedding"] = sessions["embedding"].run(None, {"t": t})[0]
    for graph in ("forward", "pullback"):
        names = [output.name for output in sessions[graph].get_outputs()]
        inputs = {one.name: values[one.name] for one in sessions[graph].get_inputs()}
        values |= dict(zip(names, sessions[graph].run(None, inputs), strict=True))
    (out, _), pull = open_engine(plan, "cpu").pullback(x, t)
    np.testing.assert_array_equal(values["out"], out)
    np.testing.assert_array_equal(values["gradient"], pull(x))


def test_the_graphs_hold_no_parameter_and_no_scatter(tiny_plan):
    plan = Plan.open(tiny_plan)
    for entry in plan.manifest["graphs"].values():
        graph = onnx.load_from_string(bytes(plan.member(entry["member"]))).graph
        external = [one.name for one in graph.initializer if one.data_location == onnx.TensorProto.EXTERNAL]
        assert external == entry["weights"] != []
        held = [onnx.numpy_helper.to_array(one) for one in graph.initializer if one.name not in external]
        assert sum(array.size for array in held) < 500
        assert not [node.op_type for node in graph.node if "Scatter" in node.op_type]


BLOCKS = {"up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "down_block_types": ["DownBlock2D", "AttnDownBlock2D"]}


@pytest.mark.parametrize(
    "unet",
    [
        {"downsample_padding": 0, "norm_eps": 1e-6, "flip_sin_to_cos": False, "freq_shift": 1},
        {"attention_head_dim": None, "layers_per_block": 2, "mid_block_scale_factor": 1.4142},
        {"resnet_time_scale_shift": "scale_shift", "out_channels": 6},
        {"downsample_type": "resnet", "upsample_type": "resnet"},
        {"down_block_types": ["ResnetDownsampleBlock2D"] * 2, "up_block_types": ["ResnetUpsampleBlock2D"] * 2},
        {"add_attention": False, "down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2},
    ],
    ids=["ddpm", "one head", "scale and shift", "resnet sampling", "resnet blocks", "no attention"],
)
def test_every_kind_of_unet_agrees_with_autograd(make_prior, unet):
    variance = {"variance_type": "learned_range"} if unet.get("out_channels") == 6 else {}
    errors = verify.parity(build_plan(read_prior(make_prior({"layers_per_block": 1, **unet}, variance)), precisions=()))
    assert 0 < errors["output"] < 1e-2
    assert 0 < errors["gradient"] < 1e-2


def test_large_images_are_compared_on_fewer_inputs(make_prior, monkeypatch):
    plan = build_plan(read_prior(make_prior({"out_channels": 6}, {"variance_type": "learned_range"})), precisions=())
    monkeypatch.setattr(verify, "LARGE", 4)
    few = list(verify.cases(plan))
    assert {len(x) for _, x, *_ in few} == {1, 2}
    assert len({int(time) for _, _, t, _ in few[2:] for time in t}) == 3
    errors = verify.parity(plan)
    assert 0 < errors["output"] < 1e-2
    assert 0 < errors["gradient"] < 1e-2
    (_, x, t, v), sparing = few[1], verify.network(plan, "float32")
    monkeypatch.undo()
    assert len(list(verify.cases(plan))) > 2 * len(few)
    for got, want in zip(
        *(verify.row_by_row(one, x, t, v).values() for one in (sparing, verify.network(plan, "float32"))), strict=True
    ):
        np.testing.assert_array_equal(got, want)


def test_a_row_that_depends_on_its_batch_is_found(make_prior, monkeypatch):
    """In either answer, of images of any size."""
    plan = build_plan(read_prior(make_prior()), precisions=())
    for large, what in ((128, "output"), (4, "output"), (4, "gradient")):
        with monkeypatch.context() as patch:
            patch.setattr(verify, "LARGE", large)
            Wrong(patch, lambda given, x, call, what=what: given[what][1:].__iadd__(0.01))
            with pytest.raises(ExportError, match=f"parity failed on noise, batch 2: onnxruntime's {what}"):
                verify.parity(plan)


def test_an_operation_that_is_not_known_is_named(make_prior):
    with pytest.raises(ExportError, match=r"uses the operation aten\.\w+.*, which frugal-rt cannot export yet"):
        build_plan(read_prior(make_prior({"act_fn": "mish"})))


def test_300_pullbacks_on_a_busy_machine_are_one(celeba_plan):
    plan = Plan.open(celeba_plan)
    verify.repeatable(plan, open_engine(plan, "cpu"), runs=300)


class Wrong:
    """Stands in for the engine under test: `damage` takes what it gives for an input to something else."""

    def __init__(self, monkeypatch, damage):
        real, calls = verify.evaluate, []

        def evaluate(engine, x, t, v):
            given = real(engine, x, t, v)
            if isinstance(engine, verify.OnnxRuntimeEngine):
                calls.append(x)
                damage(given, x, len(calls))
            return given

        monkeypatch.setattr(verify, "evaluate", evaluate)


@pytest.mark.parametrize("what", ["output", "gradient"])
@pytest.mark.parametrize("factor", [1.001, 1.1])
def test_a_plan_that_differs_from_torch_is_not_written(make_prior, tmp_path, monkeypatch, factor, what):
    Wrong(monkeypatch, lambda given, x, call: given.update({what: given[what] * np.float32(factor)}))
    with pytest.raises(ExportError, match=f"parity failed on noise, batch 1: onnxruntime's {what}"):
        export_plan(read_prior(make_prior()), tmp_path / "a.plan")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("ours", "sentence"), [(1.0, None), (1.03, "3.0e-02 away from torch's in float64, 2e-02 is")])
def test_where_float32_itself_is_off_float64_decides(make_prior, monkeypatch, ours, sentence):
    """Torch's float32 is 0.5% off: a plan that is not passes, one that is 3% off does not."""
    plan, real = build_plan(read_prior(make_prior()), precisions=()), verify.row_by_row

    def off(module, *inputs):
        single = next(module.parameters()).dtype == torch.float32
        return {what: value * (1.005 if single else 1) for what, value in real(module, *inputs).items()}

    monkeypatch.setattr(verify, "row_by_row", off)
    Wrong(monkeypatch, lambda given, x, call: given.update(gradient=given["gradient"] * np.float32(ours)))
    if sentence is None:
        assert max(verify.parity(plan).values()) < 2e-3
    else:
        with pytest.raises(ExportError, match=sentence):
            verify.parity(plan)


@pytest.mark.parametrize("what", ["output", "gradient"])
def test_a_plan_that_gives_nan_is_not_written(make_prior, monkeypatch, what):
    def nan(given, x, call):
        given[what] = np.where(np.abs(x).max() > 100, np.nan, given[what])

    Wrong(monkeypatch, nan)
    with pytest.raises(ExportError, match="parity failed on huge values"):
        verify.parity(build_plan(read_prior(make_prior()), precisions=()))


def test_a_gradient_that_is_wrong_now_and_then_is_found(tiny_plan, monkeypatch):
    def rarely(given, x, call):
        given["gradient"] = given["gradient"] + (1e-6 if call == 6 else 0)

    Wrong(monkeypatch, rarely)
    plan = Plan.open(tiny_plan)
    with pytest.raises(ExportError, match=r"gradient differs between two runs .* \(run 5 of 8\)"):
        verify.repeatable(plan, verify.OnnxRuntimeEngine(plan), verify.RUNS)


def test_a_graph_with_a_scatter_is_refused(make_prior, monkeypatch):
    node = onnx.helper.make_node("ScatterND", ["data", "indices", "updates"], ["y"])
    graph = onnx.helper.make_graph([node], "bad", [], [])
    plan = build_plan(read_prior(make_prior()), precisions=())
    monkeypatch.setattr(plan, "member", lambda name: onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(ExportError, match="holds ScatterND"):
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
    with pytest.raises(InputError, match=r"no prior 'imagenet'; choose one of celeba, celebahq-256, or give your own"):
        find_prior("imagenet")


def test_a_prior_is_exported_for_images_of_another_size(make_prior, tmp_path):
    """The network's own range: the plan's graphs are torch's at that size, and restore what a torch engine does."""
    prior = read_prior(make_prior({"in_channels": 12, "out_channels": 12}), "tiny").at(20, 28)
    plan = export_plan(prior, tmp_path / "wide.plan", precisions=())
    assert plan.image_shape == (3, 20, 28)
    assert max(plan.manifest["parity"].values()) < 1e-4
    operator = operators.SuperResolution(plan.image_shape, 4)
    y = np.random.default_rng(0).uniform(-1, 1, operator.measurement_shape).astype(np.float32)
    ours, torch = (
        Restorer.load(tmp_path / "wide.plan", backend).restore(y, operator, steps=6, switch="always").image
        for backend in ("cpu", "torch")
    )
    np.testing.assert_allclose(ours, torch, atol=1e-3)


@pytest.mark.parametrize(
    ("sides", "says"),
    [
        ((18, 16), "multiples of 4; 16x18 is not"),
        ((12, 16), "trained at 16x16"),
        ((16, 68), "4 times the side; --tile takes larger pictures"),
    ],
)
def test_a_size_out_of_a_prior_s_range_is_refused(make_prior, sides, says):
    prior = read_prior(make_prior({"in_channels": 12, "out_channels": 12}), "tiny")
    assert prior.at(16, 16) is prior
    with pytest.raises(InputError, match=says):
        prior.at(*sides)

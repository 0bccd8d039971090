"""Foreign graphs in plans are refused before a runtime reads them, and not cached."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from frugal_rt import Plan, PlanError, Restorer
from frugal_rt.cli import main
from frugal_rt.engines import extras, open_engine
from frugal_rt.engines.plan import WEIGHTS
from frugal_rt.engines.tensorrt import build, store
from frugal_rt.engines.weights import read_safetensors
from frugal_rt.export import build_plan, read_prior
from frugal_rt.export.triton import write_repository
from frugal_rt.runtime.operators import Denoise

from .runnable import needs, runnable

SHAPE = (3, 16, 16)
WEIGHT, ALIKE = "unet.conv_in.weight", "unet.mid_block.resnets.0.conv1.bias"
"""A parameter that the tiny prior's forward graph reads, and one that shares its shape with others."""
Edit = Callable[[Any, dict[str, Any]], None]
"""Changes a graph, and its entry in the manifest."""


def crafted(plan: Plan, edit: Edit, graph: str = "forward", precision: str | None = None) -> Plan:
    """Return `plan` with one graph changed, and its manifest updated to fit."""
    manifest = json.loads(json.dumps({key: value for key, value in plan.manifest.items() if key != "members"}))
    held = manifest if precision is None else manifest["mixed"][precision]
    entry = held["graphs"][graph]
    model = onnx.load_from_string(bytes(plan.member(entry["member"])))
    edit(model, entry)
    members = {name: plan.member(name) for name in plan.members}
    return Plan(manifest, {**members, entry["member"]: model.SerializeToString(deterministic=True)}, "crafted.plan")


def initialiser(model: Any, name: str = WEIGHT) -> TensorProto:
    return next(one for one in model.graph.initializer if one.name == name)


def place(key: str, value: str, name: str = WEIGHT) -> Edit:
    """Return a change of an initialiser's place."""

    def edit(model: Any, entry: dict[str, Any]) -> None:
        next(one for one in initialiser(model, name).external_data if one.key == key).value = value

    return edit


def unlisted(model: Any, entry: dict[str, Any]) -> None:
    entry["weights"].remove(WEIGHT)


def renamed(model: Any, entry: dict[str, Any]) -> None:
    for node in model.graph.node:
        node.input[:] = ["planted" if name == WEIGHT else name for name in node.input]
    initialiser(model).name = "planted"
    entry["weights"][entry["weights"].index(WEIGHT)] = "planted"


def another_s_place(model: Any, entry: dict[str, Any]) -> None:
    one = initialiser(model, ALIKE)
    other = next(o for o in model.graph.initializer if o.dims == one.dims and o.external_data and o.name != ALIKE)
    for pair, theirs in zip(one.external_data, other.external_data, strict=True):
        pair.value = theirs.value


def held(name: str, array: np.ndarray) -> Edit:
    """Put a tensor into the graph; it replaces one of the same name."""

    def edit(model: Any, entry: dict[str, Any]) -> None:
        kept = [one for one in model.graph.initializer if one.name != name]
        del model.graph.initializer[:]
        model.graph.initializer.extend([*kept, numpy_helper.from_array(array, name)])
        entry["weights"] = [one for one in entry["weights"] if one != name]

    return edit


def inner(model: Any, entry: dict[str, Any]) -> None:
    branch = helper.make_graph([], "branch", [], [], [initialiser(model)])
    model.graph.node.add(op_type="If", input=["c"], output=["y"]).attribute.append(
        helper.make_attribute("then_branch", branch)
    )


def function(model: Any, entry: dict[str, Any]) -> None:
    node = helper.make_node("Identity", ["a"], ["b"])
    model.functions.append(helper.make_function("", "Silu", ["a"], ["b"], [node], [helper.make_opsetid("", 18)]))


REFUSED: dict[str, tuple[Edit, str]] = {
    "not listed": (unlisted, f"takes other weights than the manifest lists for it ('{WEIGHT}')"),
    "listed, not taken": (lambda m, e: e["weights"].append("a"), "takes other weights than the manifest lists for it"),
    "listed twice": (lambda m, e: e["weights"].append(WEIGHT), "the manifest lists for it (one of them twice)"),
    "an output less": (lambda m, e: m.graph.output.pop(), "has other outputs than the manifest says of it ('kept:"),
    "other sides": (
        lambda m, e: setattr(m.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", 32),
        "has other inputs than the manifest says of it ('x')",
    ),
    "half of it": (
        lambda m, e: setattr(m.graph.output[0].type.tensor_type, "elem_type", TensorProto.FLOAT16),
        "has other outputs than the manifest says of it ('out')",
    ),
    "another file": (place("location", "planted.bin"), f"takes '{WEIGHT}' from outside of the plan, 'planted.bin'"),
    "a path": (place("location", f"./{WEIGHTS}"), f"from outside of the plan, './{WEIGHTS}'"),
    "memory": (place("location", "*/_ORT_MEM_ADDR_/*"), "from outside of the plan, '*/_ORT_MEM_ADDR_/*'"),
    "nowhere": (lambda m, e: initialiser(m).external_data.pop(0), "from outside of the plan, 'nowhere'"),
    "a key more": (
        lambda m, e: initialiser(m).external_data.add(key="checksum", value="0"),
        "with another place, type or shape",
    ),
    "a key twice": (
        lambda m, e: initialiser(m).external_data.add(key="location", value=WEIGHTS),
        "from outside of the plan, 'nowhere'",
    ),
    "values too": (lambda m, e: setattr(initialiser(m), "raw_data", b"abcd"), "with another place, type or shape"),
    "offset": (place("offset", "8"), "with another place, type or shape"),
    "offset, signed": (place("offset", "+8"), "with another place, type or shape"),
    "length": (place("length", "4"), "with another place, type or shape"),
    "type": (lambda m, e: setattr(initialiser(m), "data_type", TensorProto.INT32), "with another place, type or shape"),
    "shape": (lambda m, e: initialiser(m).dims.append(1), "with another place, type or shape"),
    "another's place": (another_s_place, f"takes '{ALIKE}' with another place, type or shape"),
    "no such weight": (renamed, "takes 'planted' from the weights, which do not have it"),
    "values of a weight": (held(WEIGHT, np.zeros((8, 12, 3, 3), np.float32)), f"holds values of '{WEIGHT}'"),
    "values of any": (held("table", np.zeros(3, np.float32)), "holds values of 'table'"),
    "doubles": (held("constant:0", np.zeros(1)), "holds values of 'constant:0'"),
    "text for numbers": (
        lambda m, e: setattr(initialiser(m, "constant:0"), "raw_data", b"ab"),
        "holds values of 'constant:0'",
    ),
    "a name twice": (
        lambda m, e: m.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), "constant:0")),
        "has 'constant:0' twice",
    ),
    "computed over": (
        lambda m, e: m.graph.node.append(helper.make_node("Identity", ["x"], [WEIGHT])),
        f"has '{WEIGHT}' twice",
    ),
    "an input": (
        lambda m, e: m.graph.input.append(helper.make_tensor_value_info(WEIGHT, TensorProto.FLOAT, [1])),
        f"has '{WEIGHT}' twice",
    ),
    "other values": (lambda m, e: initialiser(m, "constant:0").int64_data.append(1), "has a field 7"),
    "a constant": (
        lambda m, e: m.graph.node.append(helper.make_node("Constant", [], ["c"], value_float=1.0)),
        "computes 'Constant', an operation that no plan needs",
    ),
    "a tensor in a node": (
        lambda m, e: m.graph.node.append(helper.make_node("Constant", [], ["c"], value=initialiser(m))),
        "has a field 5",
    ),
    "a graph in a node": (inner, "has a field 6"),
    "a function": (function, "has a field 25"),
    "a sparse tensor": (
        lambda m, e: m.graph.sparse_initializer.append(onnx.SparseTensorProto(values=initialiser(m))),
        "has a field 15",
    ),
    "another's operation": (
        lambda m, e: m.graph.node.append(helper.make_node("EPContext", [], ["c"], domain="com.microsoft")),
        "has a field 7",
    ),
    "another's operations": (
        lambda m, e: m.opset_import.append(helper.make_opsetid("com.microsoft", 1)),
        "is not a single graph of ONNX's own operations",
    ),
    "settings": (lambda m, e: m.metadata_props.add(key="ort_config", value="{}"), "has a field 14"),
}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working directory, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRUGAL_RT_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(scope="module")
def plan(make_prior) -> Plan:
    return build_plan(read_prior(make_prior({"in_channels": 12, "out_channels": 12}), "tiny"))


@pytest.mark.parametrize("name", REFUSED)
def test_each_way_to_another_result_is_refused_in_one_sentence(plan, here, name):
    edit, why = REFUSED[name]
    bad = crafted(plan, edit)
    with pytest.raises(PlanError) as error:
        open_engine(bad, "cpu")
    sentence = str(error.value)
    assert why in sentence
    assert sentence.startswith("crafted.plan: forward.onnx ")
    assert "\n" not in sentence
    assert not any(here.glob("cache/*"))
    bad.save("crafted.plan")
    told = CliRunner().invoke(main, ["inspect", "crafted.plan"])
    assert (told.exit_code, told.stderr) == (1, f"Error: {sentence}\n")


@pytest.mark.parametrize("graph", ["embedding", "pullback"])
def test_every_graph_is_checked_when_it_is_opened(plan, here, graph):
    def edit(model: Any, entry: dict[str, Any]) -> None:
        entry["weights"].pop()

    bad = crafted(plan, edit, graph)
    with pytest.raises(PlanError, match=rf"{graph}\.onnx takes other weights than the manifest lists"):
        open_engine(bad, "cpu").prepare(gradients=True)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_inspect_checks_the_graphs_in_half_precision(plan, here, precision):
    crafted(plan, place("location", "planted.bin"), "pullback", precision).save("crafted.plan")
    told = CliRunner().invoke(main, ["inspect", "crafted.plan", "--json"])
    assert told.exit_code == 1
    assert f"pullback.{precision}.onnx takes '{WEIGHT}' from outside of the plan" in told.stderr


def test_every_runtime_is_given_checked_graphs_alone(plan, here):
    bad = crafted(plan, place("location", "planted.bin"))
    runtimes = {"triton": lambda: write_repository(bad, here / "repository")}
    if runnable("openvino"):
        runtimes["openvino"] = lambda: open_engine(bad, "openvino")
    if extras.installed("tensorrt_rtx"):
        runtimes["tensorrt-rtx"] = lambda: build.build(bad, "tensorrt-rtx", precision="fp32", capability="8.9", level=0)
    for name, run in runtimes.items():
        with pytest.raises(PlanError, match="from outside of the plan"):
            run()
        assert not list(here.glob("cache/engines/*/record.json")), name
    assert not (here / "repository").exists()


def restored(plan: Plan, backend: str = "cpu") -> np.ndarray:
    y = np.random.default_rng(0).uniform(-1, 1, SHAPE).astype(np.float32)
    return Restorer(plan, open_engine(plan, backend)).restore(y, Denoise(SHAPE), sigma=0.2, steps=4, switch=2).image


def plant(plan: Plan, folder: Path) -> None:
    """Write weights, one of them negated, where runtimes look for missing tensors."""
    weights = bytearray(plan.member(WEIGHTS))
    view, _ = read_safetensors(memoryview(weights), "planted")[WEIGHT]
    view[...] = -view
    (folder / WEIGHTS).write_bytes(weights)


def test_a_crafted_plan_does_not_change_what_an_honest_one_gives(plan, here, monkeypatch):
    """It differs from the honest one in a list of the manifest alone, and brings a file into the working directory."""
    monkeypatch.setenv("FRUGAL_RT_CACHE", "off")
    before = restored(plan)
    monkeypatch.setenv("FRUGAL_RT_CACHE", str(here / "cache"))
    plant(plan, here)
    for graph in ("forward", "pullback"):
        bad = crafted(plan, unlisted, graph)
        assert bad.manifest["members"] == plan.manifest["members"]
        with pytest.raises(PlanError, match="takes other weights than the manifest lists for it"):
            restored(bad)
    for _ in range(2):  # made, and found in the cache
        np.testing.assert_array_equal(restored(plan), before)
    with pytest.raises(PlanError, match="takes other weights"):  # though an honest one's is kept
        restored(crafted(plan, unlisted))


def test_planted_files_change_nothing_in_openvino(plan, here):
    needs("openvino")
    before = restored(plan, "openvino")
    plant(plan, here)
    np.testing.assert_array_equal(restored(plan, "openvino"), before)


@pytest.mark.parametrize("member", [WEIGHTS, "../outside.onnx", "engines/a.onnx"])
def test_openvino_is_given_files_that_we_name(plan, here, member):
    needs("openvino")
    manifest = {key: value for key, value in plan.manifest.items() if key != "members"}
    members = {name: plan.member(name) for name in plan.members}
    graphs = {**manifest["graphs"], "forward": {**manifest["graphs"]["forward"], "member": member}}
    more = {} if member == WEIGHTS else {member: members["forward.onnx"]}
    odd = Plan({**manifest, "graphs": graphs}, {**members, **more}, "odd.plan")
    if member == WEIGHTS:
        with pytest.raises(PlanError, match=r"odd.plan: weights.safetensors is no ONNX graph|has \d+ bytes"):
            open_engine(odd, "openvino")
    else:
        open_engine(odd, "openvino")
    assert not (here.parent / "outside.onnx").exists()


def test_engines_are_of_one_choice_of_graphs(plan):
    """Two plans of the same members, of which each is another graph, share no engines."""
    swapped = json.loads(json.dumps(plan.manifest))
    mixed = swapped["mixed"]
    mixed["fp16"]["graphs"], mixed["bf16"]["graphs"] = mixed["bf16"]["graphs"], mixed["fp16"]["graphs"]
    members = {name: plan.member(name) for name in plan.members}
    assert store.plan_hash(Plan(swapped, members)) != store.plan_hash(plan)
    assert store.plan_hash(Plan(json.loads(json.dumps(plan.manifest)), members)) == store.plan_hash(plan)


def entry(**changes):
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


HEADERS = [
    *([], None, [-1], 1, "x", {"a": 1}, {"a": []}, {"a": {}}, {"a": None}),
    *(entry(shape=shape) for shape in ([3], [-1, -2], [2, 2**62], "x", [2.0], None, [1] * 70, [[2]], {})),
    *(entry(data_offsets=place) for place in ([-4, 4], [8, 0], [0, 2**64], [0], [0, 8, 8], None, [0.0, 8.0], [4, 12])),
    *(entry(dtype=kind) for kind in ("F128", "", None, [], "O", "<f4")),
]


@pytest.mark.parametrize("header", HEADERS, ids=repr)
def test_weights_whose_header_says_nonsense_are_one_sentence(header):
    refused(json.dumps(header).encode())


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[" * 100_000, b'{"a":' * 50_000, b"\xff", b'{"a": NaN}', b'{"a": 1' + b"0" * 9999 + b"}"],
    ids=lambda text: repr(text[:8]),
)
def test_weights_without_a_header_are_one_sentence(text):
    refused(text)


@pytest.mark.parametrize("length", [0, 7, 2**24 + 1, 2**63, 2**64 - 1])
def test_weights_whose_header_is_of_another_length_are_one_sentence(length):
    refused(json.dumps(entry()).encode(), length)


def test_weights_that_lie_across_words_are_one_sentence():
    text = json.dumps(entry()).encode()
    refused(text + b" " * ((2 - len(text)) % 4))
    assert list(read_safetensors(memoryview(packed(text + b" " * (-len(text) % 4))), "a.plan")) == ["a"]


def packed(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(8)


def refused(text: bytes, length: int | None = None) -> None:
    for data in (packed(text, length), packed(text, length)[:9]):
        with pytest.raises(PlanError, match=r"^a.plan: its weights are not a safetensors file$"):
            read_safetensors(memoryview(data), "a.plan")

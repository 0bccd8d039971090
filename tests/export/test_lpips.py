"""LPIPS as an ONNX graph: the architecture, the authors' figures, and files that are none."""

import numpy as np
import pytest
from PIL import Image

from frugal_rt import ExportError, InputError
from frugal_rt.engines.onnxruntime.lpips import Lpips
from frugal_rt.export.lpips import build_lpips, from_package, verify_lpips

from .lpips_network import random_lpips, torch_lpips


def test_the_lpips_graph_is_the_architecture():
    weights = random_lpips()
    module = torch_lpips(weights)
    assert verify_lpips(build_lpips(weights).SerializeToString(), module) < 1e-5
    off = {**weights, "lin4": weights["lin4"] + 0.1}
    with pytest.raises(ExportError, match="away from the package's LPIPS; nothing was written"):
        verify_lpips(build_lpips(off).SerializeToString(), module)


def test_where_no_feature_fires_the_distance_is_0(tmp_path):
    (tmp_path / "l.onnx").write_bytes(build_lpips(random_lpips(bias=-1e3)).SerializeToString())
    a, b = np.random.default_rng(0).uniform(-1, 1, (2, 20, 3, 32, 32)).astype(np.float32)
    np.testing.assert_array_equal(Lpips(tmp_path / "l.onnx")(a, b), np.zeros(20))


def test_a_graph_that_is_no_lpips_is_refused(tmp_path):
    import onnx

    model = build_lpips(random_lpips())
    model.graph.output[0].name = "distance"
    model.graph.node[-1].output[0] = "distance"
    onnx.save(model, tmp_path / "l.onnx")
    with pytest.raises(InputError, match=r"takes image, reference and gives distance; an LPIPS file takes"):
        Lpips(tmp_path / "l.onnx")


def test_a_file_that_takes_its_weights_from_another_is_refused(tmp_path, monkeypatch):
    """onnxruntime would look for them in the working directory; the digest in the results would not tell."""
    import onnx

    monkeypatch.chdir(tmp_path)
    model = build_lpips(random_lpips())
    onnx.external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, "l.onnx")
    with pytest.raises(InputError, match=r"^l.onnx takes weights from 'weights.bin'; an LPIPS file holds"):
        Lpips("l.onnx")


def test_the_authors_example_pair(data):
    distance = Lpips(data / "metrics" / "lpips_alex.onnx")
    pictures = {
        name: np.asarray(
            Image.open(data / "metrics" / f"lpips-example-{name}.png").convert("RGB"), np.float32
        ).transpose(2, 0, 1)[None]
        / 127.5
        - 1
        for name in ("ref", "p0", "p1")
    }
    for name, expected in (("p0", 0.7219), ("p1", 0.1376)):
        assert distance(pictures["ref"], pictures[name])[0] == pytest.approx(expected, abs=2e-4)


def test_our_graph_of_the_data_folders_weights_is_that_file(data, tmp_path):
    import onnx
    from onnx import numpy_helper

    theirs = data / "metrics" / "lpips_alex.onnx"
    stored = {i.name: numpy_helper.to_array(i) for i in onnx.load(theirs).graph.initializer}
    weights = {name: stored[name] for name in random_lpips()}
    (tmp_path / "ours.onnx").write_bytes(build_lpips(weights).SerializeToString())
    a, b = np.random.default_rng(0).uniform(-1, 1, (2, 3, 3, 64, 64)).astype(np.float32)
    a[2] = b[2]
    np.testing.assert_allclose(Lpips(tmp_path / "ours.onnx")(a, b), Lpips(theirs)(a, b), atol=1e-5)


def test_the_package_state_is_renamed():
    weights = random_lpips()
    renamed = from_package({name: tensor.numpy() for name, tensor in torch_lpips(weights).state_dict().items()})
    for name, array in weights.items():
        np.testing.assert_array_equal(renamed[name].reshape(array.shape), array)

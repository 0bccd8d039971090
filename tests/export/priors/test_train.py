"""The trainer of the embedded priors: resuming, rates, what a step draws, recipes."""

import io
import itertools
import json
import math
import os
import signal
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors import safe_open

from frugal_rt.engines import FrugalError, InputError
from frugal_rt.engines.files import alone, atomic_write
from frugal_rt.export import read_prior
from frugal_rt.export.priors import train
from frugal_rt.export.priors.training import denoising
from frugal_rt.export.priors.training import pictures as decoding
from frugal_rt.export.priors.training.muon import Muon
from frugal_rt.export.priors.training.pictures import Pictures
from frugal_rt.export.priors.training.recipe import read_recipe
from frugal_rt.export.priors.training.state import CHECKPOINT, WEIGHTS, Progress, Training, build_network

PRIORS = Path(train.__file__).parent
GROUPS = {"sea": 0.6, "sky": 0.4, "land": 0.0}
RECIPE: dict[str, Any] = {
    "shards": "train-*.tar",
    "index": "train.tsv",
    "held_out": "tune",
    "groups": GROUPS,
    "network": {
        "sample_size": 8,
        "in_channels": 12,
        "out_channels": 12,
        "block_out_channels": [8, 16],
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "batches": [{"side": 16, "crops": 4, "share": 0.75}, {"side": 32, "crops": 2, "share": 0.25}],
    "t_power": 1.7,
    "rate": 1e-3,
    "warm_up": 8,
    "betas": [0.9, 0.99],
    "weight_decay": 1e-4,
    "average_part": 10,
}
EPOCHS = {name: value for name, value in RECIPE.items() if name not in ("groups", "index")} | {
    "batches": [{"side": 16, "crops": 4, "share": 1}]
}
COUNT = 12


def picture(i: int, height: int = 36, width: int = 40) -> np.ndarray:
    """Photograph number i: its rows in red, columns in green, i in blue."""
    y, x = np.mgrid[:height, :width]
    return np.stack([5 * y, 5 * x, np.full_like(y, 20 * i)], -1).astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COUNT photographs in two shards, in turn of the GROUPS, and two that are held out."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "tune").mkdir()
    rows = ["file\tgroup"]
    for shard in range(2):
        with tarfile.open(folder / f"train-{shard}.tar", "w") as tar:
            for i in range(shard * COUNT // 2, (shard + 1) * COUNT // 2):
                content = png(picture(i))
                member = tarfile.TarInfo(f"{i}.png")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
                rows.append(f"{i}.png\t{list(GROUPS)[i % 3]}")
    (folder / "train.tsv").write_text("\n".join(rows) + "\n")
    for i in range(2):
        (folder / "tune" / f"{i}.png").write_bytes(png(picture(i)))
    return folder


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "recipe.json"
    path.write_text(json.dumps(RECIPE | changes))
    return path


def pictures(data: Path, folder: Path, recipe: dict[str, Any]) -> Pictures:
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return Pictures(data, read_recipe(folder / "recipe.json"), folder)


def trained(data: Path, out: Path, *options: str, code: int = 0, **changes: Any) -> Result:
    recipe = written(out.parent, **changes)
    asked = [str(recipe), "--data", str(data), "--out", str(out), "--threads", "1", *options]
    result = CliRunner().invoke(train.main, asked)
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Few pairs in the errors; torch's threads as they were before --threads."""
    monkeypatch.setattr(denoising, "PAIRS", 6)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_resumed_training_equals_an_uninterrupted_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimiser: str
) -> None:
    def go(name: str, *options: str) -> Result:
        return trained(data, tmp_path / name, *options, optimiser=optimiser)

    go("whole", "--crops", "24")
    go("whole", "--cool-down", "24")

    step, steps = Training.step, []

    def stopped(training: Training, *batch: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(training, *batch)

    monkeypatch.setattr(Training, "step", stopped)
    go("parts", "--crops", "24")
    assert len(steps) == 3
    monkeypatch.undo()
    monkeypatch.setattr(denoising, "PAIRS", 6)
    with safe_open(tmp_path / "parts" / CHECKPOINT, "pt") as file:
        progress = json.loads(file.metadata()["progress"])
    assert progress["step"] == 3
    resumed = go("parts", "--crops", "24")
    assert f"going on from crop {progress['crops']} " in resumed.output
    go("parts", "--cool-down", "24", "--crops", "34")
    go("parts")
    assert (tmp_path / "parts" / CHECKPOINT).read_bytes() == (tmp_path / "whole" / CHECKPOINT).read_bytes()
    rows = [json.loads((tmp_path / name / train.LOG).read_text().splitlines()[-1]) for name in ("whole", "parts")]
    assert rows[0]["psnr_25"] == rows[1]["psnr_25"]
    assert rows[0]["rate"] == 0


def test_muon_moves_matrices_alike_in_every_direction(tmp_path: Path) -> None:
    """A first step of Muon has near the singular values rate 0.2 sqrt(the longer side), and the gradient's vectors."""
    recipe = read_recipe(written(tmp_path, optimiser="muon", weight_decay=0, warm_up=1))
    training = Training(recipe, "cpu", bf16=False)
    before = {name: weight.detach().clone() for name, weight in training.weights.items()}
    gradients: dict[str, torch.Tensor] = {}
    for name, weight in training.weights.items():
        weight.register_hook(lambda gradient, name=name: gradients.__setitem__(name, gradient.clone()))
    draw = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(4, 3, 16, 16, generator=draw) for _ in range(2))
    training.step(x0, torch.tensor([10, 200, 400, 800]), noise)
    moved = {name: (before[name] - weight.detach()) / recipe.rate for name, weight in training.weights.items()}
    seen = 0
    for name, change in moved.items():
        if change.ndim == 1 or name.startswith(("conv_in", "conv_out")):
            # AdamW's first step is the rate times the gradient's sign
            assert change.abs().max() <= 1.001
            continue
        change, gradient = change.flatten(1), gradients[name].flatten(1)
        u, s, vh = torch.linalg.svd(gradient, full_matrices=False)
        kept = s > 0.02 * s[0]
        along = torch.einsum("or,oi,ri->r", u, change, vh)[kept] / (0.2 * max(change.shape) ** 0.5)
        assert along.min() > 0.5
        assert along.max() < 1.3
        seen += int(kept.sum())
    assert seen > 100


@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
def test_muon_is_torch_s_in_bfloat16(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    first = torch.randn(shape)
    theirs, ours = (torch.nn.Parameter(first.clone()) for _ in range(2))
    settings = {"lr": 0.01, "weight_decay": 0.1}
    optimisers = (
        torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **settings),
        Muon([ours], precision=torch.bfloat16, **settings),
    )
    for _ in range(3):
        theirs.grad = torch.randn(shape)
        ours.grad = theirs.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
    assert (ours - first).abs().max() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_a_checkpoint_of_another_optimiser_is_refused(data: Path, tmp_path: Path) -> None:
    trained(data, tmp_path / "out", "--crops", "8")
    refused = trained(data, tmp_path / "out", "--crops", "16", optimiser="muon", code=1)
    assert "checkpoint.safetensors is of another optimiser than the recipe's" in refused.output


def test_a_cool_down_ends_at_zero_from_any_crop_on(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path))
    progress = Progress(crops=500, start=100)
    assert progress.rate(recipe, 4) == recipe.rate
    assert progress.end(recipe) is None
    progress.begin_cool_down(100)
    rates = [
        Progress(crops=crops, start=100, cool_from=500, cool_down=100).rate(recipe, 4) for crops in range(500, 601)
    ]
    assert rates[0] == recipe.rate
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))
    assert rates[-1] == 0
    assert progress.end(recipe) == 600
    progress.begin_cool_down(100)
    with pytest.raises(InputError, match="a cool-down of 100 crops began at crop 500"):
        progress.begin_cool_down(50)


def test_the_rate_rises_from_the_start(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path))
    rates = [Progress(crops=crops, start=1000).rate(recipe, 4) for crops in (1000, 1004, 1008)]
    assert rates == pytest.approx([recipe.rate / 2, recipe.rate, recipe.rate])


def test_the_average_spans_a_part_of_the_crops_seen(tmp_path: Path) -> None:
    """The average of a weight that grows by one with each crop lags behind by the crops that it spans."""
    for changes, lag in (({}, 40_000 / 11), ({"average_limit": 400}, 400)):
        recipe = read_recipe(written(tmp_path, **changes))
        average = 0.0
        for crops in range(4, 40_001, 4):
            share = Progress(crops=crops).average_share(recipe, 4)
            average += share * (crops - average)
        assert 40_000 - average == pytest.approx(lag, rel=0.02)


def test_the_recipe_of_celeba_says_how_its_weights_were_trained() -> None:
    recipe = read_recipe(PRIORS / "celeba/recipe.json")
    for step in (0, 1, 100, 199, 200, 3000, 4499):
        before, after = Progress(step, 32 * step), Progress(step + 1, 32 * (step + 1))
        cosine = 0.5 * (1 + math.cos(math.pi * step / 4500))
        assert before.rate(recipe, 32) == pytest.approx(6e-4 * min(1, (step + 1) * 32 / 6400) * cosine)
        decay = min(0.9995, (2 + step) / (11 + step))
        assert 1 - after.average_share(recipe, 32) == pytest.approx(decay)
    assert Progress().end(recipe) == 144_000
    assert recipe.groups is None
    shipped = json.loads((PRIORS / "celeba/unet/config.json").read_text())
    assert {name: value for name, value in dict(build_network(recipe, "cpu").config).items() if name[0] != "_"} == {
        name: list(value) if isinstance(value, tuple) else value for name, value in shipped.items() if name[0] != "_"
    }


def test_the_recipe_of_photo_is_valid_and_builds() -> None:
    recipe = read_recipe(PRIORS / "photo/recipe.json")
    assert sum(weight.numel() for weight in build_network(recipe, "cpu").parameters()) == 9_873_484
    assert recipe.stride == 8


def test_groups_are_drawn_by_their_shares(data: Path, tmp_path: Path) -> None:
    drawn = [pictures(data, tmp_path, RECIPE).draw(0, step) for step in range(500)]
    of_group = np.concatenate([draw.crops[:, 2, 0, 0] // 20 % 3 for draw in drawn])
    assert np.bincount(of_group, minlength=3) / len(of_group) == pytest.approx([0.6, 0.4, 0], abs=0.03)
    seen = {*np.concatenate([draw.crops[:, 2, 0, 0] // 20 for draw in drawn])}
    assert seen == {i for i in range(COUNT) if i % 3 != 2}
    sides = [draw.crops.shape[2:] for draw in drawn]
    assert sides.count((32, 32)) / len(sides) == pytest.approx(0.25, abs=0.05)


def test_without_groups_an_epoch_shows_each_photograph_once(data: Path, tmp_path: Path) -> None:
    some = pictures(data, tmp_path, EPOCHS)
    orders = [
        np.concatenate([some.draw(7, step).crops[:, 2, 0, 0] // 20 for step in range(3 * e, 3 * e + 3)]) for e in (0, 1)
    ]
    assert [sorted(order) for order in orders] == [[*range(COUNT)]] * 2
    assert [*orders[0]] != [*orders[1]]


def test_crops_are_squares_of_the_photographs_mirrored_or_not(data: Path, tmp_path: Path) -> None:
    some = pictures(data, tmp_path, EPOCHS)
    mirrored, corners = [], set()
    for crop in np.concatenate([some.draw(0, step).crops for step in range(30)]):
        mirrored.append(crop[1, 0, 0] > crop[1, 0, -1])
        straight = crop[..., ::-1] if mirrored[-1] else crop
        y, x, i = (int(value) for value in straight[:, 0, 0] // [5, 5, 20])
        corners.add((y, x))
        np.testing.assert_array_equal(straight.transpose(1, 2, 0), picture(i)[y : y + 16, x : x + 16])
    assert np.mean(mirrored) == pytest.approx(0.5, abs=0.15)
    assert {y for y, _ in corners} >= {0, 20}
    assert len(corners) > 80


def test_timesteps_are_powers_of_a_stratified_draw(data: Path, tmp_path: Path) -> None:
    some = pictures(data, tmp_path, EPOCHS)
    t = np.stack([some.draw(0, step).t for step in range(300)])
    u = (t / 1000) ** (1 / 1.7)
    assert u.mean(0) == pytest.approx([0.125, 0.375, 0.625, 0.875], abs=0.02)
    assert np.mean(t < 100) == pytest.approx(0.1 ** (1 / 1.7), abs=0.02)


def test_photographs_are_decoded_once_and_again_when_the_shards_change(data: Path, tmp_path: Path) -> None:
    pictures(data, tmp_path, EPOCHS)
    kept = (tmp_path / "pictures.u8").stat().st_mtime_ns
    pictures(data, tmp_path, EPOCHS)
    assert (tmp_path / "pictures.u8").stat().st_mtime_ns == kept
    one = tmp_path / "one"
    one.mkdir()
    (one / "train-0.tar").write_bytes((data / "train-0.tar").read_bytes())
    assert len(pictures(one, tmp_path, EPOCHS)) == COUNT // 2


def test_pixels_that_a_killed_training_replaced_are_not_read_by_the_old_table(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(data, tmp_path, EPOCHS)

    def killed(path: Path) -> Any:
        if path.name == decoding.TABLE:
            raise KeyboardInterrupt
        return atomic_write(path)

    monkeypatch.setattr(decoding, "atomic_write", killed)
    with pytest.raises(KeyboardInterrupt):
        pictures(data, tmp_path, EPOCHS | {"shards": "train-1.tar"})
    monkeypatch.undo()
    whole = pictures(data, tmp_path, EPOCHS)
    assert len(whole.pixels) == sum(height * width * 3 for *_, height, width in whole.rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 1e-3}, "the recipe has no field 'lr'"),
        ({"optimiser": "sgd"}, 'optimiser must be "adamw" or "muon"; it is \'sgd\''),
        ({"rate": 0}, "rate must be a number above 0 to 100; it is 0"),
        ({"rate": "fast"}, "rate must be a number"),
        ({"warm_up": 1.5}, "warm_up must be a whole number above 0"),
        ({"batches": []}, "the shares of batches must sum to 1"),
        ({"batches": {}}, "batches must be a list"),
        ({"batches": [{"side": 16, "crops": 4}]}, "a kind of batch lacks share"),
        ({"batches": [{"side": 18, "crops": 4, "share": 1}]}, "side must be a multiple of 4"),
        ({"betas": [0.9]}, "betas must be two numbers"),
        ({"groups": {"sea": 0.5, "sky": 0.4, "land": 0}}, "the shares of groups must sum to 1; they sum to 0.9"),
        ({"groups": None}, "groups must be an object"),
        ({"index": None}, "groups and index need each other"),
        ({"network": RECIPE["network"] | {"in_channels": 10}}, "in_channels of the network must be 3, 12, 27 or 48"),
    ],
)
def test_a_field_that_is_wrong_is_named_in_one_sentence(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_recipe(written(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_what_the_data_lack_is_said_in_one_sentence(data: Path, tmp_path: Path) -> None:
    for changes, message in (
        ({"groups": {"sea": 0.6, "sky": 0.4}}, "groups must name those of train.tsv, no more and no fewer; see land"),
        ({"shards": "none-*.tar"}, "holds no none-*.tar"),
        (
            {"batches": [{"side": 64, "crops": 1, "share": 1}]},
            "0.png and 11 other photographs are smaller than 64 pixels",
        ),
    ):
        with pytest.raises(InputError) as caught:
            pictures(data, tmp_path, RECIPE | changes)
        assert message in str(caught.value)
    result = CliRunner().invoke(train.main, [str(written(tmp_path)), "--data", str(data)])
    assert result.output == "Error: a training needs a folder to write to: --out DIR\n"


def test_a_checkpoint_of_another_network_is_refused(data: Path, tmp_path: Path) -> None:
    trained(data, tmp_path / "out", "--crops", "4")
    wider = written(tmp_path, network=RECIPE["network"] | {"block_out_channels": [8, 24]})
    result = CliRunner().invoke(train.main, [str(wider), "--data", str(data), "--out", str(tmp_path / "out")])
    assert result.output == f"Error: the weights in {CHECKPOINT} are of another network than the recipe's\n"


def test_a_loss_that_is_no_number_leaves_the_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(data, tmp_path / "out", "--crops", "8")
    before = (tmp_path / "out" / CHECKPOINT).read_bytes()
    monkeypatch.setattr(Training, "step", lambda training, x0, t, noise: _advance(training, len(x0)))
    result = trained(data, tmp_path / "out", "--crops", "16", code=1)
    assert "the loss is not a finite number any more" in result.output
    assert (tmp_path / "out" / CHECKPOINT).read_bytes() == before


def _advance(training: Training, batch: int) -> Any:
    training.progress.crops += batch
    return torch.tensor(float("nan"))


def test_out_is_a_prior_of_the_average_and_a_start_for_others(data: Path, tmp_path: Path) -> None:
    trained(data, tmp_path / "out", "--crops", "40")
    row = json.loads((tmp_path / "out" / train.LOG).read_text().splitlines()[-1])
    prior = read_prior(tmp_path / "out")
    assert (prior.pixel_unshuffle, prior.scheduler["prediction_type"]) == (2, "v_prediction")
    recipe = written(tmp_path)
    asked = [str(recipe), "--data", str(data), "--evaluate", str(tmp_path / "out")]
    figures = json.loads(CliRunner().invoke(train.main, asked).output)
    assert {name: row[name] for name in figures} == pytest.approx(figures, rel=1e-3)

    trained(data, tmp_path / "more", "--init", str(tmp_path / "out"), "--seen", "40", "--crops", "44")
    training = Training(read_recipe(recipe), "cpu", bf16=False)
    training.load(tmp_path / "more")
    assert training.progress.start == 40
    learned = read_prior(tmp_path / "out").tensors()
    changes = [abs(training.weights[name].detach().numpy() - value).max() for name, value in learned.items()]
    assert 0 < max(changes) < 2 * RECIPE["rate"]


def test_weights_beyond_float16_are_not_written_and_the_checkpoint_is_no_later_than_the_prior(
    data: Path, tmp_path: Path
) -> None:
    trained(data, tmp_path / "out", "--crops", "4")
    before = [(tmp_path / "out" / name).read_bytes() for name in (WEIGHTS, CHECKPOINT)]
    training = Training(read_recipe(tmp_path / "recipe.json"), "cpu", bf16=False)
    training.load(tmp_path / "out")
    training.average["conv_in.bias"][0] = 1e6
    with pytest.raises(FrugalError, match=r"conv_in\.bias holds values beyond 65504, which float16 does not"):
        training.save(tmp_path / "out")
    assert [(tmp_path / "out" / name).read_bytes() for name in (WEIGHTS, CHECKPOINT)] == before


def test_a_second_training_into_one_folder_is_refused(data: Path, tmp_path: Path) -> None:
    with alone(tmp_path / "out"):
        refused = trained(data, tmp_path / "out", "--crops", "4", code=1)
    assert "another command is writing into" in refused.output


def test_a_training_starts_from_a_prior_of_other_widths(data: Path, tmp_path: Path) -> None:
    plain = RECIPE["network"] | {"add_attention": False}
    trained(data, tmp_path / "out", "--crops", "40", network=plain)
    wide = plain | {"block_out_channels": [12, 16]}
    trained(data, tmp_path / "wide", "--widen", str(tmp_path / "out"), "--crops", "4", network=wide)
    training = Training(read_recipe(tmp_path / "recipe.json"), "cpu", bf16=False)
    training.load(tmp_path / "wide")
    learned, now = read_prior(tmp_path / "out").tensors(), training.weights
    assert now["conv_in.weight"].shape == (12, 12, 3, 3)
    apart = (now["conv_out.bias"].detach() - torch.from_numpy(learned["conv_out.bias"]).float()).abs().max()
    assert 0 < apart < 2 * RECIPE["rate"]
    assert training.progress.crops == 4

    deeper = plain | {"layers_per_block": 2}
    asked = ["--widen", str(tmp_path / "out"), "--crops", "4"]
    refused = trained(data, tmp_path / "deep", *asked, network=deeper, code=1)
    assert "only the widths may differ: layers_per_block is 2, and was 1" in refused.output
    refused = trained(data, tmp_path / "both", *asked, "--init", str(tmp_path / "out"), network=wide, code=1)
    assert "a training starts from one prior: give --init or --widen" in refused.output
    config = tmp_path / "out/unet/config.json"
    for content, message in (
        ({"norm_num_groups": 3}, "cannot build the network by unet/config.json of out"),
        ({"block_out_channels": [8, 2**24]}, "the weights are of another network than that of unet/config.json of out"),
        ({"layers_per_block": "1"}, "cannot build the network by unet/config.json of out"),
    ):
        whole = config.read_text()
        config.write_text(json.dumps(json.loads(whole) | content))
        refused = trained(data, tmp_path / "odd", *asked, network=wide, code=1)
        config.write_text(whole)
        assert message in refused.output


def test_psnr_of_a_network_that_says_nothing() -> None:
    """v = 0 leaves x0hat = y / (1 + sigma^2), whose error on mid-grey is noise alone, where little is clipped."""
    grey = [np.full((64, 64, 3), 128, np.uint8)] * 2

    def silent(x: Any, t: Any, return_dict: bool) -> Any:
        return (torch.zeros_like(x),)

    measured = denoising.psnr(silent, grey, 2, "cpu")
    assert [*measured] == ["psnr_5", "psnr_10", "psnr_25", "psnr_50", "psnr_100"]
    for level in (5, 10, 25, 50):
        sigma = 2 * level / 255
        assert measured[f"psnr_{level}"] == pytest.approx(10 * math.log10(4 * (1 + sigma**2) ** 2 / sigma**2), abs=0.12)

"""guided-diffusion checkpoints: our mapping equals the architecture, written here as equations."""

import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from frugal_rt import ExportError, InputError, Plan
from frugal_rt.cli import main
from frugal_rt.engines import open_engine
from frugal_rt.engines.betas import train_betas
from frugal_rt.engines.torch.network import build_network, load_weights
from frugal_rt.export import build_plan, open_prior

SMALL = {"channels": 32, "mult": (1, 2), "blocks": 1, "attention": (1,), "updown": True, "shift": True, "out": 6}
ARCH = "adm:size=16,head_channels=16"


def reference(state, x, t, c, head, qkv="legacy"):
    """The ADM UNet after Dhariwal and Nichol (2021), appendix C, as equations over a state dict.

    c: channels, mult (of each level), blocks a level, attention (levels), updown (residual blocks resample), shift
    (scale and shift by the timestep). head: channels of an attention head.
    """
    F, width = torch.nn.functional, c["channels"]

    def conv(h, name, **how):
        return F.conv2d(h, state[f"{name}.weight"], state[f"{name}.bias"], **how)

    def linear(h, name):
        return F.linear(h, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(h, name):
        return F.group_norm(h, 32, state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)

    frequencies = torch.exp(-math.log(10000) * torch.arange(width // 2, dtype=x.dtype) / (width // 2))
    angles = t[:, None] * frequencies
    emb = linear(torch.cat([angles.cos(), angles.sin()], 1), "time_embed.0")
    emb = F.silu(linear(F.silu(emb), "time_embed.2"))

    def residual(h, name, resample=lambda h: h):
        new = resample(F.silu(norm(h, f"{name}.in_layers.0")))
        new = conv(new, f"{name}.in_layers.2", padding=1)
        e = linear(emb, f"{name}.emb_layers.1")[:, :, None, None]
        if c["shift"]:
            scale, shift = e.split(new.shape[1], 1)
            new = norm(new, f"{name}.out_layers.0") * (1 + scale) + shift
        else:
            new = norm(new + e, f"{name}.out_layers.0")
        new, h = conv(F.silu(new), f"{name}.out_layers.3", padding=1), resample(h)
        return new + (conv(h, f"{name}.skip_connection") if f"{name}.skip_connection.weight" in state else h)

    def attention(h, name):
        rows, w, pixels = len(h), h.shape[1], h.shape[2:]
        flat = F.conv1d(norm(h, f"{name}.norm").flatten(2), state[f"{name}.qkv.weight"], state[f"{name}.qkv.bias"])
        if qkv == "legacy":  # (q, k, v) of head 1, (q, k, v) of head 2, ...
            q, k, v = flat.reshape(rows, w // head, 3, head, -1).unbind(2)
        else:
            q, k, v = flat.reshape(rows, 3, w // head, head, -1).unbind(1)
        weights = torch.einsum("rhcq,rhck->rhqk", q, k).div(math.sqrt(head)).softmax(-1)
        mixed = torch.einsum("rhqk,rhck->rhcq", weights, v).reshape(rows, w, -1)
        mixed = F.conv1d(mixed, state[f"{name}.proj_out.weight"], state[f"{name}.proj_out.bias"])
        return h + mixed.reshape(rows, w, *pixels)

    def halve(h):
        return F.avg_pool2d(h, 2)

    def double(h):
        return h.repeat_interleave(2, 2).repeat_interleave(2, 3)

    h = conv(x, "input_blocks.0.0", padding=1)
    skips, place, last = [h], 0, len(c["mult"]) - 1
    for level in range(last + 1):
        for _ in range(c["blocks"]):
            place += 1
            h = residual(h, f"input_blocks.{place}.0")
            h = attention(h, f"input_blocks.{place}.1") if level in c["attention"] else h
            skips.append(h)
        if level < last:
            place += 1
            name = f"input_blocks.{place}.0"
            h = residual(h, name, halve) if c["updown"] else conv(h, f"{name}.op", stride=2, padding=1)
            skips.append(h)
    h = residual(attention(residual(h, "middle_block.0"), "middle_block.1"), "middle_block.2")
    place = -1
    for level in range(last, -1, -1):
        for block in range(c["blocks"] + 1):
            place += 1
            h = residual(torch.cat([h, skips.pop()], 1), f"output_blocks.{place}.0")
            h = attention(h, f"output_blocks.{place}.1") if level in c["attention"] else h
            if level and block == c["blocks"]:
                name = f"output_blocks.{place}.{2 if level in c['attention'] else 1}"
                h = residual(h, name, double) if c["updown"] else conv(double(h), f"{name}.conv", padding=1)
    assert not skips
    return conv(F.silu(norm(h, "out.0")), "out.2", padding=1)


CONFIGS = {
    "FFHQ's kind": {},
    "convolutions resample": {"updown": False},
    "2 blocks a level": {"blocks": 2},
    "attention at every level": {"attention": (0, 1)},
    "3 levels, 2 of them attend": {"mult": (1, 1, 2), "attention": (1, 2), "blocks": 2, "updown": False},
    "attention in the middle alone": {"attention": ()},
    "no learned variance": {"out": 3},
    "no scale": {"shift": False},
}


def both(path, config, arch, qkv="legacy", heads=16):
    """Our network's output and the reference's, in float64."""
    prior = open_prior(path, arch)
    network = build_network({"config": prior.unet, "pixel_unshuffle": 1, "learned_variance": False})
    load_weights(network, {f"unet.{name}": tensor for name, tensor in prior.tensors().items()}, "test")
    random = torch.Generator().manual_seed(1)
    x, t = torch.randn(3, 3, 16, 16, generator=random, dtype=torch.float64), torch.tensor([0, 37, 999])
    with torch.no_grad():
        state = {name: tensor.double() for name, tensor in torch.load(path, weights_only=True).items()}
        return network.double()(x, t), reference(state, x, t, config, heads, qkv)


def distance(a, b):
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_the_mapped_network_is_the_architecture(adm_checkpoint, changes):
    config = SMALL | changes
    ours, theirs = both(adm_checkpoint(**config), config, ARCH)
    assert theirs.shape[1] == config["out"]
    assert distance(ours, theirs) < 1e-4


def test_both_orders_of_queries_keys_and_values(adm_checkpoint):
    path = adm_checkpoint(**SMALL)
    assert distance(*both(path, SMALL, f"{ARCH},qkv=new", "new")) < 1e-4
    assert distance(*both(path, SMALL, f"{ARCH},qkv=new", "legacy")) > 1e-3
    assert distance(*both(path, SMALL, "adm:size=16,head_channels=32", heads=32)) < 1e-4
    assert distance(*both(path, SMALL, "adm:size=16,head_channels=32", heads=16)) > 1e-3


@pytest.mark.parametrize("prefix", ["module.", "model."])
def test_names_under_a_wrapper_are_read_without_it(adm_checkpoint, tmp_path, prefix):
    path = adm_checkpoint(**SMALL)
    state = torch.load(path, weights_only=True)
    torch.save({f"{prefix}{name}": tensor for name, tensor in state.items()}, tmp_path / "wrapped.pt")
    plain, wrapped = open_prior(path, ARCH).tensors(), open_prior(tmp_path / "wrapped.pt", ARCH).tensors()
    assert plain.keys() == wrapped.keys()
    for name, tensor in plain.items():
        np.testing.assert_array_equal(wrapped[name], tensor)
    torch.save(
        {**{f"{prefix}{name}": tensor for name, tensor in state.items()}, "step": torch.zeros(1)}, tmp_path / "x.pt"
    )
    with pytest.raises(ExportError, match=rf"the network's tensors begin with '{prefix}', and others are beside them"):
        open_prior(tmp_path / "x.pt", ARCH)


def test_the_published_checkpoints_need_no_settings(adm_checkpoint):
    """Sizes and heads of a narrow network with the levels of the published 256x256 ones."""
    deep = {**SMALL, "channels": 32, "mult": (1, 1, 2, 2, 4, 4), "attention": (4,)}
    prior = open_prior(adm_checkpoint(**deep), "adm")
    assert prior.size == 256
    assert prior.unet["attention_head_dim"] == 64
    assert prior.learned_variance
    assert prior.scheduler["variance_type"] == "learned_range"
    plain = "ResnetDownsampleBlock2D"
    assert prior.unet["down_block_types"] == [plain, plain, plain, plain, "AttnDownBlock2D", plain]


@pytest.mark.parametrize(("noise", "settings"), [("linear", {}), ("cosine", {"noise": "cosine"})])
def test_the_betas_are_those_of_guided_diffusion(adm_checkpoint, noise, settings):
    """Linear unless said otherwise; cosine is Nichol and Dhariwal (2021), eq. 17, with their limit of 0.999."""
    arch = ",".join([ARCH, *(f"{key}={value}" for key, value in settings.items())])
    i = np.arange(1001) / 1000
    f = np.cos((i + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = {"linear": np.linspace(1e-4, 0.02, 1000), "cosine": np.minimum(1 - f[1:] / f[:-1], 0.999)}[noise]
    np.testing.assert_allclose(train_betas(open_prior(adm_checkpoint(**SMALL), arch).scheduler), betas, rtol=1e-9)


def test_from_a_checkpoint_to_a_restored_picture(adm_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = adm_checkpoint(**SMALL)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save("clean.png")
    for command in (
        ["export", "--weights", str(path), "--arch", ARCH, "-o", "adm.plan"],
        ["degrade", "clean.png", "--task", "inpaint", "--hole", "6x6", "-o", "y.png"],
        ["restore", "-e", "adm.plan", "y.png", "--steps", "3", "-o", "x.png"],
    ):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
    with Image.open("x.png") as restored:
        assert restored.size == (16, 16)
    told = CliRunner().invoke(main, ["inspect", "adm.plan"]).output
    assert "linear, 1000 steps, predicts epsilon, variance learned_range" in told
    x, t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)), torch.tensor([3, 800])
    out, variance = open_engine(Plan.open("adm.plan"), "cpu").predict(x.numpy(), t.numpy())
    assert variance is not None
    expected = reference(torch.load(path, weights_only=True), x, t, SMALL, 16)
    assert distance(torch.tensor(np.concatenate([out, variance], 1)), expected) < 1e-4


@pytest.mark.long
def test_a_network_as_deep_as_the_one_of_imagenet_is_exported(adm_checkpoint):
    """ImageNet's and LSUN's 256x256 architecture, an eighth as wide: 30 residual blocks and 16 attentions in a row."""
    config = {**SMALL, "mult": (1, 1, 2, 2, 4, 4), "blocks": 2, "attention": (3, 4, 5)}
    path = adm_checkpoint(**config)
    engine = open_engine(build_plan(open_prior(path, "adm:size=32,head_channels=16"), precisions=()), "cpu")
    x, t = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)), torch.tensor([3, 800])
    (out, variance), pull = engine.pullback(x.numpy(), t.numpy())
    leaf = x.clone().requires_grad_()
    expected = reference(torch.load(path, weights_only=True), leaf, t, config, 16)
    assert distance(torch.tensor(np.concatenate([out, variance], 1)), expected.detach()) < 1e-4
    (gradient,) = torch.autograd.grad(expected[:, :3], leaf, x)
    assert distance(torch.tensor(pull(x.numpy())), gradient) < 1e-4


class Code:
    """An object that runs something when it is unpickled."""

    def __reduce__(self):
        return print, ("ran",)


def test_code_in_a_checkpoint_is_not_run(tmp_path, capsys):
    torch.save({"input_blocks.0.0.weight": Code()}, tmp_path / "x.pt")
    with pytest.raises(ExportError, match=r"^x\.pt holds more than weights, and pickled code is never run; save its"):
        open_prior(tmp_path / "x.pt", "adm")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            lambda s: s.pop("middle_block.1.norm.bias"),
            r"lacks the tensor middle_block\.1\.norm\.bias, \(64,\), which the other tensors ask for",
        ),
        (
            lambda s: s.update({"input_blocks.1.0.in_layers.2.weight": torch.zeros(32, 32, 1, 1)}),
            r"input_blocks\.1\.0\.in_layers\.2\.weight is \(32, 32, 1, 1\); it should be \(32, 32, 3, 3\)",
        ),
        (
            lambda s: s.update({"output_blocks.1.1.qkv.weight": torch.zeros(192, 64)}),
            r"output_blocks\.1\.1\.qkv\.weight is \(192, 64\); it should be \(192, 64, 1\)",
        ),
        (lambda s: s.update(extra=torch.zeros(2)), r"an ADM UNet has no place for extra, \(2,\)"),
        (lambda s: s.update({"label_emb.weight": torch.zeros(10, 128)}), "is class-conditional"),
        (lambda s: s.pop("out.2.weight"), r"is no checkpoint of a whole ADM UNet: there is no tensor out\.2\.weight"),
        (
            lambda s: s.update({"out.2.weight": torch.zeros(6)}),
            r"the tensor out\.2\.weight is \(6,\); it should have 4 dimensions",
        ),
        (
            lambda s: [s.pop(name) for name in list(s) if name.startswith("input_blocks.2.")],
            "conv_resample False.*cannot express",
        ),
        (
            lambda s: [s.pop(name) for name in list(s) if name.startswith("output_blocks.3.")],
            "4 input and 3 output blocks are not 2 levels of the same number",
        ),
        (
            lambda s: s.update({"time_embed.0.weight": torch.zeros(128, 64)}),
            "the time embedding takes 64 channels.*UNet2DModel needs one number",
        ),
        (lambda s: (s.clear(), s.update(state=dict(s))), "state is not a tensor; save the state dict"),
        (lambda s: s.clear(), "holds no tensors by name"),
    ],
)
def test_what_does_not_fit_is_named(adm_checkpoint, tmp_path, damage, sentence):
    state = torch.load(adm_checkpoint(**SMALL), weights_only=True)
    damage(state)
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(ExportError, match=rf"^x\.pt\b.*{sentence}"):
        open_prior(tmp_path / "x.pt", ARCH)


@pytest.mark.parametrize(
    ("arch", "error", "sentence"),
    [
        (None, InputError, r"does not tell its architecture; for one of guided-diffusion say --arch adm"),
        ("unet", InputError, "the architecture 'unet' is not known; it is adm"),
        ("adm:heads=4", InputError, "the architecture 'adm:heads=4' is not known"),
        ("adm:size=0", InputError, "is not known"),
        ("adm:noise=sigmoid", InputError, r"is not known; it is adm, or adm with settings .*,noise=cosine$"),
        ("adm", InputError, r"does not tell the size of its images; say --arch adm:size=N, a multiple of 2"),
        ("adm:size=15", InputError, "a multiple of 2"),
        ("adm:size=16,head_channels=48", InputError, "attention over 64 channels cannot have heads of 48"),
    ],
)
def test_settings_that_do_not_fit_are_refused(adm_checkpoint, arch, error, sentence):
    with pytest.raises(error, match=sentence):
        open_prior(adm_checkpoint(**SMALL), arch)


def test_what_is_no_checkpoint_is_refused(tmp_path, make_prior):
    with pytest.raises(InputError, match=r"there is no file .*x\.pt; give a \.pt checkpoint or a folder"):
        open_prior(tmp_path / "x.pt", "adm")
    for content in (b"", b"text", b"PK\x03\x04 and then nothing"):
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(ExportError, match=r"^x\.pt (is damaged|holds more than weights)"):
            open_prior(tmp_path / "x.pt", "adm")
    with pytest.raises(InputError, match="is a folder, whose config tells its architecture; leave out --arch"):
        open_prior(make_prior(), "adm")

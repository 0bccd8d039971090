"""How the weights beside this file were made: `python export/priors/celeba/train.py --data DIR --out DIR`.

An unconditional DDPM by v-prediction on 64x64 faces. One process; a CUDA device where torch sees one, else the CPU.
Interrupted, the same command goes on from its last checkpoint and arrives at the same weights: what a step draws
depends on the seed and the step alone.
"""

import csv
import io
import json
import math
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from PIL import Image
from safetensors.torch import load_file, save

from frugal_rt.engines.files import atomic_write

HERE = Path(__file__).parent
UNSHUFFLE = 2
"""The UNet sees 2x2 pixel-unshuffled images: 12 channels at 32x32, a quarter of the work of 64x64."""
WEIGHTS = "diffusion_pytorch_model.safetensors"
CHECKPOINT = "checkpoint.pt"
EVERY = 9600
"""Images between two validations, each followed by a checkpoint."""
WARMUP = 6400
"""Images over which the learning rate rises to its peak."""
VALIDATION_PAIRS = 400
LOSS_FLOOR = 0.2
"""See loss_of."""


def abar_table() -> torch.Tensor:
    """abar_t of the linear schedule, betas 1e-4..0.02, 1000 steps, float64."""
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def read_shard(path: Path) -> np.ndarray:
    """The photographs of a tar file, (N, 3, 64, 64) uint8, in the order of the file."""
    images = []
    with tarfile.open(path) as shard:
        for member in shard:
            if member.isfile() and member.name.lower().endswith((".jpg", ".png")):
                with Image.open(io.BytesIO(shard.extractfile(member).read())) as image:  # type: ignore[union-attr]
                    images.append(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
    if not images:
        raise click.ClickException(f"{path.name} holds no photograph")
    return np.stack(images)


def as_input(images: np.ndarray) -> torch.Tensor:
    """uint8 (B, 3, 64, 64) to what the UNet sees: (B, 12, 32, 32) on [-1, 1]."""
    return torch.nn.functional.pixel_unshuffle(torch.from_numpy(images).float() / 127.5 - 1, UNSHUFFLE)


def batches(images: np.ndarray, batch: int, seed: int, step: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """x0, t and noise of every step from `step` on: epochs without replacement, random flips, t stratified."""
    a_epoch = len(images) // batch
    while True:
        epoch, position = divmod(step, a_epoch)
        order = np.random.default_rng((seed, epoch)).permutation(len(images))
        while position < a_epoch:
            draw = np.random.default_rng((seed, epoch, position))
            chosen = images[order[position * batch : (position + 1) * batch]]
            chosen = np.where(draw.random((batch, 1, 1, 1)) < 0.5, chosen[..., ::-1], chosen)
            t = (np.arange(batch) + draw.random(batch)) * (1000 / batch)
            noise = draw.standard_normal((batch, 12, 32, 32), dtype=np.float32)
            yield as_input(chosen), torch.from_numpy(t.astype(np.int64)), torch.from_numpy(noise)
            position, step = position + 1, step + 1


def diffuse(x0: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """x_t = sqrt(abar) x0 + sqrt(1-abar) eps; v = sqrt(abar) eps - sqrt(1-abar) x0; and abar, (B, 1, 1, 1)."""
    abar = abar_table()[t.cpu()].float().to(x0.device).view(-1, 1, 1, 1)
    return abar.sqrt() * x0 + (1 - abar).sqrt() * noise, abar.sqrt() * noise - (1 - abar).sqrt() * x0, abar


def loss_of(network: Any, x0: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Mean of max(abar_t, LOSS_FLOOR) ||v - v_theta||^2.

    abar_t ||v - v_theta||^2 is the usual error of eps. Alone it forgets the noisiest steps, where it vanishes with
    abar_t although all of an image's colour and layout is decided there: hence the floor.
    """
    xt, v, abar = diffuse(x0, t, noise)
    with torch.autocast(x0.device.type, torch.bfloat16):
        out = network(xt, t, return_dict=False)[0]
    return (abar.clamp(min=LOSS_FLOOR) * (out.float() - v) ** 2).mean()


@torch.inference_mode()
def validate(network: Any, prediction: str, images: np.ndarray, device: str) -> dict[str, float]:
    """Mean squared errors on fixed images, timesteps and noise, float32: of eps, and of x0 on [-1, 1] by thirds of t.

    VALIDATION_PAIRS pairs: timesteps evenly spread over the training range, photographs in turn.
    """
    draw = np.random.default_rng(20)
    steps = torch.from_numpy(np.linspace(0, 999, VALIDATION_PAIRS).astype(np.int64))
    noise = torch.from_numpy(draw.standard_normal((VALIDATION_PAIRS, 12, 32, 32), dtype=np.float32))
    x0 = as_input(images[np.arange(VALIDATION_PAIRS) % len(images)])
    eps_errors, x0_errors = [], []
    for rows in torch.arange(VALIDATION_PAIRS).split(20):
        clean, t, eps = x0[rows].to(device), steps[rows].to(device), noise[rows].to(device)
        xt, _, abar = diffuse(clean, t, eps)
        out = network(xt, t, return_dict=False)[0].float()
        guess = abar.sqrt() * out + (1 - abar).sqrt() * xt if prediction == "v_prediction" else out
        x0hat = ((xt - (1 - abar).sqrt() * guess) / abar.sqrt()).clamp(-1, 1)
        eps_errors.append((guess - eps).square().mean((1, 2, 3)))
        x0_errors.append((x0hat - clean).square().mean((1, 2, 3)))
    third = VALIDATION_PAIRS // 3
    x0_error = torch.cat(x0_errors)
    return {
        "eps": torch.cat(eps_errors).mean().item(),
        "x0_low_noise": x0_error[:third].mean().item(),
        "x0_mid_noise": x0_error[third : 2 * third].mean().item(),
        "x0_high_noise": x0_error[2 * third :].mean().item(),
    }


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(content)


def as_json(config: dict[str, Any]) -> bytes:
    return json.dumps(config, indent=2).encode() + b"\n"


def write_prior(out: Path, config: dict[str, Any], ema: dict[str, torch.Tensor]) -> None:
    """The folder `frugal-rt export --weights` reads: EMA weights in float16, and the two configs."""
    half = {name: tensor.detach().to("cpu", torch.float16).contiguous() for name, tensor in ema.items()}
    scheduler = json.loads((HERE / "scheduler/scheduler_config.json").read_text()) | {"prediction_type": "v_prediction"}
    write(out / "unet" / WEIGHTS, save(half))
    write(out / "unet/config.json", as_json(config))
    write(out / "scheduler/scheduler_config.json", as_json(scheduler))


FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@click.option("--data", type=FOLDER, required=True, help="Folder with train-*.tar and tune-100.tar.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the prior and checkpoints.")
@click.option("--init", type=FOLDER, help="Prior of the same architecture to start from.  [default: random weights]")
@click.option("--images", type=int, default=200_000, show_default=True, help="Images to see in all.")
@click.option("--batch", type=int, default=32, show_default=True)
@click.option("--lr", type=float, default=6e-4, show_default=True, help="Peak; warm-up, then cosine to zero.")
@click.option("--ema", type=float, default=0.9995, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--threads", type=int, help="torch threads on the CPU.  [default: torch's]")
@click.option("--compile", "compiled", is_flag=True, help="torch.compile: pays on CUDA, not on two CPU cores.")
def main(
    data: Path,
    out: Path,
    init: Path | None,
    images: int,
    batch: int,
    lr: float,
    ema: float,
    seed: int,
    threads: int | None,
    compiled: bool,
) -> None:
    """Train the celeba prior, or go on where OUT's checkpoint stopped."""
    if threads:
        torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    config = json.loads((HERE / "unet/config.json").read_text())
    network = UNet2DModel.from_config(config).to(device)
    if device == "cuda":
        network = network.to(memory_format=torch.channels_last)
    shards = sorted(data.glob("train-*.tar"))
    if not shards:
        raise click.ClickException(f"{data} holds no train-*.tar")
    photographs = np.concatenate([read_shard(path) for path in shards])
    if len(photographs) < batch:
        raise click.ClickException(f"{data} holds {len(photographs)} photographs, fewer than a batch of {batch}")
    held_out = read_shard(data / "tune-100.tar")
    click.echo(f"{len(photographs)} photographs, {sum(p.numel() for p in network.parameters()) / 1e6:.1f} M parameters")

    out.mkdir(parents=True, exist_ok=True)
    average = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    optimiser = torch.optim.AdamW(network.parameters(), lr=lr, fused=True)
    step = 0
    if (out / CHECKPOINT).exists():
        saved = torch.load(out / CHECKPOINT, map_location=device, weights_only=True)
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        average, step = saved["average"], saved["step"]
        click.echo(f"going on from step {step}")
    elif init is not None:
        network.load_state_dict({name: tensor.float() for name, tensor in load_file(init / "unet" / WEIGHTS).items()})
        average = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        prediction = json.loads((init / "scheduler/scheduler_config.json").read_text())["prediction_type"]
        click.echo(f"{init.name}: {_format(validate(network, prediction, held_out, device))}")

    shadow = UNet2DModel.from_config(config).to(device).eval().requires_grad_(False)
    model = torch.compile(network) if compiled else network
    steps, began, losses = images // batch, time.monotonic(), []
    for x0, t, noise in batches(photographs, batch, seed, step):
        if step >= steps:
            break
        seen = step * batch
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1, (seen + batch) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss = loss_of(model, x0.to(device), t.to(device), noise.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
        step += 1
        decay = min(ema, (1 + step) / (10 + step))  # forgets the start sooner than a constant would
        for name, tensor in network.state_dict().items():
            average[name].lerp_(tensor, 1 - decay)
        if step * batch // EVERY > seen // EVERY or step == steps:
            shadow.load_state_dict(average)
            row = {"images": step * batch, "train_loss": float(np.mean(losses))}
            row |= validate(shadow, "v_prediction", held_out, device)
            _append(out / "loss.csv", row)
            state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "average": average}
            with atomic_write(out / CHECKPOINT) as file:
                torch.save(state | {"step": step}, file)
            write_prior(out, config, average)
            rate = len(losses) * batch / (time.monotonic() - began)
            click.echo(f"{_format(row)}  {rate:.1f} images/s")
            began, losses = time.monotonic(), []


def _append(path: Path, row: dict[str, float]) -> None:
    """Add a row to the loss curve; rows a resumed run computes again are dropped."""
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    rows = [old for old in rows if int(old["images"]) < row["images"]] + [{k: _number(v) for k, v in row.items()}]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue().encode())


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.5f}"


def _format(row: dict[str, float]) -> str:
    return "  ".join(f"{name} {_number(value)}" for name, value in row.items())


if __name__ == "__main__":
    main()

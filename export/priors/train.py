"""The trainer of the embedded priors.

    python export/priors/train.py export/priors/photo/recipe.json --data DIR --out DIR

trains an unconditional DDPM by v-prediction as the recipe says, on a CUDA device where torch sees one, else on the CPU.
After an interruption the same command continues from OUT's checkpoint and gives the same weights: the random numbers of
a step depend on the seed and the step alone. The learning rate is constant until --cool-down lowers it to zero, which
may begin at any crop. To keep training without a cool-down as well, copy OUT's checkpoint into another folder first. At
every checkpoint OUT is a prior in diffusers' layout: the average of the weights, in float16. --widen starts a network
of other widths near what a trained one computes.
"""

import json
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Any

import click
import numpy as np
import torch

from frugal_rt.engines.errors import FrugalError, InputError
from frugal_rt.engines.files import alone
from frugal_rt.export.priors.training.denoising import errors, psnr
from frugal_rt.export.priors.training.pictures import Pictures, read_held_out
from frugal_rt.export.priors.training.recipe import Recipe, read_recipe
from frugal_rt.export.priors.training.state import CHECKPOINT, Training, build_network

LOG = "log.jsonl"
CHECKPOINT_SECONDS = 600


@dataclass
class Meter:
    """Loss and speed since the last line of the log."""

    device: str
    steps: int = 0
    crops: int = 0
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.loss = torch.zeros((), device=self.device)

    def add(self, loss: torch.Tensor, crops: int) -> None:
        """Count a step. The loss is summed on its device, which avoids a synchronisation."""
        self.loss += loss
        self.steps, self.crops = self.steps + 1, self.crops + crops

    def row(self) -> dict[str, float]:
        """Return the mean loss and the crops a second. Raises FrugalError where the loss is not finite."""
        if not torch.isfinite(self.loss):
            raise FrugalError("the loss is not a finite number any more; go on from the checkpoint at a lower rate")
        seconds = time.monotonic() - self.began
        return {"loss": self.loss.item() / max(1, self.steps), "crops_per_second": self.crops / seconds}


def figures(network: Any, recipe: Recipe, held_out: list[np.ndarray], device: str) -> dict[str, float]:
    """Measure the errors of the network and its one-shot denoising on the held-out photographs."""
    r = recipe.unshuffle
    return psnr(network, held_out, r, device) | errors(network, held_out, recipe.batches[0].side, r, device)


def run(
    training: Training,
    pictures: Pictures,
    held_out: list[np.ndarray],
    out: Path,
    seed: int,
    last: int | None,
    every: int,
) -> None:
    """Train until `last` crops are seen, SIGTERM or Ctrl-C; measure every `every` crops and at the end.

    Raises FrugalError where the loss is no longer finite; the last checkpoint stays.
    """
    recipe, progress, device = training.recipe, training.progress, training.device
    shadow = build_network(recipe, device).eval().requires_grad_(False)
    signals: list[int] = []
    handlers = {one: signal.signal(one, lambda number, _: signals.append(number)) for one in (SIGTERM, SIGINT)}
    meter, saved_at, saved = Meter(device), time.monotonic(), progress.step
    try:
        while not signals and (last is None or progress.crops < last):
            draw, before = pictures.draw(seed, progress.step), progress.crops
            meter.add(training.step_on(draw), len(draw.crops))
            ended = last is not None and progress.crops >= last
            measured = ended or progress.crops // every > before // every
            if measured or time.monotonic() - saved_at > CHECKPOINT_SECONDS:
                row = {"crops": progress.crops, "rate": progress.rate(recipe, len(draw.crops)), **meter.row()}
                training.save(out)
                saved_at, saved = time.monotonic(), progress.step
            if measured:
                shadow.load_state_dict(training.average)
                _log(out / LOG, row | figures(shadow, recipe, held_out, device))
                meter = Meter(device)
        if progress.step != saved:
            meter.row()
            training.save(out)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _log(path: Path, row: dict[str, float]) -> None:
    line = json.dumps({name: value if isinstance(value, int) else float(f"{value:.5g}") for name, value in row.items()})
    with path.open("a") as file:
        file.write(line + "\n")
    click.echo(line)


FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@click.argument("recipe_path", metavar="RECIPE", type=click.Path(path_type=Path))
@click.option("--data", type=FOLDER, required=True, help="Folder of the photographs that the recipe names.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for checkpoint, log, prior and decoded pictures.")
@click.option("--init", type=FOLDER, help="Prior of the same network to start from.  [default: random weights]")
@click.option("--widen", type=FOLDER, help="Prior to start from whose network differs in its widths alone.")
@click.option("--seen", type=click.IntRange(0), default=0, help="Crops that the weights of --init have seen.")
@click.option("--crops", type=click.IntRange(1), help="Crops to see in all.  [default: until stopped, or at rate zero]")
@click.option("--cool-down", type=click.IntRange(1), help="Bring the rate to zero over so many crops from here.")
@click.option("--every", type=click.IntRange(1), default=25_600, show_default=True, help="Crops between measurements.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="torch threads on the CPU.  [default: torch's]")
@click.option("--bf16/--fp32", default=None, help="Precision of the network.  [default: bf16 on CUDA and with AMX]")
@click.option("--compile", "compiled", is_flag=True, help="torch.compile: pays on CUDA, not on two CPU cores.")
@click.option("--evaluate", type=FOLDER, help="Only measure the prior in this folder.")
@click.option("--held-out", help="Photographs in DATA to measure on.  [default: the recipe's]")
def main(
    recipe_path: Path,
    data: Path,
    out: Path | None,
    init: Path | None,
    widen: Path | None,
    seen: int,
    crops: int | None,
    cool_down: int | None,
    every: int,
    seed: int,
    threads: int | None,
    bf16: bool | None,
    compiled: bool,
    evaluate: Path | None,
    held_out: str | None,
) -> None:
    """Train a prior by RECIPE, or continue from OUT's checkpoint."""
    if threads:
        torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if bf16 is None:  # without AMX it depends on the CPU: slower on a Xeon, 1.7 times as fast on an EPYC of family 25
        bf16 = device == "cuda" or torch.cpu._is_amx_tile_supported()
    torch.manual_seed(seed)
    try:
        recipe = read_recipe(recipe_path)
        measured = read_held_out(data / (held_out or recipe.held_out), recipe)
        training = Training(recipe, device, bf16, compiled)
        if evaluate is not None:
            training.start_from(evaluate, seen)
            click.echo(json.dumps(figures(training.network.eval(), recipe, measured, device)))
            return
        if init is not None and widen is not None:
            raise InputError("a training starts from one prior: give --init or --widen")
        if out is None:
            raise InputError("a training needs a folder to write to: --out DIR")
        with alone(out):
            pictures = Pictures(data, recipe, out)
            if (out / CHECKPOINT).exists():
                training.load(out)
            elif init is not None:
                training.start_from(init, seen)
            elif widen is not None:
                training.widen(widen, seed)
            if cool_down is not None and recipe.cosine is not None:
                raise InputError("the recipe's rate falls along a cosine; leave out --cool-down")
            if cool_down is not None:
                training.progress.begin_cool_down(cool_down)
            ends = [end for end in (crops, training.progress.end(recipe)) if end is not None]
            click.echo(f"{len(pictures)} photographs; going on from crop {training.progress.crops} on {device}")
            run(training, pictures, measured, out, seed, min(ends, default=None), every)
    except FrugalError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()

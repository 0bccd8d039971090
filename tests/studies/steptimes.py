"""Does the hybrid cost what its network calls cost? Batch 1, DPS, DMPS and the hybrid in turn, several rounds.

python tests/studies/steptimes.py --engine celeba.plan --switch auto
"""

from pathlib import Path

import click
import numpy as np

from frugal_rt import Restorer
from frugal_rt.runtime.evaluation import demo


@click.command(help=__doc__)
@click.option("--engine", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--steps", default=100)
@click.option("--switch", default="auto", help="auto, or k, the DMPS steps of the hybrid.")
@click.option("--rounds", default=7)
@click.option("--backend", default="auto")
def main(engine: Path, steps: int, switch: str, rounds: int, backend: str) -> None:
    restorer = Restorer.load(engine, backend)
    measured = demo.measure(restorer, demo.SHOWN[0], seed=0)

    def restore(by: str):
        return restorer.restore(measured.y, measured.operator, sigma=demo.SIGMA, steps=steps, switch=by)

    hybrid = restore(switch)  # loads torch and warms both up
    forwards, gradients = hybrid.forwards[0], hybrid.pullbacks[0]
    taken = np.array([[sum(restore(by).seconds.values()) for by in ("never", "always", switch)] for _ in range(rounds)])
    dps_step, dmps_step, seconds = taken[:, 0] / steps, taken[:, 1] / steps, taken[:, 2]
    # A DPS step is a forward call and a gradient, a DMPS step a forward call.
    predicted = forwards * dmps_step + gradients * (dps_step - dmps_step)
    click.echo(
        f"{restorer.engine.name}, T = {steps}, switch {switch}: k = {hybrid.k[0]}, {forwards} forward calls, "
        f"{gradients} gradients; {rounds} rounds, medians (least..most)"
    )
    for name, values, unit in (
        ("DPS step", 1e3 * dps_step, " ms"),
        ("DMPS step", 1e3 * dmps_step, " ms"),
        ("DPS step / DMPS step", dps_step / dmps_step, ""),
        ("DPS", taken[:, 0], " s"),
        ("DMPS", taken[:, 1], " s"),
        ("hybrid", seconds, " s"),
        ("hybrid by its calls", predicted, " s"),
        ("hybrid / DPS", seconds / taken[:, 0], ""),
        ("measured / predicted", seconds / predicted, ""),
    ):
        click.echo(f"{name}: {np.median(values):.3f}{unit} ({values.min():.3f}..{values.max():.3f})")


if __name__ == "__main__":
    main()

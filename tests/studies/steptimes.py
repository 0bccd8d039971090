"""Compare the time of `frugal` with that of its network calls: DPS, the closed form and `frugal` in turn, batch 1.

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
@click.option("--switch", default="auto", help="auto, or k, the steps without a gradient.")
@click.option("--rounds", default=7)
@click.option("--backend", default="auto")
def main(engine: Path, steps: int, switch: str, rounds: int, backend: str) -> None:
    restorer = Restorer.load(engine, backend)
    measured = demo.measure(restorer, demo.SHOWN[0], seed=0)

    def restore(method: str):
        k = switch if method == "frugal" else None
        return restorer.restore(measured.y, measured.operator, sigma=demo.SIGMA, steps=steps, method=method, switch=k)

    frugal = restore("frugal")  # loads torch and warms both up
    forwards, gradients = frugal.forwards[0], frugal.gradients[0]
    methods = ("dps", "closed-form", "frugal")
    taken = np.array([[sum(restore(one).seconds.values()) for one in methods] for _ in range(rounds)])
    dps_step, dmps_step, seconds = taken[:, 0] / steps, taken[:, 1] / steps, taken[:, 2]
    # A DPS step is a forward call and a gradient, a closed-form step a forward call.
    predicted = forwards * dmps_step + gradients * (dps_step - dmps_step)
    click.echo(
        f"{restorer.engine.name}, T = {steps}, switch {switch}: k = {frugal.k[0]}, {forwards} forward calls, "
        f"{gradients} gradients; {rounds} rounds, medians (least..most)"
    )
    for name, values, unit in (
        ("DPS step", 1e3 * dps_step, " ms"),
        ("closed-form step", 1e3 * dmps_step, " ms"),
        ("DPS step / closed-form step", dps_step / dmps_step, ""),
        ("DPS", taken[:, 0], " s"),
        ("closed form", taken[:, 1], " s"),
        ("frugal", seconds, " s"),
        ("frugal by its calls", predicted, " s"),
        ("frugal / DPS", seconds / taken[:, 0], ""),
        ("measured / predicted", seconds / predicted, ""),
    ):
        click.echo(f"{name}: {np.median(values):.3f}{unit} ({values.min():.3f}..{values.max():.3f})")


if __name__ == "__main__":
    main()

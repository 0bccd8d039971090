"""Does the hybrid cost what its steps cost? Batch 1, DPS, DMPS and the hybrid in turn, several rounds.

python tests/bench/steptimes.py --engine celeba.plan
"""

from pathlib import Path

import click
import numpy as np

from frugal_rt import Restorer
from frugal_rt.runtime import demo


@click.command(help=__doc__)
@click.option("--engine", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--steps", default=100)
@click.option("--k", default=50)
@click.option("--rounds", default=7)
@click.option("--backend", default="auto")
def main(engine: Path, steps: int, k: int, rounds: int, backend: str) -> None:
    restorer = Restorer.load(engine, backend)
    measured = demo.measure(restorer, demo.TASKS[0], seed=0)

    def seconds(switch: str | int) -> float:
        result = restorer.restore(measured.y, measured.operator, steps=steps, switch=switch)
        return sum(result.seconds.values())

    seconds(k)  # loads torch and warms both up
    times = {switch: [] for switch in ("never", "always", k)}
    for _ in range(rounds):
        for switch, values in times.items():
            values.append(seconds(switch))
    dps, dmps, hybrid = (np.array(values) for values in times.values())
    predicted = ((steps - k) * dps + k * dmps) / steps
    click.echo(f"{restorer.engine.name}, {rounds} rounds, medians (least..most)")
    for name, values in (("DPS step", dps / steps), ("DMPS step", dmps / steps)):
        click.echo(f"{name}: {1e3 * np.median(values):.2f} ms ({1e3 * values.min():.2f}..{1e3 * values.max():.2f})")
    click.echo(f"DPS step / DMPS step: {np.median(dps / dmps):.2f}")
    click.echo(f"hybrid, T = {steps}, k = {k}: {np.median(hybrid):.3f} s; by its steps {np.median(predicted):.3f} s")
    ratio = hybrid / predicted
    click.echo(f"measured / predicted: {np.median(ratio):.3f} ({ratio.min():.3f}..{ratio.max():.3f})")


if __name__ == "__main__":
    main()

"""Methods of others, written afresh from their papers, beside ours on the tasks of `frugal-rt eval`.

python tests/studies/papers.py fidelity --engine celeba.plan --images report-100.tar --lpips lpips_alex.onnx -o FOLDER
python tests/studies/papers.py quality  --engine celeba.plan --images report-100.tar --lpips lpips_alex.onnx -o FOLDER
python tests/studies/papers.py constants --engine celeba.plan --images tune-100.tar --lpips lpips_alex.onnx -o FOLDER
python tests/studies/papers.py ood      --engine celeba.plan --images ood --lpips lpips_alex.onnx -o FOLDER
python tests/studies/papers.py sooner   --engine celeba.plan --images report-100.tar --lpips lpips_alex.onnx -o FOLDER

`fidelity`: moment matching (Boys et al., 2023; Rozet et al., 2024) at 74 calls beside --aim fidelity. `quality`: DAPS
(Zhang et al., 2024) at 400 calls beside the preset quality. `constants`: --aim fidelity without gradients, and with
other constants of them. `ood`: `frugal`, with its own gradient and with a moment-matched one, beside DPS, the hybrid
and the closed form. `sooner`: the seconds of official DPS, 1000 steps by torch in float32, beside those of `frugal`,
and the LPIPS of both. Each keeps its rows in FOLDER, goes on where it was stopped, and writes FOLDER/NAME.md.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import click
import numpy as np
from study import FIGURES, Row, Study, by, mean, study

from frugal_rt import Restorer
from frugal_rt.runtime.evaluation.contender import Contender, Method, OnStep, Outcome
from frugal_rt.runtime.evaluation.report import paired
from frugal_rt.runtime.evaluation.suite import TASKS
from frugal_rt.runtime.operators import Decomposable, Operator
from frugal_rt.runtime.sampling import equations, guidance
from frugal_rt.runtime.sampling.equations import ddrm_transition, estimate, matched_direction, matched_estimate
from frugal_rt.runtime.sampling.guidance import Guidance, stride_of
from frugal_rt.runtime.sampling.noise import Use, normal
from frugal_rt.runtime.sampling.plain_estimate import plain_estimate
from frugal_rt.runtime.sampling.restoration import start_noise
from frugal_rt.runtime.sampling.schedule import Schedule

LEAST = 0.02
"""MATCHED_LEAST of moment matching as it was proposed."""


@dataclass(frozen=True)
class FromPaper:
    """A contender of this file."""

    restorer: Restorer
    name: str

    def takes(self, operator: Operator, sigma: float) -> bool:
        return True

    def events(self, images: int, operator: Operator, sigma: float) -> int:
        return 0

    def restore(
        self, y: np.ndarray, operator: Operator, sigma: float, seed: int, sample: int, on_step: OnStep
    ) -> Outcome:
        assert isinstance(operator, Decomposable)
        began, rows = time.perf_counter(), [(seed, sample + i) for i in range(len(y))]
        images, forwards, gradients = self.sampled(y, operator, sigma, rows)
        each = [None] * len(y), [forwards] * len(y), [gradients] * len(y)
        return Outcome(np.clip(images, -1, 1), *each, time.perf_counter() - began)

    def sampled(
        self, y: np.ndarray, operator: Decomposable, sigma: float, rows: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, int, int]:
        """Return the images (B, C, H, W), and the number of forward calls and of gradients; a row has seed, sample."""
        raise NotImplementedError

    def noise(self, rows: Sequence[tuple[int, int]], use: Use, step: int = 0) -> np.ndarray:
        return np.stack([normal(self.restorer.image_shape, *row, use, step) for row in rows])

    def config(self) -> dict[str, Any]:
        schedule: dict[str, Any] = self.restorer.plan.manifest["schedule"]
        return schedule


@dataclass(frozen=True)
class Matched(FromPaper):
    """The closed form, after x0hat has moved by moment matching (`matched_estimate`) at every `every`-th step."""

    steps: int
    every: int = 1
    power: float = 1.3
    """The power of the timesteps from pure noise, 999 (j / (T - 1))^power; not used with `plain`."""
    plain: bool = False
    """Whether to start as `frugal` does, from a plain estimate with noise."""

    def sampled(
        self, y: np.ndarray, operator: Decomposable, sigma: float, rows: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, int, int]:
        schedule, x = self._start(y, operator, sigma, rows)
        gradients, engine = 0, self.restorer.engine
        for step in reversed(range(len(schedule))):
            c = Schedule.gather([schedule] * len(y), [step] * len(y), x, np)
            if (len(schedule) - 1 - step) % self.every == 0:
                answer, pull = engine.pullback(x, c.t)
                x0hat, unclipped = estimate(x, answer.out, c)
                with patch.object(equations, "MATCHED_LEAST", LEAST):
                    parts = matched_direction(operator, y, x0hat, np.float32(sigma), c)
                    x0hat = matched_estimate(x0hat, unclipped, pull, *parts, c)
                gradients += 1
            else:
                x0hat, _ = estimate(x, engine.predict(x, c.t).out, c)
            z = self.noise(rows, Use.STEP, step)
            x = np.float32(ddrm_transition(operator, y, x, x0hat, z, np.float32(sigma), c))
        return x, len(schedule), gradients

    def _start(
        self, y: np.ndarray, operator: Decomposable, sigma: float, rows: Sequence[tuple[int, int]]
    ) -> tuple[Schedule, np.ndarray]:
        if not self.plain:
            kept = 999 * (np.arange(self.steps) / (self.steps - 1)) ** self.power
            whole = Schedule.respaced(self.config(), 1000)
            order = np.arange(self.steps)
            timesteps = np.maximum.accumulate(np.round(kept).astype(int) - order) + order  # all different
            made = Schedule(timesteps, whole.abar[timesteps], whole.prediction_type, whole.variance_type)
            return made, self.noise(rows, Use.START)
        how = Guidance(sigma=sigma, steps=self.steps).settle(operator)
        assert how.start is not None
        schedule = Schedule.below(self.config(), how.start, self.steps, how.power, how.last)
        noise = np.stack([start_noise(self.restorer.image_shape, *row) for row in rows])
        first = np.stack([plain_estimate(operator, one, sigma) for one in y]) + how.start * noise
        return schedule, np.float32(schedule.abar[-1] ** 0.5 * first)


@dataclass(frozen=True)
class Daps(FromPaper):
    """DAPS: Zhang et al. (2024), algorithm 1, in z = x0 + s n.

    At each of `levels` noise levels s, x0hat is estimated by `flow` Euler steps of the probability flow, x0 is drawn
    given y with N(x0hat, r^2 I) as its prior, and noised to the next level. The paper draws x0 by Langevin dynamics
    with r = s, which in its few short steps do not get far from x0hat. For a linear operator a draw can be exact: the
    mean of the posterior of a perturbed x0hat and a perturbed y. Here r = s / (1 + s^2)^(1/2), and the perturbations
    are `spread` times what an exact draw would need.
    """

    levels: int = 100
    flow: int = 4
    spread: float = 0.3
    most: float = 100.0
    least: float = 0.02

    def sampled(
        self, y: np.ndarray, operator: Decomposable, sigma: float, rows: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, int, int]:
        ladder = karras(self.most, self.least, self.levels)
        noises = [np.random.default_rng((*row, 5)) for row in rows]

        def draw(shape: tuple[int, ...]) -> np.ndarray:
            return np.stack([noise.standard_normal(shape, np.float32) for noise in noises])

        image, x0 = self.restorer.image_shape, np.zeros_like(y)
        z = ladder[0] * draw(image)
        for s, following in zip(ladder, [*ladder[1:], 0.0], strict=True):
            x0 = self._flowed(z, s)
            variance = s**2 / (1 + s**2)
            share = self.spread if following else 0.0
            prior = x0 + share * variance**0.5 * draw(image)
            measured = y + share * sigma * draw(operator.measurement_shape)
            r = measured - operator.A(prior)
            x0 = np.float32(prior + variance * operator.AT(operator.resolvent(r, sigma, variance)))
            z = x0 + following * draw(image)
        return x0, self.levels * self.flow, 0

    def _flowed(self, z: np.ndarray, s: float) -> np.ndarray:
        """Follow the probability flow of z (B, C, H, W) from the noise level s to 0."""
        ways = karras(s, 0.01, self.flow)
        for here, there in zip(ways, [*ways[1:], 0.0], strict=True):
            of = Schedule.below(self.config(), here, 1)
            x = np.float32(z / (1 + here**2) ** 0.5)
            c = Schedule.gather([of] * len(z), [0] * len(z), x, np)
            x0hat, _ = estimate(x, self.restorer.engine.predict(x, c.t).out, c)
            z = x0hat + there / here * (z - x0hat)
        return np.asarray(z)


def karras(most: float, least: float, count: int) -> list[float]:
    """Return `count` noise levels from `most` down to `least`, evenly spaced in their 7th root."""
    return [float(level) for level in np.linspace(most ** (1 / 7), least ** (1 / 7), count) ** 7]


def cell(rows: Sequence[Row]) -> str:
    """Return the means as PSNR / LPIPS."""
    return f"{mean(rows, 'psnr'):.2f} / {mean(rows, 'lpips'):.4f}"


def table(rows: Sequence[Row], tasks: Sequence[str], ours: str, others: Sequence[str]) -> Iterator[str]:
    """PSNR / LPIPS of each contender, and the paired difference of `ours` from each of `others`."""
    names = [ours, *others]
    yield f"| task | {' | '.join(names)} | {' | '.join(f'{ours} minus {name}' for name in others)} |"
    yield "| --- |" + " ---: |" * (len(names) + len(others))
    for task in tasks:
        mine = {name: by(rows, task=task, method=name) for name in names}
        if not all(mine.values()):
            continue
        cells = [cell(of) for of in mine.values()]
        for name in others:
            gap = paired([*mine[ours], *mine[name]], ours, name)[task]
            cells.append(f"{gap['psnr'].text(2, '+')} / {gap['lpips'].text(4, '+')}")
        yield f"| {task} | {' | '.join(cells)} |"


@click.group(help=__doc__)
def main() -> None: ...


TASK_NAMES = click.option("--tasks", default=",".join(TASKS), show_default=True, help="comma-separated")


def compared(study: Study, name: str, tasks: str, ours: Contender, others: Sequence[Contender]) -> None:
    chosen = tasks.split(",")
    rows = study.rows(name, [ours, *others], chosen, None)
    lines = [f"{study.made()}.", "", *table(rows, chosen, ours.name, [one.name for one in others])]
    study.write(name, lines)


@main.command()
@TASK_NAMES
@click.option("--steps", default=37, show_default=True, help="of moment matching; a step is two calls")
@click.option("--power", default=1.3, show_default=True)
@study
def fidelity(study: Study, tasks: str, steps: int, power: float) -> None:
    """--aim fidelity beside moment matching."""
    ours = Method(study.restorer, "fidelity", {"aim": "fidelity"})
    matched = Matched(study.restorer, f"moments, {2 * steps} calls, power {power:g}", steps, power=power)
    compared(study, "fidelity", tasks, ours, [matched])


@main.command()
@TASK_NAMES
@click.option("--levels", default=100, show_default=True)
@click.option("--flow", default=4, show_default=True)
@click.option("--spread", default=0.3, show_default=True)
@click.option("--least", default=0.02, show_default=True)
@study
def quality(study: Study, tasks: str, levels: int, flow: int, spread: float, least: float) -> None:
    """The preset quality beside DAPS."""
    ours = study.method("frugal", 50, "quality")
    called = f"daps, {levels} x {flow}, spread {spread:g}, least {least:g}"
    compared(study, "quality", tasks, ours, [Daps(study.restorer, called, levels, flow, spread, least=least)])


@dataclass(frozen=True)
class Changed(Method):
    """--aim fidelity with other constants of its gradients; with least = 0 without them."""

    least: float = 0.0
    error: float = 0.17

    def restore(self, *arguments: Any) -> Outcome:
        with (
            patch.object(equations, "MATCHED_LEAST", self.least),
            patch.object(guidance, "MATCHED_ERROR", self.error),
            patch.object(type(self.restorer.plan), "attends", self.least > 0),
        ):
            return Method.restore(self, *arguments)


@main.command()
@click.option("--tasks", default="box,outpaint,sr16,sr4,sr2,colorize,text,scratches,missing70", show_default=True)
@study
def constants(study: Study, tasks: str) -> None:
    """--aim fidelity without gradients, and with other constants of them."""
    aim = {"aim": "fidelity"}
    plain = Changed(study.restorer, "without", aim)
    others = [
        Changed(study.restorer, f"least {least:g}, error {error:g}", aim, least, error)
        for least, error in ((0.02, 0.17), (0.3, 0.17), (0.6, 0.17), (1.0, 0.17), (0.6, 0.14), (0.6, 0.2))
    ]
    chosen = tasks.split(",")
    rows = study.rows("constants", [plain, *others], chosen, None)
    lines = [f"{study.made()}.", "", f"| task | {' | '.join(one.name for one in (plain, *others))} |"]
    lines.append("| --- |" + " ---: |" * (1 + len(others)))
    for task in chosen:
        cells = [cell(by(rows, task=task, method=one.name)) for one in (plain, *others)]
        lines.append(f"| {task} | {' | '.join(cells)} |")
    study.write("constants", lines)


@main.command()
@click.option("--tasks", default="box,sr4,gaussian", show_default=True)
@click.option("--steps", default=20, show_default=True)
@study
def ood(study: Study, tasks: str, steps: int) -> None:
    """`frugal` with two gradients beside DPS, the hybrid and the closed form."""
    ours = study.method("frugal", steps, f"frugal, T = {steps}")
    matched = Matched(study.restorer, f"matched, T = {steps}", steps, stride_of(steps), plain=True)
    others = [study.method(name, 100, f"{name}, T = 100") for name in ("dps", "hybrid", "closed-form")]
    compared(study, "ood", tasks, ours, [matched, *others])


@main.command()
@study
def sooner(study: Study) -> None:
    """Super-resolution x4: the time that `frugal` needs for the LPIPS of official DPS."""
    eager = Restorer.load(study.restorer.plan.source, "torch")
    official = Method(eager, "dps, official", {"method": "dps", "steps": 1000, "guidance": "official"})
    ours = [study.method("frugal", steps, f"frugal, T = {steps}") for steps in (12, 20)]
    rows = study.rows("sooner", [official, *ours], ["sr4"], None)
    lines = [
        f"{study.made()}; DPS by torch in float32.",
        "",
        "| method | PSNR, dB | LPIPS | s an image | DPS's time, divided by it |",
    ]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    seconds = mean(by(rows, method=official.name), "seconds")
    for one in (official, *ours):
        psnr, distance, taken = (mean(by(rows, method=one.name), figure) for figure in FIGURES)
        lines.append(f"| {one.name} | {psnr:.2f} | {distance:.4f} | {taken:.2f} | {seconds / taken:.0f} |")
    study.write("sooner", lines)


if __name__ == "__main__":
    main()

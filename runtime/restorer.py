"""The public class: a plan loaded once, restoring many measurements."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from ..engines import DivergedError, Engine, InputError, Plan, open_engine
from ..engines.plan import WEIGHTS
from ..engines.tiled import Tiled
from .operators import Operator, Resolvable
from .sampling.advance import advance, settle
from .sampling.guidance import PRESETS, Guidance
from .sampling.loop import StepEvent, _to_numpy, halved
from .sampling.restoration import Move, Phase, Restoration, start_noise
from .sampling.schedule import Schedule
from .sampling.switch import Switch


@dataclass(frozen=True)
class Result:
    """A restored batch and how it came about. Arrays have a batch axis exactly when the measurement had one."""

    image: np.ndarray
    """(B, C, H, W) or (C, H, W), float32 on [-1, 1]."""
    k: tuple[int, ...]
    """For each row, the DMPS steps that were left at the switch: 0 is DPS to the end, T is DMPS from the start."""
    trace: tuple[tuple[float, ...], ...]
    """For each row, the PSNR in dB between estimates x0hat a fixed number of steps apart: what the switch looks at."""
    compared: tuple[int, ...]
    """How many steps were left when each entry of a trace was taken; the same for every row."""
    seconds: dict[str, float]
    """Wall time by phase, "dps" and "dmps"."""
    forwards: tuple[int, ...]
    """Network evaluations of each row, those of DPS steps included."""
    pullbacks: tuple[int, ...]
    """Gradients through the network, for each row."""
    settings: dict[str, Any]
    """What repeats this result: steps, switch, sigma, every, zeta, lambda, seed, sample, batch, operator, backend,
    prior."""

    @property
    def figures(self) -> dict[str, Any]:
        """What it cost, for scripts: k, forwards and gradients of each row, and the seconds of all, in JSON's types."""
        return {
            "k": list(self.k),
            "forwards": list(self.forwards),
            "gradients": list(self.pullbacks),
            "seconds": sum(self.seconds.values()),
        }


class Restorer:
    """Restores measurements with the prior of one plan. Load it once; `restore` holds no state between calls."""

    def __init__(self, plan: Plan, engine: Engine):
        self.plan = plan
        self.engine = engine
        self._image_seconds: dict[int, float] = {}
        self._schedules: dict[int, Schedule] = {}
        self._untiled: Restorer | None = None
        """The one of single tiles, where this one's images are larger."""
        self.image_shape = plan.image_shape
        """(C, H, W) of the images this prior makes."""

    @classmethod
    def load(cls, path: str | os.PathLike[str], backend: str = "auto", *, trust_engines: bool = False) -> "Restorer":
        """Open a plan and the backend that runs it, one of `engines.BACKENDS`; "torch:bf16" names a precision too.

        trust_engines: load engines that the plan brings along, native code that another built, where none was built
        here. Raises PlanError, InputError, MissingExtra or BackendError.
        """
        plan = Plan.open(path)
        return cls(plan, open_engine(plan, backend, trust_engines=trust_engines))

    def tiled(self, height: int, width: int, on_tiles: Callable[[int, int], object] | None = None) -> "Restorer":
        """This restorer for images of another size, in overlapping tiles of the prior's. Nothing is loaded again.

        on_tiles: called with (done, total), tiles of the step that is running, after each network call; an exception
        it raises stops the restoration between tiles. Raises InputError if a side is smaller than the prior's.
        """
        image_shape = (self.plan.image_shape[0], height, width)
        restorer = Restorer(self.plan, Tiled(self.engine, self.plan.image_shape, image_shape, on_tiles))
        restorer.image_shape, restorer._untiled = image_shape, self
        return restorer

    def restore(
        self,
        y: Any,
        operator: Operator,
        *,
        sigma: float = 0.01,
        preset: str = "balanced",
        steps: int | None = None,
        switch: str | int = "auto",
        every: int | None = None,
        guidance: str = "own",
        zeta: float | None = None,
        lam: float | None = None,
        seed: int = 0,
        sample: int = 0,
        batch: int | None = None,
        on_step: Callable[[StepEvent], object] | None = None,
    ) -> Result:
        """The images that `operator` and noise of deviation `sigma` turned into `y`.

        y: (B, c, h, w) or (c, h, w), the operator's measurement shape, on [-1, 1] (missing pixels may hold anything).
        sigma: noise on the [-1, 1] scale, 0..2.
        preset: "quality", "balanced" or "fast", which name a number of steps. steps: T itself, 2..the prior's training
        steps. switch: "auto", "never" (DPS), "always" (DMPS), or k, the number of DMPS steps.
        every: the hybrid takes a gradient at every so manieth step before its switch, 2 or more; None is about 25 in
        all.
        guidance: "own", or "official" for the papers' constant step sizes. zeta, lam: such constants by value, of DPS
        and DMPS; None lets the guidance say.
        seed, sample: row i draws its noise from the key (seed, sample + i), whatever batch it is in.
        batch: rows that share a network call at most; None takes what was fastest for an image, measured once.
        on_step: called with a StepEvent after each step; an exception it raises stops the restoration between steps.

        Raises InputError for a measurement or setting that does not fit, DivergedError rather than return NaN or a
        constant image.
        """
        if batch is not None and batch < 1:
            raise InputError(f"batch must be at least 1; got {batch}")
        rows = self.start(
            y,
            operator,
            sigma=sigma,
            preset=preset,
            steps=steps,
            switch=switch,
            every=every,
            guidance=guidance,
            zeta=zeta,
            lam=lam,
            seed=seed,
            sample=sample,
        )
        (result,) = self.results([rows], batch, on_step)
        if np.ndim(y) == 3:
            result = replace(result, image=result.image[0])
        return result

    def results(
        self,
        groups: Sequence[Sequence[Restoration]],
        batch: int | None = None,
        on_step: Callable[[StepEvent], object] | None = None,
    ) -> list[Result]:
        """What several calls of `start` began, of one number of steps, brought to its end together: a Result for each.

        Their images are batches, and seconds a share by rows. Arguments as `restore` takes them. Raises DivergedError.
        """
        rows = [row for group in groups for row in group]
        together = batch or self.fastest_batch(len(rows))
        seconds = self.finish(rows, together, on_step)
        shares = [{phase: taken * len(group) / len(rows) for phase, taken in seconds.items()} for group in groups]
        return [self.gather(group, share, together) for group, share in zip(groups, shares, strict=True)]

    def gather(self, rows: Sequence[Restoration], seconds: dict[str, float], batch: int) -> Result:
        """The Result of rows that one call of `start` began and that are at their end, whoever advanced them.

        `seconds` by phase and `batch` are what took and shared the calls. Raises DivergedError for a constant image.
        """
        image = np.clip(np.stack([_to_numpy(row.x) for row in rows]), -1, 1)
        if not np.isfinite(image).all():
            raise DivergedError("the restoration left the finite numbers; check sigma, or lower zeta or lambda")
        settle(rows)
        flat = [i for i, one in enumerate(image) if one.std() < 1e-4]
        if flat:
            raise DivergedError(f"row {flat[0]} came out as a constant image; check sigma, or lower zeta or lambda")
        return Result(
            image=image,
            k=tuple(row.k or 0 for row in rows),
            trace=tuple(tuple(row.trace) for row in rows),
            compared=rows[0].compared,
            seconds=seconds,
            forwards=(len(rows[0].schedule),) * len(rows),
            pullbacks=tuple(row.pullbacks for row in rows),
            settings=self._settings(rows[0], batch),
        )

    def _settings(self, row: Restoration, batch: int) -> dict[str, Any]:
        """What `row` and those after it were restored with, in JSON's types."""
        steps = len(row.schedule)
        return {
            "operator": {"name": row.operator.name, **row.operator.settings},
            "sigma": row.sigma,
            "steps": steps,
            "switch": row.switch.words(steps),
            "every": row.every,
            "zeta": row.zeta,
            "lambda": row.lam,
            "seed": row.seed,
            "sample": row.sample,
            "batch": batch,
            "backend": self.engine.name,
            "prior": self.plan.manifest["prior"]["name"],
            "weights_sha256": self.plan.manifest["members"][WEIGHTS]["sha256"],
        }

    def start(
        self,
        y: Any,
        operator: Operator,
        *,
        sigma: float = 0.01,
        preset: str = "balanced",
        steps: int | None = None,
        switch: str | int = "auto",
        every: int | None = None,
        guidance: str = "own",
        zeta: float | None = None,
        lam: float | None = None,
        seed: int = 0,
        sample: int = 0,
    ) -> list[Restoration]:
        """What `restore` would do, not yet begun: a row for each measurement, for `finish`, or `advance`.

        Arguments as `restore` takes them. Raises InputError for a measurement or setting that does not fit.
        """
        images = self._measurement(y, operator, sigma)
        if preset not in PRESETS:
            raise InputError(f"there is no preset {preset!r}; choose one of {', '.join(PRESETS)}")
        steps = PRESETS[preset] if steps is None else steps
        rule = self._switch(switch, steps, operator)
        schedule = self._schedule(steps)
        how = Guidance.settle(operator, steps, rule, guidance, every, zeta, lam)
        for name, value, last in (("seed", seed, seed), ("sample", sample, sample + len(images) - 1)):
            if not 0 <= value <= last < 2**64:
                raise InputError(f"{name} must be a whole number in 0..2^64-1 for every row; got {value}")
        return [
            Restoration(
                operator=operator,
                y=self.engine.asarray(one),
                sigma=sigma,
                schedule=schedule,
                switch=rule,
                zeta=how.zeta,
                lam=how.lam,
                every=how.every,
                stride=how.stride,
                seed=seed,
                sample=sample + i,
                x=self.engine.asarray(start_noise(self.image_shape, seed, sample + i)),
            )
            for i, one in enumerate(images)
        ]

    @staticmethod
    def _switch(switch: str | int, steps: int, operator: Operator) -> Switch:
        """The rule asked for; DPS to the end where the operator has no resolvent, unless DMPS was asked for by name."""
        if not isinstance(operator, Resolvable) and switch == "auto":
            switch = "never"
        rule = Switch.parse(switch, steps)
        if not isinstance(operator, Resolvable) and rule.k_max > 0:
            raise InputError(f"{operator.name} is not a linear operator, so DMPS cannot run; use DPS: switch='never'")
        return rule

    def _measurement(self, y: Any, operator: Operator, sigma: float) -> np.ndarray:
        batch = np.asarray(y, np.float32)
        if batch.ndim == 3:
            batch = batch[None]
        if operator.image_shape != self.image_shape:
            raise InputError(
                f"the operator is for images of {operator.image_shape}, this prior makes {self.image_shape}"
            )
        if batch.ndim != 4 or batch.shape[1:] != operator.measurement_shape or not len(batch):
            raise InputError(
                f"{operator.name} measurements of this prior are {operator.measurement_shape}, alone or in a batch; "
                f"got {np.shape(y)}"
            )
        if not 0 <= sigma <= 2:
            raise InputError(f"sigma is on the [-1, 1] scale and must lie in 0..2; got {sigma}")
        batch = operator.observed(batch)
        if not np.isfinite(batch).all():
            raise InputError("the measurement holds NaN or infinity")
        return batch

    def fastest_batch(self, rows: int) -> int:
        """The batch that takes the least time an image in forward calls on this machine, among 1, 2, 4, .. 16.

        At most `rows`; each size is timed once in a restorer's life, and none beyond the first that is slower. Where
        images are cut into tiles, it counts those.
        """
        if isinstance(self.engine, Tiled) and self._untiled is not None:
            return self._untiled.fastest_batch(rows * self.engine.tiles)
        best = 1
        if rows == 1:
            return best
        for size in [size for size in (1, 2, 4, 8, 16) if size <= rows]:
            if size not in self._image_seconds:
                self._image_seconds[size] = self._time_forward(size) / size
            if self._image_seconds[size] > self._image_seconds[best]:
                break
            best = size
        return best

    def _time_forward(self, size: int) -> float:
        x, t = self.engine.asarray(np.zeros((size, *self.image_shape))), np.zeros(size, np.int64)
        for _ in range(2):  # the first pays for memory and compiling
            started = time.perf_counter()
            float(self.engine.predict(x, t).out[0, 0, 0, 0])  # a device answers late: wait for a value
            seconds = time.perf_counter() - started
        return seconds

    def _schedule(self, steps: int) -> Schedule:
        """The same one for the same number of steps, so that what is made for it serves again."""
        if steps not in self._schedules:
            self._schedules[steps] = Schedule.respaced(self.plan.manifest["schedule"], steps)
        return self._schedules[steps]

    def finish(
        self, rows: Sequence[Restoration], batch: int = 1, on_step: Callable[[StepEvent], object] | None = None
    ) -> dict[str, float]:
        """The plain loop over rows of one number of steps: each a step further, by calls of `batch` rows, to the end.

        The seconds of each phase, "dps" and "dmps". Raises DivergedError.
        """
        self.engine.prepare(any(row.move.pulls for row in rows), batch)
        seconds = {"dps": 0.0, "dmps": 0.0}
        while rows[0].step >= 0:
            phases = [row.phase for row in rows]
            moves = [(row.phase, row.move) for row in rows]
            for phase, move in product((Phase.DPS, Phase.DMPS), Move):
                due = [row for row, now in zip(rows, moves, strict=True) if now == (phase, move)]
                for rows_of_a_call in halved(due, batch):
                    started = time.perf_counter()
                    advance(rows_of_a_call, self.engine)
                    if any(row.phase is not phase for row in rows_of_a_call):
                        float(rows_of_a_call[0].x[0, 0, 0])  # waits for a device: the seconds are the phase's
                    seconds[phase.value] += time.perf_counter() - started
            if on_step is not None:
                settle(rows)
                on_step(
                    StepEvent(
                        step=rows[0].step + 1,
                        steps=len(rows[0].schedule),
                        phases=tuple(phase.value for phase in phases),
                        settled=tuple(row.trace[-1] if row.trace else -np.inf for row in rows),
                        x0hat=np.stack([_to_numpy(row.x0hat) for row in rows]),
                    )
                )
        return seconds

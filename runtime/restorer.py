"""The public class: a plan loaded once, restoring many measurements."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from ..engines import DivergedError, Engine, InputError, KindError, Plan, open_engine, open_plan
from ..engines.betas import train_betas
from ..engines.padded import Padded
from ..engines.plan import WEIGHTS
from ..engines.tiled import Tiled
from .operators import Coded, Denoise, Linear, Operator, Shape
from .pictures.calls import Call
from .pictures.damage import JPEG_SIGMA
from .pictures.kinds import (
    Named,
    Output,
    Range,
    TensorT,
    scaled,
    signed_measurement,
    signed_sigma,
    to_array,
    warn_of_unsigned,
)
from .pictures.noise_level import unnamed_sigma
from .pictures.options import Options
from .result import Result
from .sampling.advance import settle
from .sampling.choices import Aim, Method, Preset, StepSizes, When, check_whole
from .sampling.guidance import SAMPLER, Guidance, Settled
from .sampling.loop import TRIALS, StepEvent, run, step_seconds, to_numpy
from .sampling.plain_estimate import plain_estimate
from .sampling.restoration import Restoration, start_noise
from .sampling.schedule import Schedule, check_steps

if TYPE_CHECKING:
    from PIL import Image
    from typing_extensions import Unpack  # a type checker brings it along

ROUNDING = 1e-3
"""Distance that a picture's value may lie beyond its scale without noise."""
BEYOND = 1e-6
"""The share of a picture's values that may lie beyond 6 deviations of its noise: of large ones, a few do by chance."""
SCHEDULES = 64
"""Schedules kept, so that what is made for one serves again: each picture may begin at a noise of its own."""


class Restorer:
    """Restores pictures and measurements with the prior of one plan. Load it once; no call leaves anything to the next.

    >>> from frugal_rt import Restorer
    >>> restorer = Restorer.load("photo")
    >>> restorer("photo.jpg", noise=25).image.save("restored.png")
    """

    def __init__(self, plan: Plan, engine: Engine):
        self.plan = plan
        self.engine = engine
        self._step_seconds: dict[tuple[int, bool], float] = {}
        self._schedule = lru_cache(SCHEDULES)(
            partial(Schedule.of, plan.manifest["schedule"], flips=plan.stride is not None)
        )
        self._untiled: Restorer | None = None
        """The one of single tiles, where this one's images are larger."""
        self._sized: Restorer | None = None
        """The one for pictures of another size that was called last."""
        self._owns_plan = False
        """Whether the plan was opened for this restorer, and ends with it."""
        self.image_shape = plan.image_shape
        """(C, H, W) of the images this restorer makes. A plan for images of any size has others by `at`."""

    @classmethod
    def load(cls, path: str | os.PathLike[str], backend: str = "auto", *, trust_engines: bool = False) -> "Restorer":
        """Open a plan, or an embedded prior's by its name, and the backend that runs it.

        - `backend`: one of `engines.BACKENDS`; "torch:bf16" names a precision too.
        - `trust_engines`: load engines that the plan brings along where none was built here. They are native code that
          somebody else built.

        Raises PlanError, InputError, MissingExtra or BackendError.
        """
        plan = open_plan(path)
        restorer = cls(plan, open_engine(plan, backend, trust_engines=trust_engines))
        restorer._owns_plan = True
        return restorer

    def close(self) -> None:
        """Let go of the network, and of the plan where `load` opened it. A `with` block does it at its end.

        The memory is free on return, and `restore` raises BackendError from then on. Restorers made by `at` share the
        network: to close one is to close all.
        """
        self.engine.close()
        if self._owns_plan:
            self.plan.close()

    def __enter__(self) -> "Restorer":
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()

    def at(
        self,
        height: int,
        width: int,
        on_tiles: Callable[[int, int], object] | None = None,
        most: int | None = None,
        tile: tuple[int, int] | None = None,
    ) -> "Restorer":
        """Return this restorer for images of another size. Nothing is loaded again.

        A plan for images of any size sees them whole where the memory allows, and else in large tiles that overlap by
        what a pixel depends on. A plan for images of one size sees them in tiles of that size, which overlap by half.

        - `on_tiles`: called after each network call with (done, total), the tiles of the step that is running. An
          exception that it raises stops the restoration between tiles.
        - `most`: pixels of a network call at most, in place of what the memory allows, where the plan takes any size.
        - `tile`: height and width of the tiles, as `Result.settings` has them.

        Raises InputError for a side that is smaller than the prior's or 0, and for tiles that cannot be.
        """
        image_shape = (self.plan.image_shape[0], height, width)
        engine = (
            Tiled(self.engine, self.plan.image_shape, image_shape, on_tiles)
            if self.plan.stride is None
            else Padded(self.engine, self.plan, image_shape, on_tiles, most, tile)
        )
        restorer = Restorer(self.plan, engine)
        restorer.image_shape, restorer._untiled, restorer._owns_plan = image_shape, self, self._owns_plan
        return restorer

    @overload
    def __call__(
        self, picture: "Named | Image.Image", *, output: Literal["pil"] | None = None, **options: "Unpack[Options]"
    ) -> "Result[Image.Image]": ...
    @overload
    def __call__(
        self,
        picture: np.ndarray,
        *,
        range: Range | None = None,
        output: Literal["array"] | None = None,
        **options: "Unpack[Options]",
    ) -> "Result[np.ndarray]": ...
    @overload
    def __call__(
        self,
        picture: TensorT,
        *,
        range: Range | None = None,
        output: Literal["tensor"] | None = None,
        **options: "Unpack[Options]",
    ) -> "Result[TensorT]": ...
    @overload
    def __call__(
        self, picture: Any, *, range: Range | None = None, output: Output, **options: "Unpack[Options]"
    ) -> "Result[Any]": ...
    def __call__(
        self,
        picture: Any,
        *,
        range: Range | None = None,
        output: Output | None = None,
        **options: "Unpack[Options]",
    ) -> "Result[Any]":
        """Restore a picture as `frugal-rt restore` does, to the bit. The Result's image is of the picture's kind.

        - `picture`: a file's name or a PIL image, for a PIL image; an array, or a tensor on any device, for one of its
          type there. It is (C, H, W), (H, W, C) or (H, W), of uint8, or of floats on [-1, 1] with NaN where a pixel is
          missing. Several of one size lie along a first axis; each is restored as it would be alone.
        - `range`: the values of black and white of floats, such as (0, 1); sigma is on that scale then.
        - `output`: "pil", "array" or "tensor", in place of the picture's kind.
        - `options`: the damage (task, mask, hole, keep, scale, filter, kernel, border, keep_fraction, matrix, grey),
          its noise (in grey levels of 255, or sigma), fit, align and frame, each as on the command line; and the
          settings of `restore`.

        With no task named the picture tells. One in which nothing is found wrong is given back as it came, and
        `Result.unchanged` says so.

        Raises InputError for what does not fit, KindError for a name or type that is none, MissingFile, DivergedError.
        """
        call = Call.read(self.plan, picture, range, output, options)
        mine = self._of_size(call.image_shape)
        groups = [
            mine._begin(each.y[None], each.operator, replace(call.guidance, sigma=each.sigma)) for each in call.due
        ]
        results = mine._finish(groups, options.get("batch"), options.get("on_step")) if groups else []
        return Result.of_pictures(call, results)

    def _of_size(self, image_shape: Shape) -> "Restorer":
        """Return the restorer for images (C, H, W): this one, the plan's own, or one by `at`, which is kept."""
        if image_shape == self.image_shape:
            return self
        base = self._untiled or self
        if image_shape == base.image_shape:
            return base
        if base._sized is None or base._sized.image_shape != image_shape:
            base._sized = base.at(*image_shape[1:])
        return base._sized

    def restore(
        self,
        y: Any,
        operator: Operator,
        *,
        sigma: float | None = None,
        aim: Aim | None = None,
        method: Method | None = None,
        preset: Preset | None = None,
        steps: int | None = None,
        switch: When | None = None,
        every: int | None = None,
        guidance: StepSizes | None = None,
        zeta: float | None = None,
        lam: float | None = None,
        seed: int = 0,
        sample: int = 0,
        batch: int | None = None,
        on_step: Callable[[StepEvent], object] | None = None,
        range: Range | None = None,
    ) -> Result[np.ndarray]:
        """Restore the images that `operator` and noise of deviation `sigma` turned into `y`.

        - `y`: (B, c, h, w) or (c, h, w), the operator's measurement shape, on [-1, 1]: an array, or a tensor on any
          device. Missing pixels may hold anything. A picture whose values all lie in [0, 1] is warned of.
        - `sigma`: the noise's deviation on the [-1, 1] scale, 0..2. None estimates it where y is to be denoised, from a
          batch's mean variance, and assumes 0.01 otherwise, as the command line and the service do.
        - `aim`: "detail" looks better, "fidelity" is nearer in PSNR. Denoising starts from y itself and draws nothing:
          8 network calls for detail, its default; for fidelity 4, the mean over flips of the picture, or one by a
          prior for one size. Any other linear operator starts from a plain estimate of the image: 12 calls for detail,
          as frugal's fast preset, 8 that draw nothing for fidelity, the default of a JPEG and of thin holes, which take
          it for detail too. Where a setting of a method is given (method to lam), that method does it.
        - `method`: "frugal", the default, starts from a plain estimate and some noise, and goes down by the closed
          form; where the operator leaves pixels unseen it takes sparse gradients until the switch. The others start
          from noise: "hybrid", the poster's, is DPS and from the switch DMPS; "dps" is the default where the operator
          is not linear; "dmps"; "closed-form" is DDRM's transition alone.
        - `preset`: "quality", "balanced", the default, or "fast": 50, 20 and 12 steps of frugal, the last without
          gradients; 100, 50 and 20 of the others.
        - `steps`: T itself, in place of a preset's, 2..the prior's training steps.
        - `switch`: of frugal and hybrid: "auto", the default, or k, the number of steps at the end without a gradient.
        - `every`: of frugal: a gradient at every M-th step before the switch, 2 or more; None is about 25 in all.
        - `guidance`: of hybrid, dps and dmps: "own" step sizes, the default, or the papers' "official" constants.
        - `zeta`, `lam`: constant step sizes of DPS and DMPS; None lets the guidance say.
        - `seed`, `sample`: row i draws its noise from the key (seed, sample + i), whatever batch it is in.
        - `batch`: rows that share a network call at most; None takes the number that was fastest for an image,
          measured once.
        - `on_step`: called with a StepEvent after each step. An exception that it raises stops the restoration between
          steps.
        - `range`: the values of black and white, such as (0, 1), where images are on another scale than [-1, 1]; y,
          sigma and the result are on it then.

        Raises InputError for a measurement or setting that does not fit: a picture of integers too, or one with values
        beyond what the operator and 6 sigma make of [-1, 1]. Raises DivergedError rather than return NaN or a constant
        image.
        """
        if not isinstance(operator, Operator):
            raise KindError(f"the operator is one of frugal_rt.operators, and no {type(operator).__name__}")
        y = to_array(y, "the measurement")
        if range is not None:
            y = signed_measurement(y, operator, range)
            sigma = None if sigma is None else signed_sigma(sigma, range)
        elif math.isfinite(operator.peak):
            warn_of_unsigned(y, "the measurement", depth=1)
        asked = Guidance(
            sigma=sigma,
            aim=aim,
            method=method,
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
        rows = self._begin(y, operator, asked)
        (result,) = self._finish([rows], batch, on_step)
        image = scaled(result.image, range)
        return replace(result, image=image[0] if y.ndim == 3 else image)

    def _finish(
        self,
        groups: Sequence[Sequence[Restoration]],
        batch: int | None = None,
        on_step: Callable[[StepEvent], object] | None = None,
    ) -> list[Result]:
        """Bring what several calls of `_begin` began to its end together: a Result for each.

        Their images are batches, and seconds a share by rows. Arguments as `restore` takes them. Raises DivergedError.
        """
        if batch is not None and check_whole("batch", batch) < 1:
            raise InputError(f"batch must be at least 1; got {batch}")
        rows = [row for group in groups for row in group]
        together = batch or self._fastest_batch(len(rows))
        seconds = run(rows, self.engine, together, on_step)
        shares = [{phase: taken * len(group) / len(rows) for phase, taken in seconds.items()} for group in groups]
        return [self._gather(group, share, together) for group, share in zip(groups, shares, strict=True)]

    def _gather(self, rows: Sequence[Restoration], seconds: dict[str, float], batch: int) -> Result:
        """The Result of rows that one call of `_begin` began and that are at their end, whoever advanced them.

        `seconds` by phase and `batch` are what took and shared the calls. Raises DivergedError for a constant image.
        """
        image = np.clip(np.stack([to_numpy(row.x) for row in rows]), -1, 1)
        if not np.isfinite(image).all():
            raise DivergedError("the restoration left the finite numbers; check sigma, or lower zeta or lambda")
        image = np.stack([row.operator.finished(x, to_numpy(row.y)) for row, x in zip(rows, image, strict=True)])
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
            gradients=tuple(row.gradients for row in rows),
            settings=self._settings(rows[0], batch),
        )

    def _settings(self, row: Restoration, batch: int) -> dict[str, Any]:
        """Return the settings that `row` and its batch were restored with, in JSON's types."""
        steps = None if row.aim else row.steps
        return {
            "operator": {"name": row.operator.name, **row.operator.settings},
            "sigma": row.sigma,
            "aim": row.aim,
            "method": row.method,
            "steps": steps,
            "switch": row.switch.words if row.method in ("frugal", "hybrid") else None,
            "every": row.every,
            "zeta": row.zeta,
            "lambda": row.lam,
            "start": row.start,
            "seed": row.seed,
            "sample": row.sample,
            "batch": batch,
            "sampler": SAMPLER,
            "backend": self.engine.name,
            "tile": self.tile,
            "prior": self.plan.manifest["prior"]["name"],
            "weights_sha256": self.plan.manifest["members"][WEIGHTS]["sha256"],
        }

    @property
    def tile(self) -> tuple[int, int] | None:
        """Height and width of the tiles that images are cut into; None where they are seen whole."""
        return self.engine.tile if isinstance(self.engine, Tiled | Padded) else None

    @property
    def tiles(self) -> int:
        """How many tiles an image is cut into; 1 where it is seen whole."""
        return self.engine.tiles if isinstance(self.engine, Tiled | Padded) else 1

    @property
    def _weight(self) -> int:
        """The pixels of an image in those of one of `Plan.image_shape`, rounded up."""
        return -(-math.prod(self.image_shape) // math.prod(self.plan.image_shape))

    def _begin(self, y: Any, operator: Operator, asked: Guidance) -> list[Restoration]:
        """A row for each measurement, not yet begun: for `_finish`, or for whoever drives `advance`.

        `y` and `operator` as `restore` takes them. Raises InputError for a measurement or setting that does not fit.
        """
        images = self._measurement(y, operator)
        if asked.sigma is None:
            asked = replace(asked, sigma=_unnamed_sigma(images, operator))
        _check_scale(images, operator, asked.noise)
        settled = asked.settle(operator, len(images))
        if settled.method is not None:
            check_steps(settled.steps, train_betas(self.plan.manifest["schedule"]))
        schedule = self._schedule(settled.steps, settled.start, settled.power)
        return [
            Restoration(
                operator=operator,
                y=self.engine.asarray(one),
                sigma=asked.noise,
                schedule=schedule,
                switch=settled.switch,
                zeta=settled.zeta,
                lam=settled.lam,
                every=settled.every,
                stride=settled.stride,
                seed=asked.seed,
                sample=sample,
                x=self.engine.asarray(self._start(one, operator, asked, settled, schedule, sample)),
                steps=settled.steps,
                start=settled.start,
                method=settled.method,
                aim=settled.aim,
            )
            for sample, one in enumerate(images, asked.sample)
        ]

    def _steps(self, operator: Operator, asked: Guidance) -> int:
        """How many steps a row takes: those of its settings, or fewer from little noise. Raises InputError."""
        settled = asked.settle(operator)
        return len(self._schedule(settled.steps, settled.start, settled.power))

    def _start(
        self, y: np.ndarray, operator: Operator, asked: Guidance, settled: Settled, schedule: Schedule, sample: int
    ) -> np.ndarray:
        """x at the first step, (C, H, W): noise, a plain estimate and some noise, or where that has it, the picture."""
        if settled.start is None:
            return start_noise(self.image_shape, asked.seed, sample)
        assert isinstance(operator, Linear)  # others start from noise
        start = plain_estimate(operator, y, asked.noise)
        if settled.noise:
            start = start + settled.noise * start_noise(self.image_shape, asked.seed, sample)
        return np.asarray(schedule.abar[-1] ** 0.5 * start, np.float32)

    def _measurement(self, y: Any, operator: Operator) -> np.ndarray:
        given = np.asarray(y)
        is_picture = math.isfinite(operator.peak)
        if given.dtype.kind == "c":
            raise InputError(f"the measurement is complex ({given.dtype}), and restorations are of real numbers")
        if is_picture and given.dtype.kind in "biu":
            raise InputError(
                f"the measurement is of integers ({given.dtype}), not on the [-1, 1] scale; give y / 127.5 - 1 for "
                "levels of 0 to 255"
            )
        batch = np.asarray(given, np.float32)
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
        batch = operator.observed(batch)
        if not np.isfinite(batch).all():
            raise InputError("the measurement holds NaN or infinity")
        return batch

    def _fastest_batch(self, rows: int) -> int:
        """The batch that takes the least time an image in forward calls on this machine, among 1, 2, 4, .. 16.

        At most `rows`, and as many as the memory has room for; each size is timed once in a restorer's life, and none
        beyond the first that is slower. Where images are cut into tiles of the prior's size, it counts those.
        """
        if isinstance(self.engine, Tiled) and self._untiled is not None:
            return self._untiled._fastest_batch(rows * self.engine.tiles)
        if isinstance(self.engine, Padded):
            rows = min(rows, self.engine.rows)
        best = 1
        if rows == 1:
            return best
        for size in [size for size in (1, 2, 4, 8, 16) if size <= rows]:
            if self._time_step(size) / size > self._time_step(best) / best:
                break
            best = size
        return best

    def _time_step(self, batch: int, gradient: bool = False) -> float:
        """The seconds of one step of `batch` images on this machine, with a gradient or without.

        Measured once in a restorer's life, with the operator that costs least.
        """
        if (batch, gradient) not in self._step_seconds:
            y, plain = np.zeros((batch, *self.image_shape), np.float32), Denoise(self.image_shape)
            asked = Guidance(sigma=1.0, steps=TRIALS + 1, method="dps" if gradient else "closed-form")
            self._step_seconds[batch, gradient] = step_seconds(self._begin(y, plain, asked), self.engine)
        return self._step_seconds[batch, gradient]


def _unnamed_sigma(y: np.ndarray, operator: Operator) -> float:
    """The sigma of a batch (B, c, h, w) where none is named: a mean over its rows, of variances, or a JPEG's own."""
    if isinstance(operator, Coded):
        return JPEG_SIGMA
    found = [unnamed_sigma(one, isinstance(operator, Denoise))[0] for one in y]
    return found[0] if len({*found}) == 1 else float(np.sqrt(np.mean(np.square(found))))


def _check_scale(y: np.ndarray, operator: Operator, sigma: float) -> None:
    """Raise InputError for a picture with values beyond what the operator and noise make of [-1, 1]."""
    most = operator.peak + 6 * sigma + ROUNDING
    if np.mean(np.abs(y) > most) > BEYOND:
        raise InputError(
            f"the measurement is not on the [-1, 1] scale, or sigma = {sigma:g} is too small: values reach "
            f"{np.abs(y).max():.3g}, and {operator.name} with such noise {most:.3g}"
        )

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
    from typing_extensions import Unpack  # every type checker has it

ROUNDING = 1e-3
"""Tolerance, on the [-1, 1] scale, of values out of range in a picture without noise."""
BEYOND = 1e-6
"""The share of a picture's values that may lie beyond 6 deviations of its noise: in a large one a few do by chance."""
SCHEDULES = 64
"""Schedules kept with their tables; each picture may start at its own noise level."""


class Restorer:
    """Restores pictures and measurements with the prior of a plan. Load it once; calls do not affect each other.

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
        """The restorer of the plan's own size, where this one's images consist of tiles."""
        self._sized: Restorer | None = None
        """The restorer for pictures of another size that was used last."""
        self._owns_plan = False
        """Whether `load` opened the plan, so that `close` closes it."""
        self.image_shape = plan.image_shape
        """(C, H, W) of the images that this restorer makes; `at` returns a restorer for another size."""

    @classmethod
    def load(cls, path: str | os.PathLike[str], backend: str = "auto", *, trust_engines: bool = False) -> "Restorer":
        """Open a plan by its path, or an embedded prior by its name, and the backend that runs it.

        - `backend`: one of `engines.BACKENDS`; "torch:bf16" names a precision too.
        - `trust_engines`: load TensorRT engines in the plan where none was built here. They are native code that
          somebody else built.

        Raises PlanError, InputError, MissingExtra or BackendError.
        """
        plan = open_plan(path)
        restorer = cls(plan, open_engine(plan, backend, trust_engines=trust_engines))
        restorer._owns_plan = True
        return restorer

    def close(self) -> None:
        """Free the network, and the plan where `load` opened it. A `with` block does it at its end.

        The memory is free on return, and `restore` raises BackendError afterwards. Restorers made by `at` share the
        network: closing one closes all.
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

        A plan for images of any size runs them whole where the memory allows, otherwise in large tiles that overlap by
        the network's reach. A plan for images of one size runs them in tiles of that size, which overlap by half.

        - `on_tiles`: called after each network call with (done, total), the tiles of the current step. An exception
          from it stops the restoration between tiles.
        - `most`: the most pixels of a network call, where the plan takes any size; None: as many as the memory allows.
        - `tile`: height and width of the tiles, as in `Result.settings`, to repeat a result.

        Raises InputError for a side that is 0 or smaller than the prior's, and for tiles that do not fit.
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
        """Restore a picture, with the same pixels as `frugal-rt restore`. The Result's image has the picture's type.

        - `picture`: a file's name or a PIL image (the result is a PIL image), an array, or a tensor on any device.
          Arrays are (C, H, W), (H, W, C) or (H, W), of uint8, or of floats on [-1, 1] with NaN where a pixel is
          missing. Several pictures of one size lie along a first axis; each is restored as it would be alone.
        - `range`: the values of black and white of floats, such as (0, 1); sigma is then on that scale.
        - `output`: "pil", "array" or "tensor", in place of the picture's type.
        - `options`: the damage (task, mask, hole, keep, scale, filter, kernel, border, keep_fraction, matrix, grey),
          its noise (in grey levels of 255, or sigma), fit, align and frame, each as on the command line; and the
          settings of `restore`.

        Without a task it is inferred from the picture. A picture in which nothing wrong is found is returned as it is,
        and `Result.unchanged` is set.

        Raises InputError for a picture or option that does not fit, KindError for an unknown option or type,
        MissingFile, DivergedError.
        """
        call = Call.read(self.plan, picture, range, output, options)
        mine = self._of_size(call.image_shape)
        groups = [
            mine._begin(each.y[None], each.operator, replace(call.guidance, sigma=each.sigma)) for each in call.due
        ]
        results = mine._finish(groups, options.get("batch"), options.get("on_step")) if groups else []
        return Result.of_pictures(call, results)

    def _of_size(self, image_shape: Shape) -> "Restorer":
        """Return the restorer for images (C, H, W): this one, the one of the plan's size, or one by `at`."""
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
        """Restore images from the measurement y = A x + sigma n, where A is `operator`.

        - `y`: (B, c, h, w) or (c, h, w), the operator's measurement shape, on [-1, 1]: an array, or a tensor on any
          device. Missing pixels may hold any value. A warning is given for a picture with all values in [0, 1].
        - `sigma`: the noise's standard deviation on the [-1, 1] scale, 0..2. None: for denoising it is estimated, as
          the root of a batch's mean variance; otherwise it is 0.01, as in the command line and the service.
        - `aim`: "detail" looks better, "fidelity" has the higher PSNR. Denoising starts from y itself and draws no
          noise: 8 network calls for detail, the default; 4 for fidelity, the mean over flips, or one with a prior of
          one size. Other linear operators start from a plain estimate of the image: 12 calls for detail, as frugal's
          fast preset, or 20 for a JPEG; and 8 calls without noise for fidelity, each with a gradient where the operator
          leaves values unseen and a prior with attention sees the whole image. Fidelity is the default for a JPEG and
          for thin holes, where detail means the same. A setting of a method (method to lam) selects a method instead of
          an aim.
        - `method`: "frugal", the default, starts from a plain estimate with some noise, and takes the closed form at
          each step; where the operator leaves pixels unseen it adds sparse gradients until the switch, and from there
          on, where much is unknown, it draws the image around its estimate. The others start from pure noise: "hybrid",
          the poster's, is DPS until the switch and then DMPS; "dps" is the default for a nonlinear operator; "dmps";
          "closed-form" is DDRM's transition alone.
        - `preset`: "quality", "balanced" (the default) or "fast": 50, 20 and 12 steps of frugal, the last without
          gradients; 100, 50 and 20 steps of the others.
        - `steps`: T, in place of a preset's, from 2 to the prior's training steps.
        - `switch`: for frugal and hybrid: "auto" (the default), or k, the number of last steps without a gradient.
        - `every`: for frugal: a gradient at every M-th step before the switch, 2 or more; None: about 25 in all.
        - `guidance`: for hybrid, dps and dmps: "own" step sizes (the default), or the papers' "official" constants.
        - `zeta`, `lam`: constant step sizes of DPS and DMPS; None: as `guidance` says.
        - `seed`, `sample`: row i draws its noise from the key (seed, sample + i), independently of its batch.
        - `batch`: the most rows of a network call; None: the number with the least time for an image, measured once.
        - `on_step`: called with a StepEvent after each step. An exception from it stops the restoration.
        - `range`: the values of black and white, such as (0, 1), where images have another scale than [-1, 1]; y, sigma
          and the result are then on that scale.

        Raises InputError for a measurement or setting that does not fit, such as a picture of integers, or values
        further out than the operator and 6 sigma explain. Raises DivergedError instead of returning NaN or a constant
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
        """Restore the rows of several calls of `_begin` together; return a Result for each call.

        Each Result has a batch axis, and its share of the seconds by rows. `batch` and `on_step` as in `restore`.
        Raises DivergedError.
        """
        if batch is not None and check_whole("batch", batch) < 1:
            raise InputError(f"batch must be at least 1; got {batch}")
        rows = [row for group in groups for row in group]
        together = batch or self._fastest_batch(len(rows))
        seconds = run(rows, self.engine, together, on_step)
        shares = [{phase: taken * len(group) / len(rows) for phase, taken in seconds.items()} for group in groups]
        return [self._gather(group, share, together) for group, share in zip(groups, shares, strict=True)]

    def _gather(self, rows: Sequence[Restoration], seconds: dict[str, float], batch: int) -> Result:
        """Return the Result of finished rows of one call of `_begin`.

        `seconds`: wall time by phase. `batch`: rows of the calls. Raises DivergedError for a constant image.
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
        """Height and width of the tiles that images are cut into; None where they are run whole."""
        return self.engine.tile if isinstance(self.engine, Tiled | Padded) else None

    @property
    def tiles(self) -> int:
        """The number of tiles of an image; 1 where it is run whole."""
        return self.engine.tiles if isinstance(self.engine, Tiled | Padded) else 1

    @property
    def _weight(self) -> int:
        """The pixels of an image divided by those of `Plan.image_shape`, rounded up."""
        return -(-math.prod(self.image_shape) // math.prod(self.plan.image_shape))

    def _begin(self, y: Any, operator: Operator, asked: Guidance) -> list[Restoration]:
        """Make a row for each measurement, for `_finish` or another driver of `advance`.

        `y` and `operator` as in `restore`. Raises InputError for a measurement or setting that does not fit.
        """
        images = self._measurement(y, operator)
        if asked.sigma is None:
            asked = replace(asked, sigma=_unnamed_sigma(images, operator))
        _check_scale(images, operator, asked.noise)
        settled = self._settled(operator, asked, len(images))
        if settled.method is not None:
            check_steps(settled.steps, train_betas(self.plan.manifest["schedule"]))
        schedule = self._schedule(settled.steps, settled.start, settled.power, settled.last)
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
                matched=settled.matched,
            )
            for sample, one in enumerate(images, asked.sample)
        ]

    def _steps(self, operator: Operator, asked: Guidance) -> int:
        """How many steps a row takes: those of its settings, or fewer from little noise. Raises InputError."""
        settled = self._settled(operator, asked)
        return len(self._schedule(settled.steps, settled.start, settled.power, settled.last))

    def _settled(self, operator: Operator, asked: Guidance, rows: int = 1) -> Settled:
        """Return the numbers that rows carry. In tiles the network does not see whole images. Raises InputError."""
        return asked.settle(operator, rows, self.plan.attends and self.image_shape == self.plan.image_shape)

    def _start(
        self, y: np.ndarray, operator: Operator, asked: Guidance, settled: Settled, schedule: Schedule, sample: int
    ) -> np.ndarray:
        """Return x at the first step, (C, H, W): pure noise, a plain estimate with some noise, or the noisy picture."""
        if settled.start is None:
            return start_noise(self.image_shape, asked.seed, sample)
        assert isinstance(operator, Linear)  # others start from pure noise
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
        """Return the batch, among 1, 2, 4, .. 16, whose forward calls take the least time for an image here.

        It is at most `rows`, and fits the memory. Sizes are timed once for a restorer, in ascending order until the
        first that is slower. Where images are cut into tiles of the prior's size, the batch counts tiles.
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
        """Return the seconds of a step of `batch` images on this machine, with or without a gradient.

        It is measured once for a restorer, with the cheapest operator.
        """
        if (batch, gradient) not in self._step_seconds:
            y, plain = np.zeros((batch, *self.image_shape), np.float32), Denoise(self.image_shape)
            asked = Guidance(sigma=1.0, steps=TRIALS + 1, method="dps" if gradient else "closed-form")
            self._step_seconds[batch, gradient] = step_seconds(self._begin(y, plain, asked), self.engine)
        return self._step_seconds[batch, gradient]


def _unnamed_sigma(y: np.ndarray, operator: Operator) -> float:
    """Return the default sigma of a batch (B, c, h, w): the root of the rows' mean variance, a JPEG's own, or SIGMA."""
    if isinstance(operator, Coded):
        return JPEG_SIGMA
    found = [unnamed_sigma(one, isinstance(operator, Denoise))[0] for one in y]
    return found[0] if len({*found}) == 1 else float(np.sqrt(np.mean(np.square(found))))


def _check_scale(y: np.ndarray, operator: Operator, sigma: float) -> None:
    """Raise InputError for a picture with values further out than the operator and the noise explain."""
    most = operator.peak + 6 * sigma + ROUNDING
    if np.mean(np.abs(y) > most) > BEYOND:
        raise InputError(
            f"the measurement is not on the [-1, 1] scale, or sigma = {sigma:g} is too small: values reach "
            f"{np.abs(y).max():.3g}, and {operator.name} with such noise {most:.3g}"
        )

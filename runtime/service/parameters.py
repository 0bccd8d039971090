"""Parameters of a request: the options of `frugal-rt restore` in JSON, checked before any computation."""

import contextlib
import difflib
import json
import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ...engines import InputError
from ..operators import GREY_WEIGHTS
from ..operators.kernels import KINDS
from ..pictures.damage import BORDERS, FILTERS, TASK_FIELDS, Damage, parse_size, sigma_of
from ..sampling.guidance import AIMS, GUIDANCE, METHOD, METHODS, PRESET, PRESETS

MAX_BYTES = 16 << 10
Side = Annotated[int, Field(ge=1, le=4096)]
Size = Annotated[
    tuple[Side, Side], BeforeValidator(lambda given: parse_size(given) if isinstance(given, str) else given)
]
"""Width and height in pixels: [24, 32], or "24x32" as in commands."""


LEAST_DEVIATION = 0.05
"""The least standard deviation of a Gaussian in pixels; below, weights beside the middle are under e^-200."""


def _of_some_width(kernel: str) -> str:
    """Return the kernel; other numbers are checked when it is made. Raises ValueError for a Gaussian of no width."""
    kind, _, values = kernel.partition(":")
    if kind == "gaussian":
        for value in values.split(",")[:2]:
            with contextlib.suppress(ValueError):  # making the kernel reports it
                if not math.isfinite(width := float(value)) or 0 < width < LEAST_DEVIATION:
                    break
        else:
            return kernel
        raise ValueError(f"a Gaussian's deviations are {LEAST_DEVIATION:g} pixels or more")
    return kernel


class Parameters(BaseModel):
    """Parameters of a restoration. Whatever is left out is read off the picture, or takes the default."""

    model_config = ConfigDict(
        extra="forbid",
        populate_by_name=True,
        json_schema_extra={
            "examples": [
                {"task": "sr", "scale": 4},
                {"task": "inpaint", "hole": [24, 24], "noise": 1.3, "seed": 7},
                {"task": "deblur", "kernel": "motion:9,30", "noise": 6, "preset": "quality"},
            ]
        },
    )

    task: Literal[tuple(task for task in TASK_FIELDS if task != "matrix")] | None = Field(  # type: ignore[valid-type]
        None, description="What was done to the picture; read off it where it is left out."
    )
    sigma: float | None = Field(
        None, ge=0, le=2, allow_inf_nan=False, description="Deviation of the noise on the [-1, 1] scale."
    )
    noise: float | None = Field(
        None, ge=0, le=255, allow_inf_nan=False, description="The same in grey levels of 255: sigma is 2 noise / 255."
    )
    hole: Size | None = Field(None, description="A missing box in the middle: width, height.")
    keep: Size | None = Field(None, description="The kept box in the middle: width, height.")
    scale: int | None = Field(None, ge=2, le=16, description="Lost resolution: one pixel of scale x scale is left.")
    filter: Literal[FILTERS] | None = Field(None, description="How it was lost.")  # type: ignore[valid-type]
    kernel: Annotated[str, AfterValidator(_of_some_width)] | None = Field(
        None, max_length=60, description=f"The blur: {', '.join(KINDS.values())}."
    )
    border: Literal[BORDERS] | None = Field(None, description="The pixels assumed past the border.")  # type: ignore[valid-type]
    grey: Literal[tuple(GREY_WEIGHTS)] | None = Field(None, description="How colour was lost.")  # type: ignore[valid-type]
    keep_fraction: float | None = Field(
        None, ge=1e-6, le=1, allow_inf_nan=False, description="Share of the Walsh-Hadamard coefficients measured."
    )
    fit: Literal["crop", "resize", "pad"] | None = Field(
        None, description="Bring a picture to the prior's size, where that has one; pad and none leave it at its own."
    )
    frame: int | None = Field(None, ge=1, description="Which frame or page of a file of several; the first by default.")
    tile: bool = Field(False, deprecated=True, description="A picture is restored at its own size anyway.")
    aim: Literal[tuple(AIMS)] | None = Field(  # type: ignore[valid-type]
        None,
        description="For detail or for fidelity (PSNR): of denoising, whose default is detail, 8 network calls or 4, "
        "or one by a prior for one size; of any other task 12 or 8, or 16 for fidelity by a prior that sees the whole "
        "image; a JPEG and thin holes are restored for fidelity by default. It goes with none of method and the fields "
        "after it but seed and timeout.",
    )
    method: Literal[tuple(METHODS)] | None = Field(  # type: ignore[valid-type]
        None, description=f"The sampler; by default {METHOD}, and for denoising its aim."
    )
    switch: Literal["auto"] | Annotated[int, Field(ge=0, le=1000)] | None = Field(
        None, description="Of frugal and hybrid: how many steps at the end take no gradient, or auto."
    )
    preset: Literal[tuple(PRESETS)] | None = Field(  # type: ignore[valid-type]
        None, description=f"Sampling steps by name; by default {PRESET}."
    )
    steps: int | None = Field(None, ge=2, le=1000, description="Sampling steps, in place of the preset's.")
    every: int | None = Field(None, ge=2, le=1000, description="frugal takes a gradient at every M-th step.")
    guidance: Literal[GUIDANCE] | None = Field(  # type: ignore[valid-type]
        None, description=f"Whose step sizes hybrid, dps and dmps take; by default {GUIDANCE[0]}."
    )
    zeta: float | None = Field(None, ge=0, allow_inf_nan=False, description="A constant step size for DPS.")
    lam: float | None = Field(
        None, ge=0, allow_inf_nan=False, alias="lambda", description="A constant step size for DMPS."
    )
    seed: int = Field(0, ge=0, lt=2**64, description="The same seed gives the same image.")
    timeout: float | None = Field(
        None,
        ge=0.001,
        le=3600,
        allow_inf_nan=False,
        description="Seconds after which the restoration is given up, no later than the service gives any up.",
    )

    @classmethod
    def read(cls, text: bytes | str | None) -> "Parameters":
        """Read parameters from JSON. Raises InputError, with a clause for each mistake."""
        if text is None or not text.strip():
            return cls.model_validate({})
        if len(text) > MAX_BYTES:
            raise InputError(f"the parameters are longer than {MAX_BYTES >> 10} KiB")
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise InputError("; ".join(_clause(one) for one in error.errors(include_url=False))) from None

    def damage(self, mask: Any) -> Damage:
        """Return the damage that the request describes; `mask` (H, W) bool or None.

        Raises InputError for two noises.
        """
        if self.noise is not None and self.sigma is not None:
            raise InputError("noise and sigma say the same, in grey levels and on [-1, 1]; leave one of them out")
        return Damage(
            task=self.task,
            mask=mask,
            hole=self.hole,
            keep=self.keep,
            scale=self.scale,
            filter=self.filter,
            kernel=self.kernel,
            border=self.border,
            fraction=self.keep_fraction,
            grey=self.grey,
            sigma=self.sigma if self.noise is None else sigma_of(self.noise),
        )

    def settings(self) -> dict[str, Any]:
        """Return the settings of `Restorer.restore`."""
        return {
            "aim": self.aim,
            "method": self.method,
            "switch": self.switch,
            "preset": self.preset,
            "steps": self.steps,
            "every": self.every,
            "guidance": self.guidance,
            "zeta": self.zeta,
            "lam": self.lam,
            "seed": self.seed,
        }

    def options(self) -> dict[str, Any]:
        """Return the equivalent options of `frugal-rt restore`, by parameter names, for `settings.record`."""
        said = self.model_dump(exclude_none=True, exclude={"timeout"})
        for name in ("hole", "keep"):
            if name in said:
                said[name] = "x".join(map(str, said[name]))
        if "steps" in said:
            said["steps_"] = said.pop("steps")
        return {name: value for name, value in said.items() if value is not False}


def _clause(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where, Parameters.model_fields, 1)
        return f"there is no parameter {where!r}" + (f"; did you mean {near[0]}?" if near else "")
    given = json.dumps(error["input"], default=str)[:60] if where else ""
    return f"{where or 'parameters'}: {error['msg']}" + (f" (got {given})" if where else "")

"""The settings of a restoration by name, and the numbers that rows carry for them."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from ...engines import InputError
from ..operators import Coded, Denoise, Inpaint, Jpeg, Linear, MaskedJpeg, Operator
from .choices import check_kinds
from .plain_estimate import expected_error, expected_error_unseen
from .schedule import FLIPS, LEAST_NOISE
from .switch import POSTER_THRESHOLD, Switch

PRESETS = {"quality": 50, "balanced": 20, "fast": 12}
"""Sampling steps T of `frugal` by preset, descending. "fast" takes no gradients."""
PRESETS_FROM_NOISE = {"quality": 100, "balanced": 50, "fast": 20}
"""Sampling steps T of the other methods by preset."""
PRESET = "balanced"
"""The default preset."""
GRADIENTS = 25
"""The approximate number of gradients of `frugal` without a switch, and of estimates that are compared, for any T."""
METHODS = {
    "frugal": ("switch", "every"),
    "hybrid": ("switch", "guidance", "zeta", "lam"),
    "dps": ("guidance", "zeta"),
    "dmps": ("guidance", "lam"),
    "closed-form": (),
}
"""The methods, and the settings of each besides preset and steps.

`frugal`, the default, starts from a plain estimate with noise and takes the closed form at each step, with DPS's
gradient at every M-th step until the switch; from there on it may draw x0 around its estimate. The others start from
pure noise. `hybrid`, the poster's, is DPS until the switch and then DMPS. `dps` and `dmps` are the papers'.
`closed-form` is DDRM's transition.
"""
METHOD = next(iter(METHODS))
OFFICIAL_ZETA = {"sr": 0.3, "deblur": 0.3, "inpaint": 0.5}
"""The paper's zeta of DPS, for 1000 steps, by operator; 1, its largest, for other operators."""
OFFICIAL_LAMBDA = 1.75
GUIDANCE = ("own", "official")
SAMPLER = 9
"""The version of the sampler, in the settings of every result. Another version gives other pixels."""
AIMS = {"detail": 8, "fidelity": FLIPS}
"""The most network calls of denoising by aim: the probability flow from the picture, or the mean over flips."""
DEFAULT_AIMS: dict[type[Operator], str] = {Denoise: "detail", Jpeg: "fidelity", MaskedJpeg: "fidelity"}
"""The aim by operator where neither an aim nor a setting of a method is given. For thin holes see CLOSE."""
SPLITTING_STEPS = 8
"""The most steps of other tasks for fidelity: half-quadratic splitting from a plain estimate."""
SPLITTING_NOISE, SPLITTING_ERROR, SPLITTING_MOST, SPLITTING_MOST_OF_HOLES = 0.3, 0.27, 4.0, 0.7
"""The deviation of noise that the splitting assumes in the plain estimate, without drawing any: the expected error, at
least SPLITTING_NOISE. Where the operator does not see all, it is also at least (error there / SPLITTING_ERROR)^4, of
which at most SPLITTING_MOST counts, or SPLITTING_MOST_OF_HOLES for missing pixels. Chosen on tune-20 and tune-100
(docs/method.md)."""
MATCHED_ERROR, MATCHED_MOST = 0.17, 4.0
"""SPLITTING_ERROR and SPLITTING_MOST where the splitting takes gradients. Chosen on tune-100
(docs/decisions/matched.md)."""
SIGMA = 0.01
"""The default deviation of the noise on the [-1, 1] scale, for other tasks than denoising."""
UNIT_ERROR, UNSEEN_RATIO, MOST_NOISE = 0.125, 5.0, 12.0
"""`frugal` adds noise of deviation (error / UNIT_ERROR)^4 to a plain estimate, where error is its expected error over
the image. The deviation is at least UNSEEN_RATIO times the error where the operator does not see, and at most
MOST_NOISE. The larger the expected error, the more of the image is sampled anew. Chosen on tune-20 and tune-100
(docs/method.md)."""
HOLE_ERROR, HOLE_NOISE, HOLE_MOST, NOISE_RATIO = 0.23, 0.1, 1.5, 3.0
"""Where pixels are missing, that deviation is (error in the holes / HOLE_ERROR)^5, between HOLE_NOISE and HOLE_MOST. It
is at least NOISE_RATIO times the deviation of the known pixels' noise, and unless the holes are thin, at least
(error / UNIT_ERROR)^4. Chosen on tune-20 (docs/method.md)."""
CLOSE = 0.16
"""Holes are thin where the expected error in them is below this. They need no invented detail, so both aims are the
splitting. Chosen on tune-20 (docs/method.md)."""
JPEG_NOISE, JPEG_RATIO, JPEG_LAST = 0.15, 2.0, 0.1
"""JPEG_NOISE: the deviation of noise that fidelity assumes in a JPEG's decoded picture, without drawing any.
JPEG_RATIO: the deviation of the noise that `frugal` draws, divided by the expected error over the image. JPEG_LAST: the
deviation of the noise at `frugal`'s last step. Chosen on tune-20 (docs/method.md)."""
JPEG_STEPS = 20
"""The most steps of a JPEG for detail; they take no gradients. Chosen on tune-20 (docs/method.md)."""
DAMAGED_JPEG_NOISE, DAMAGED_JPEG_START = 0.3, 1.5
"""Where damage in the JPEG's picture was filled in: JPEG_NOISE, and the least deviation of the noise that `frugal`
draws. Chosen on tune-20 (docs/decisions/fidelity.md)."""
STEEP, EVEN = 2.0, 0.5
"""Powers p of the spacing of noise levels, which is even in deviation^(1/p). EVEN, even in the variance, is for both
aims of denoising and for the fidelity of a JPEG; STEEP is for all others."""
OF_METHODS = ("method", "preset", "steps", "switch", "every", "guidance", "zeta", "lam")
"""The settings of methods. Where one of them is given, a method restores, also for denoising."""
SPELLED = {"lam": "lambda"}
"""Names of settings in messages where they differ from Python's."""


def stride_of(steps: int) -> int:
    """Return the steps between two gradients of `frugal`, and between the estimates that the switch compares."""
    return max(2, round(steps / GRADIENTS))


def last_of(operator: str) -> float:
    """Return the deviation of the noise at the last step of `frugal`, on the [-1, 1] scale, by the operator's name."""
    return JPEG_LAST if operator == Jpeg.name else LEAST_NOISE


def switch_of(method: str, steps: int, asked: str | int | None) -> Switch:
    """Return a method's switch; `asked` as in `Switch.parse`, None for the method's default."""
    if "switch" not in METHODS[method]:
        k = 0 if method == "dps" else steps
        return Switch(k, k)
    return Switch.parse("auto" if asked is None else asked, steps, POSTER_THRESHOLD if method == "hybrid" else None)


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """The settings of a restoration, described in `Restorer.restore`."""

    sigma: float | None = None
    """None until `Restorer` has determined it for a measurement."""
    aim: str | None = None
    method: str | None = None
    preset: str | None = None
    steps: int | None = None
    switch: str | int | None = None
    every: int | None = None
    guidance: str | None = None
    zeta: float | None = None
    lam: float | None = None
    seed: int = 0
    sample: int = 0

    def __post_init__(self) -> None:
        """Raise InputError for an unknown method or aim, and for settings that it does not have.

        Raises KindError for a setting of another type than its own.
        """
        check_kinds(vars(self))
        if self.method is not None:
            self._check(self.method)
        if self.aim is None:
            return
        if self.aim not in AIMS:
            raise InputError(f"there is no aim {self.aim!r}; choose one of {', '.join(AIMS)}")
        if self.of_methods:
            name = self.of_methods[0]
            raise InputError(
                f"an aim says how to restore, and so does {SPELLED.get(name, name)}; leave one of them out"
            )

    @property
    def noise(self) -> float:
        """sigma, once it is determined."""
        assert self.sigma is not None
        return self.sigma

    @property
    def of_methods(self) -> list[str]:
        """The given settings that only methods have."""
        return [name for name in OF_METHODS if getattr(self, name) is not None]

    def aim_with(self, operator: Operator) -> str | None:
        """Return the aim where no method restores: an aim of denoising, or fidelity. None stands for a method.

        Raises InputError.
        """
        aim = self.aim
        if aim is None and not self.of_methods:
            aim = next((one for kind, one in DEFAULT_AIMS.items() if isinstance(operator, kind)), None)
        if isinstance(operator, Denoise):
            return aim
        if aim is not None and not isinstance(operator, Linear):
            raise InputError(f"{operator.name} is not a linear operator, so it has no aim; leave the aim out")
        if not self.of_methods and isinstance(operator, Inpaint):
            sigma = SIGMA if self.sigma is None else self.sigma
            if expected_error_unseen(operator, sigma) < CLOSE:
                return "fidelity"
        return None if aim == "detail" else aim

    def most_steps_with(self, operator: Operator) -> int:
        """Return an upper bound of `steps_with`, without estimating an error. Raises InputError."""
        if isinstance(operator, Inpaint) and self.aim != "fidelity" and not self.of_methods:
            return PRESETS[self._preset]
        return self.steps_with(operator)

    def steps_with(self, operator: Operator) -> int:
        """Return the most steps of a row with `operator`. Raises InputError."""
        aim = self.aim_with(operator)
        if aim is not None:
            return AIMS[aim] if isinstance(operator, Denoise) else SPLITTING_STEPS
        if self.aim == "detail" and isinstance(operator, Coded):
            return JPEG_STEPS
        preset = self._preset
        if preset not in PRESETS:
            raise InputError(f"there is no preset {preset!r}; choose one of {', '.join(PRESETS)}")
        presets = PRESETS if self.method_with(operator) == "frugal" else PRESETS_FROM_NOISE
        return presets[preset] if self.steps is None else self.steps

    @property
    def _preset(self) -> str:
        """The given preset, or that of the aim detail, or the default."""
        return self.preset or ("fast" if self.aim == "detail" else PRESET)

    def start_with(self, operator: Operator, matched: bool = False) -> float | None:
        """Return the deviation of the noise at the first step, on the [-1, 1] scale; None for pure noise.

        matched: whether the splitting takes gradients.
        """
        aim = self.aim_with(operator)
        if aim is None and self.method_with(operator) != "frugal":
            return None
        assert isinstance(operator, Linear)  # `frugal` and aims need a linear operator
        return self._start_of_frugal(operator) if aim is None else self._start_of_aim(operator, matched)

    def _start_of_aim(self, operator: Linear, matched: bool) -> float:
        """Return the deviation of noise that is assumed in a plain estimate, without drawing any."""
        if isinstance(operator, Denoise):
            return self.noise
        if isinstance(operator, Coded):
            return JPEG_NOISE if operator.hidden is None else DAMAGED_JPEG_NOISE
        least = max(SPLITTING_NOISE, expected_error(operator, self.noise))
        around = operator.name == "deblur" and operator.missing is None
        if around or not operator.unseen:  # a blur leaves unseen what lies around the picture, if anything
            return least
        error, most = SPLITTING_ERROR, SPLITTING_MOST_OF_HOLES if isinstance(operator, Inpaint) else SPLITTING_MOST
        if matched:
            error, most = MATCHED_ERROR, MATCHED_MOST
        return max(least, min(most, (expected_error_unseen(operator, self.noise) / error) ** 4))

    def _start_of_frugal(self, operator: Linear) -> float:
        """Return the deviation of the noise that `frugal` adds to a plain estimate."""
        error = expected_error(operator, self.noise)
        if isinstance(operator, Coded):
            return max(JPEG_RATIO * error, 0.0 if operator.hidden is None else DAMAGED_JPEG_START)
        anew, there = (error / UNIT_ERROR) ** 4, expected_error_unseen(operator, self.noise)
        if not isinstance(operator, Inpaint):
            return min(MOST_NOISE, max(anew, UNSEEN_RATIO * there))
        least = max(HOLE_NOISE, NOISE_RATIO * self.noise, 0 if there < CLOSE else anew)
        return min(MOST_NOISE, max(least, min(HOLE_MOST, (there / HOLE_ERROR) ** 5)))

    def noise_with(self, operator: Operator) -> float:
        """Return the deviation, on the [-1, 1] scale, of the noise that is drawn and added to a plain estimate."""
        return 0.0 if self.aim_with(operator) is not None else self.start_with(operator) or 0.0

    def method_with(self, operator: Operator) -> str:
        """Return the method for `operator`: the given one, else `frugal`, or DPS where the operator is not linear.

        Raises InputError for a method that needs a linear operator, and for settings that the method does not have.
        """
        linear = isinstance(operator, Linear)
        method = (METHOD if linear else "dps") if self.method is None else self.method
        if not linear and method != "dps":
            raise InputError(f"{operator.name} is not a linear operator, which {method} needs; the method dps does not")
        self._check(method)
        return method

    def _check(self, method: str) -> None:
        """Raise InputError for an unknown method, and for settings that it does not have."""
        if method not in METHODS:
            raise InputError(f"there is no method {method!r}; choose one of {', '.join(METHODS)}")
        for name in ("switch", "every", "guidance", "zeta", "lam"):
            if getattr(self, name) not in (None, GUIDANCE[0]) and name not in METHODS[method]:
                having = " and ".join(one for one, names in METHODS.items() if name in names)
                raise InputError(f"{SPELLED.get(name, name)} is a setting of {having}, and the method is {method}")

    def settle(self, operator: Operator, rows: int = 1, sees_all: bool = False) -> "Settled":
        """Return the numbers that `rows` rows with `operator` carry. Raises InputError for invalid settings.

        sees_all: whether the network sees whole images. Only then does the splitting take gradients, as only such a
        network knows what unmeasured values have to do with measured ones far away.
        """
        if self.sigma is not None and not 0 <= self.sigma <= 2:
            raise InputError(f"sigma is on the [-1, 1] scale and must lie in 0..2; got {self.sigma}")
        for name, value, last in (("seed", self.seed, self.seed), ("sample", self.sample, self.sample + rows - 1)):
            if not 0 <= value <= last < 2**64:
                raise InputError(f"{name} must be a whole number in 0..2^64-1 for every row; got {value}")
        aim, steps, noise = self.aim_with(operator), self.steps_with(operator), self.noise_with(operator)
        splits = aim is not None and not isinstance(operator, Coded | Denoise)
        matched = splits and sees_all and operator.unseen > 0
        start = self.start_with(operator, matched)
        if aim is not None:
            power = EVEN if isinstance(operator, Coded | Denoise) else STEEP
            held = isinstance(operator, Denoise) and aim == "fidelity"
            levels = None if held else power
            return Settled(
                None, steps, start, levels, LEAST_NOISE, Switch(0, 0), None, None, None, 1, aim, noise, matched
            )
        method = self.method_with(operator)
        zeta, lam = self._constants(operator, method)
        every = self.every
        if every is not None and (every < 2 or every != int(every)):
            raise InputError(f"every must be a whole number above 1 (for every step, take the method dps); got {every}")
        stride = every or stride_of(steps)
        switch = switch_of(method, steps, self.switch)
        if method == "frugal" and not self._takes_gradients(operator):
            switch = Switch(steps, steps)
        sparse = stride if method == "frugal" else None
        lowest = last_of(operator.name)
        return Settled(method, steps, start, STEEP, lowest, switch, zeta, lam, sparse, stride, None, noise, False)

    def _takes_gradients(self, operator: Operator) -> bool:
        """Return whether `frugal` takes gradients: if a setting asks for them, or if A leaves values unseen.

        The preset "fast" takes none. A gradient carries measured information to unmeasured values; where as many values
        are measured as the image has, it changes nothing.
        """
        if self.switch is not None or self.every is not None:
            return True
        fastest = self.steps is None and self._preset == "fast"
        return not fastest and operator.unseen > 0

    def _constants(self, operator: Operator, method: str) -> tuple[float | None, float | None]:
        """Return zeta and lambda, None where the sampler chooses the step size or the method has no such step."""
        if self.guidance not in (None, *GUIDANCE):
            raise InputError(f"there is no guidance {self.guidance!r}; choose one of {', '.join(GUIDANCE)}")
        zeta, lam = self.zeta, self.lam
        if self.guidance == "official":
            zeta = OFFICIAL_ZETA.get(operator.name, 1.0) if zeta is None else zeta
            lam = OFFICIAL_LAMBDA if lam is None else lam
        for name, value in {"zeta": zeta, "lambda": lam}.items():
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"{name} must be a finite number of at least 0; got {value}")
        return zeta if "zeta" in METHODS[method] else None, lam if "lam" in METHODS[method] else None


class Settled(NamedTuple):
    """The numbers of a restoration. None leaves a step size to the sampler; only `frugal` has `every`."""

    method: str | None
    """One of METHODS; None with an aim."""
    steps: int
    """The number of steps; below pure noise a schedule may have fewer."""
    start: float | None
    """Deviation of the noise at the first step, on the [-1, 1] scale; None for pure noise."""
    power: float | None
    """p: noise levels are even in deviation^(1/p) from `start` down (`Schedule.below`). None: they stay at `start`."""
    last: float
    """Deviation of the noise at the last step; not used where `start` or `power` is None."""
    switch: Switch
    zeta: float | None
    lam: float | None
    every: int | None
    stride: int
    """Steps between the estimates that the switch compares."""
    aim: str | None
    """One of AIMS, where steps are of the probability flow or the splitting; None with a method."""
    noise: float
    """Deviation of the noise that is drawn and added to the estimate; 0 where the noise is only assumed."""
    matched: bool
    """Whether each step of the splitting takes a gradient."""

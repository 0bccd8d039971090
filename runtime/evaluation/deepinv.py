"""deepinv's samplers DPS, DiffPIR and DDRM, on the same network and the same measurement as ours.

deepinv's pictures lie on [0, 1], ours on [-1, 1]: x' = (x + 1) / 2. A is linear, so y = A x + sigma n becomes
(y + A 1) / 2 = A x' + (sigma / 2) n, where A 1 is the measurement of a picture of ones. A 1 is all ones for a mean, a
blur or grey weights that sum to 1. For inpainting it is the mask, so that missing pixels stay 0, as deepinv requires.
"""

import contextlib
import importlib
import importlib.metadata
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...engines import Array, BackendError, InputError, Plan
from ...engines.array_api import array_namespace
from ...engines.betas import UNSAID, train_betas
from ...engines.extras import import_torch
from ...engines.torch.network import build_network, load_weights
from ..operators import Decomposable, Operator
from ..sampling.loop import StepEvent
from ..sampling.noise import Use, generator
from .contender import Contender, OnStep, Outcome, Refused

SAMPLERS = {"dps": True, "diffpir": False, "ddrm": False}
"""Whether each of deepinv's samplers takes a gradient through the network at each step."""
DPS_WEIGHT = 300.0
"""The weight of deepinv's DPS. Its default of 1 hardly guides in 100 steps (13 to 16 dB: samples that ignore y). Its
documentation calls hundreds typical. On a tuning photograph 300 and 1000 differ by less than 1 dB, and 100 is worse."""


def to_unit_range(y: np.ndarray, operator: Decomposable) -> np.ndarray:
    """Convert measurements (B, c, h, w) of pictures on [-1, 1] to those of the same pictures on [0, 1]."""
    white = np.asarray(operator.A(np.ones((1, *operator.image_shape), np.float32)))
    return np.asarray((y + white) / 2, np.float32)


class Basis:
    """A linear operator A = U diag(values) V^T, whose coefficients, (B, m) or (B, m + n), determine the whole image.

    DDRM needs n right singular vectors, and our V may have m < n columns. The coefficients (V^T x, x - V V^T x) replace
    the missing ones, with singular values 0 for the second part. They serve as an orthonormal basis does: they keep
    lengths, x can be computed from them, and white noise in them is white noise in the image.
    """

    def __init__(self, operator: Decomposable):
        self._operator = operator
        self._seen, self._image = operator.measurement_shape, operator.image_shape
        self._m = math.prod(self._seen)
        self._rest = 0 if self._m == math.prod(self._image) else math.prod(self._image)

    def values(self, like: Array) -> Array:
        """Return the singular values (1, m or m + n), on the device of `like`, a measurement of zeros (1, c, h, w)."""
        return self._padded(self._operator.spectrum(like) + like)

    def U(self, s: Array) -> Array:
        return self._operator.U(s[:, : self._m].reshape((-1, *self._seen)))

    def U_adjoint(self, y: Array) -> Array:
        return self._padded(self._operator.Ut(y))

    def V(self, s: Array) -> Array:
        x = self._operator.V(s[:, : self._m].reshape((-1, *self._seen)))
        return x + self._project(s[:, self._m :].reshape((-1, *self._image))) if self._rest else x

    def V_adjoint(self, x: Array) -> Array:
        seen = self._operator.Vt(x).reshape((len(x), -1))
        if not self._rest:
            return seen
        return array_namespace(x).concat([seen, self._project(x).reshape((len(x), -1))], axis=1)

    def _project(self, x: Array) -> Array:
        return x - self._operator.V(self._operator.Vt(x))

    def _padded(self, seen: Array) -> Array:
        """Append zeros for the second part; a copy, as DDRM writes into it."""
        xp, rows = array_namespace(seen), len(seen)
        nothing = xp.zeros((rows, self._rest), dtype=seen.dtype, device=seen.device)
        return xp.concat([seen.reshape((rows, -1)), nothing], axis=1)


class DeepInv:
    """deepinv's samplers with the settings of its documentation, except DPS_WEIGHT, and with the plan's network.

    Raises MissingExtra without torch or diffusers, BackendError where deepinv is missing or cannot be imported.
    """

    def __init__(self, plan: Plan):
        if plan.manifest["network"]["learned_variance"]:
            raise InputError("--vs deepinv works with priors of a fixed variance; this one's is learned")
        self._torch = import_torch("Comparing with deepinv")
        try:
            self._deepinv: Any = importlib.import_module("deepinv")
        except ImportError as error:
            raise BackendError(f"--vs deepinv needs deepinv ({error}); run: pip install deepinv") from error
        except RuntimeError as error:  # torchvision, imported by deepinv, was built for another torch
            raise BackendError(f"deepinv is installed and cannot be imported: {error}") from error
        self.version = importlib.metadata.version("deepinv")
        self._device = "cuda" if self._torch.cuda.is_available() else "cpu"
        self.network = build_network(plan.manifest["network"])
        load_weights(self.network, plan.tensors(), plan.source)
        schedule = plan.manifest["schedule"]
        abar = np.cumprod(1 - train_betas(schedule))
        try:
            wrap = self._deepinv.models.wrapper.ScoreModelWrapper
        except AttributeError as error:
            raise BackendError(
                f"deepinv {self.version} is too old to compare with; run: pip install -U deepinv"
            ) from error
        self._denoiser = wrap(
            self.network,
            prediction_type=schedule.get("prediction_type", UNSAID["prediction_type"]),
            scale_t=self._torch.tensor(abar**0.5, dtype=self._torch.float32),
            variance_preserving=True,
            takes_integer_time=True,
            n_timesteps=len(abar),
            device=self._device,
        )

    def sample(
        self, sampler: str, y: np.ndarray, operator: Operator, sigma: float, steps: int, seed: int
    ) -> np.ndarray:
        """Restore an image (C, H, W) on [-1, 1] by one of SAMPLERS in `steps` network calls; seed in 1 .. 2^32 - 1.

        y: (c, h, w), with noise of deviation `sigma` on the [-1, 1] scale, which DPS does not use. Raises Refused where
        the operator has no SVD.
        """
        if not isinstance(operator, Decomposable):
            raise Refused(f"{operator.name} has no singular value decomposition to hand over")
        torch, sampling = self._torch, self._deepinv.sampling
        measured = torch.from_numpy(to_unit_range(y[None], operator)).to(self._device)
        if sampler == "dps":  # n steps have n + 1 timesteps
            rng = torch.Generator(self._device)
            run = sampling.DPS(self._denoiser, num_steps=steps + 1, weight=DPS_WEIGHT, device=self._device, rng=rng)
            physics = self._deepinv.physics.Physics(A=lambda x, **_: operator.A(x))
            more: dict[str, Any] = {"x_init": (1, *operator.image_shape)}
        else:
            physics, more = self._decomposed(operator, sigma / 2), {}
            if sampler == "ddrm":
                run = sampling.DDRM(self._denoiser, sigmas=np.linspace(1, 0, steps))
            else:
                fidelity = self._deepinv.optim.data_fidelity.L2()
                run = sampling.DiffPIR(self._denoiser, fidelity, sigma=sigma / 2, max_iter=steps, device=self._device)
        with self._own_randomness():
            x = run(measured, physics, seed=seed, **more)
        return np.asarray(x[0].detach().cpu(), np.float32) * 2 - 1

    def _decomposed(self, operator: Decomposable, sigma: float) -> Any:
        """Return `operator` and its noise, on the [0, 1] scale, as deepinv's DecomposablePhysics."""
        basis = Basis(operator)
        return self._deepinv.physics.DecomposablePhysics(
            U=basis.U,
            V_adjoint=basis.V_adjoint,
            U_adjoint=basis.U_adjoint,
            V=basis.V,
            mask=basis.values(self._torch.zeros((1, *operator.measurement_shape), device=self._device)),
            img_size=operator.image_shape,
            noise_model=self._deepinv.physics.GaussianNoise(sigma),
            device=self._device,
        )

    @contextlib.contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Restore torch's random state after the block: DDRM and DiffPIR seed the whole process."""
        before = np.random.get_state()
        try:
            with self._torch.random.fork_rng():
                yield
        finally:
            np.random.set_state(before)


class DeepInvDPS(DeepInv):
    """deepinv's DPS, for `frugal-rt bench --vs`, which measures its time."""

    @property
    def name(self) -> str:
        return f"torch ({self._device}), deepinv.sampling.DPS"

    def restore(self, y: np.ndarray, operator: Operator, steps: int) -> np.ndarray:
        """Restore an image (C, H, W) on [-1, 1] from y (c, h, w), measured by `operator`, in `steps` network calls."""
        return self.sample("dps", y, operator, 0.0, steps, seed=1)


@dataclass(frozen=True)
class DeepInvMethod:
    """A sampler of SAMPLERS as a contender; it restores one image at a time, each with its own seed."""

    library: DeepInv
    sampler: str
    steps: int

    @property
    def name(self) -> str:
        return f"deepinv {self.sampler}"

    def takes(self, operator: Operator, sigma: float) -> bool:
        return True

    def events(self, images: int, operator: Operator, sigma: float) -> int:
        return images * self.steps

    def restore(
        self, y: np.ndarray, operator: Operator, sigma: float, seed: int, sample: int, on_step: OnStep
    ) -> Outcome:
        calls = 0

        def on_call(*_: Any) -> None:
            nonlocal calls
            calls += 1
            on_step(StepEvent(-calls % self.steps, self.steps, (self.name,), (-np.inf,), np.zeros(0)))

        hook = self.library.network.register_forward_hook(on_call)
        images, forwards, started = [], [], time.perf_counter()
        try:
            for i, one in enumerate(y):
                before = calls
                key = int(generator(seed, sample + i, Use.START).integers(1, 2**32))
                images.append(self.library.sample(self.sampler, one, operator, sigma, self.steps, key))
                forwards.append(calls - before)
        except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:  # errors of deepinv and torch
            if isinstance(error, Refused):
                raise
            raise Refused(f"deepinv {self.library.version} failed: {(str(error).splitlines() or [''])[0]}") from error
        finally:
            hook.remove()
        seconds = time.perf_counter() - started
        restored = np.clip(np.stack(images), -1, 1)
        if not np.isfinite(restored).all():
            raise Refused("it left the finite numbers")
        gradients = [count * SAMPLERS[self.sampler] for count in forwards]
        return Outcome(restored, [None] * len(y), forwards, gradients, seconds)


def deepinv_methods(plan: Plan, steps: int) -> list[Contender]:
    """Return a contender for each of SAMPLERS. Raises InputError, MissingExtra or BackendError without deepinv."""
    library = DeepInv(plan)
    return [DeepInvMethod(library, sampler, steps) for sampler in SAMPLERS]

"""Simulation of measurements of a clean photograph."""

import io

import numpy as np

from ...engines import InputError
from ..operators import Operator, Shape
from ..sampling.noise import Use, generator, normal
from .damage import SIGMA, TASK_FIELDS, Damage, boxed_pixels, named_task, refuse_unread
from .decoding import Photo
from .images import to_picture
from .measurement import whole_operator, without


def simulate(photo: Photo, damage: Damage, seed: int = 0) -> tuple[np.ndarray, np.ndarray | None, Operator]:
    """Simulate a measurement y = A x + sigma n of a clean photo.

    Returns y (c, h, w) on [-1, 1] plus noise, the missing pixels (H, W) or None, and the operator. The same seed gives
    the same noise and the same random mask. Without a task it is the one that an option implies, as for restoring; a
    random share alone is inpainting, and noise alone denoising. Raises InputError.
    """
    task = named_task(damage)
    if task is None and damage.share is not None:
        task = "inpaint"
    elif task is None and damage.sigma is not None:
        task = "denoise"
    if task is None:
        raise InputError(f"say what to do to the picture: --task {'|'.join(TASK_FIELDS)}")
    if task == "jpeg":
        raise InputError("the task jpeg writes a JPEG file: the output must end in .jpg")
    if damage.border == "taper":
        raise InputError("--border taper is for restoring a photograph; damage one with circular, mirror or valid")
    if task == "denoise" and damage.sigma is None:
        raise InputError("say how much noise to add: --noise, in grey levels of 255, such as 25")
    clean = photo.pixels if task != "colorize" else photo.colour().pixels
    shape: Shape = (clean.shape[0], clean.shape[1], clean.shape[2])
    refuse_unread(task, damage)
    whole, lost = whole_operator(task, shape, damage), None
    if damage.share is not None:
        if not 0 < damage.share < 1:
            raise InputError(f"the random share of missing pixels must lie between 0 and 1; got {damage.share}")
        drawn = generator(seed, 0, Use.MEASUREMENT, step=1).random(whole.measurement_shape[1:])
        lost = drawn < damage.share
    missing = photo.missing, damage.mask, boxed_pixels(shape[1:], damage), lost
    operator = without(whole, task, damage, missing)
    sigma = SIGMA if damage.sigma is None else damage.sigma
    y = np.asarray(operator.A(clean[None])[0]) + np.float32(sigma) * normal(
        operator.measurement_shape, seed, 0, Use.MEASUREMENT
    )
    return operator.observed(y), operator.missing, operator


def compress(photo: Photo, damage: Damage) -> bytes:
    """Encode a photo as JPEG at `damage.quality`: libjpeg's tables, chroma subsampled 4:2:0.

    Raises InputError for an invalid quality, for noise, a mask, and missing pixels.
    """
    refuse_unread("jpeg", damage)
    if damage.mask is not None:
        raise InputError("a JPEG has every pixel, so none can be lost by --mask; paint over the picture first")
    if damage.quality is None or not 1 <= damage.quality <= 100:
        raise InputError(f"say how far to compress: --quality, 1 to 100; got {damage.quality}")
    if damage.sigma is not None:
        raise InputError("a JPEG's only noise is its rounding; leave --noise and --sigma out")
    if photo.missing is not None:
        raise InputError("the picture has transparent pixels, which a JPEG cannot have; flatten it")
    picture, file = to_picture(photo.pixels), io.BytesIO()
    picture.save(file, "JPEG", quality=damage.quality, subsampling="4:2:0", **photo.metadata.for_picture(picture))
    return file.getvalue()

"""The measurement of a photo: its operator, y and noise, from the photo and its settled damage."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ...engines import InputError
from ..operators import (
    GREY_WEIGHTS,
    Circular,
    Colorize,
    Deblur,
    Decomposable,
    Denoise,
    Inpaint,
    Linear,
    Masked,
    MaskedJpeg,
    MaskedMatrix,
    Matrix,
    Mirrored,
    Operator,
    Partial,
    Shape,
    SuperResolution,
    Tapered,
    WalshHadamard,
    bicubic,
    is_mirrored,
    parse_kernel,
    valid_blur,
)
from ..operators.dense import is_small
from ..operators.kernels import KINDS, valid_part
from ..operators.masks import border_mask
from ..sampling.noise import Use, normal
from .damage import (
    BORDERS,
    FILTERS,
    GREY,
    JPEG_SIGMA,
    TASK_FIELDS,
    VECTORS,
    Damage,
    SettledDamage,
    masked,
    settle,
    whole_factor,
)
from .decoding import MAX_PIXELS, JpegSource, Photo
from .images import fit_photo, pad_photo, turned
from .jpeg import COARSE
from .noise_level import estimate_sigma, least_noise, noise_left, unnamed_sigma
from .saved_again import SavedJpeg

PAINTED = ("inpaint", "outpaint")
"""The tasks whose operator is a mask alone."""
AT_SIZE = (*PAINTED, "deblur")
"""The tasks whose measurement has the photo's own pixels, so that its noise can be told from texture."""
SURROUNDED = "surrounded"
"""The fit of a blurred photo to an image that is larger by what its outer pixels have seen, and is cut off again."""
KEPT = 4
"""The most operators that are kept for later pictures."""
KEPT_BYTES = 256 << 20
"""The most bytes of the kept operators without the last one."""


def told_by_file(photo: Photo, damage: Damage, prior_shape: Shape, any_size: bool, fit: str | None = None) -> Damage:
    """Return `damage` with the task jpeg, where no task is given and the photo is, or was, a coarse JPEG.

    Its quantisation tables must be COARSE, it must be whole, and no noise must be found in it, which would be the
    greater damage. A mask may mark damage in it. The prior must take images of any size, as a JPEG's blocks cannot be
    moved. A kind of JPEG whose coefficients cannot be read is left as it is. Other arguments as in `own_size`. Raises
    InputError as `estimate_sigma`.
    """
    named = not replace(damage, mask=None).leaves_task or damage.sigma is not None or fit is not None
    whole = photo.missing is None and prior_shape[0] == 3
    if named or not any_size or not whole:
        return damage
    coding = photo.coding
    if coding is None or coding.step < COARSE or estimate_sigma(photo.pixels) >= least_noise(photo.is_grey):
        return damage
    try:
        _ = coding.file  # read only for a coarse one, as it takes long for a large photograph
    except InputError:
        return damage
    return replace(damage, task="jpeg", by_file=True)


@dataclass(frozen=True)
class Measurement:
    """A measurement ready to restore."""

    operator: Operator
    y: np.ndarray
    """The measurement (c, h, w), on [-1, 1]."""
    sigma: float
    task: str
    because: str
    """A clause that says how the task and sigma were determined."""
    inside: tuple[slice, slice] | None = None
    """Rows and columns of the picture in the restored image, where it was padded; None: all of them."""
    is_clean: bool = False
    """Whether no damage was given and none was found; `because` then says what was looked for."""
    turn: int = 1
    """EXIF's orientation of the restored image; 1 where it is upright."""
    grey: "Grey | None" = None
    """The conversion of restored images to grey, where the photo is grey and stays so."""

    @property
    def picture(self) -> np.ndarray:
        """(C, H, W): the picture to denoise, without its padding."""
        return self.shown(self.y)

    @property
    def shown(self) -> "Shown":
        """The function that makes pictures of restored images."""
        return Shown(self.inside or (slice(None), slice(None)), self.turn, self.grey)


class Grey(NamedTuple):
    """Conversion of colours to grey."""

    weights: str
    """A name of GREY_WEIGHTS."""
    channels: int
    """The equal channels of the result: as many as the source has."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Convert images (..., 3, H, W) to grey ones (..., `channels`, H, W)."""
        weights = np.asarray(GREY_WEIGHTS[self.weights], np.float32)
        grey = np.tensordot(np.moveaxis(images, -3, -1), weights, 1)[..., None, :, :]
        return np.repeat(grey, self.channels, axis=-3)


class Shown(NamedTuple):
    """Function from restored images to pictures: without padding, upright, and grey where the source is."""

    inside: tuple[slice, slice]
    turn: int
    grey: Grey | None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Convert images (..., C, H, W) to pictures (..., C, h, w)."""
        images = turned(images[(..., *self.inside)], self.turn)
        return images if self.grey is None else self.grey(images)


def prepare(
    photo: Photo,
    image_shape: Shape,
    damage: Damage,
    fit: str | None = None,
    made: dict[Hashable, Any] | None = None,
) -> Measurement:
    """Settle `damage` on `photo` and make the measurement, for a prior of images of `image_shape` (C, H, W).

    Arguments as in `settle` and `measure`. Raises InputError.
    """
    return measure(settle(photo, damage, image_shape, fit), image_shape, fit, made)


def measure(
    settled: SettledDamage, image_shape: Shape, fit: str | None = None, made: dict[Hashable, Any] | None = None
) -> Measurement:
    """Make the measurement of an image of `image_shape` (C, H, W) from a photo with its settled damage.

    fit: how to bring a photo to the size needed: "crop", "resize", "pad", which leaves its surroundings unmeasured, or
    SURROUNDED; after the last two `Measurement.inside` is the picture's part of the restored image. made: a dictionary,
    at first empty, that keeps a few operators over calls with the same Damage, so that pictures of one size share them.

    Where sigma is not given it is `unnamed_sigma`'s. A grey photo is measured by `in_colour`. Raises InputError.
    """
    photo, task, damage, because = settled.photo, settled.task, settled.damage, settled.because
    if task == "jpeg":
        return _compressed(settled, image_shape, fit)
    damage = replace(damage, border=_border(photo, damage, image_shape, fit))
    if task == "outpaint" and damage.keep is None and photo.missing is None:
        photo = _centred(photo, image_shape)
    if damage.border == "valid" and damage.kernel is not None and photo.size == image_shape[:0:-1]:
        photo = _inside(photo, valid_part(_weights(damage.kernel), image_shape))
    made, key = {} if made is None else made, (task, damage.scale, damage.border, image_shape)
    whole = _once(made, key, lambda: whole_operator(task, image_shape, damage))
    photo = _sized(photo, whole.measurement_shape[:0:-1], fit, task)
    operator, missing = whole, (photo.missing, settled.boxes)
    if task in PAINTED or any(mask is not None for mask in (*missing, photo.outside)):
        lost_by = (*key, *(None if mask is None else mask.tobytes() for mask in (*missing, photo.outside)))
        operator = _once(made, lost_by, lambda: without(whole, task, damage, missing, photo.outside))
    seen = _seen(photo)
    lost = None if operator.missing is None else operator.missing[seen].mean()
    if lost:
        share = f"{lost:.0%} of the pixels are missing"
        because = share if isinstance(operator, Inpaint) else f"{because}; {share}"
    y = _measured(photo, operator, task, damage)
    sigma, is_clean, grey = damage.sigma, False, _grey(photo, task, operator)
    found = sigma  # given or estimated; the default says nothing of the picture
    if sigma is None:
        sigma, found = unnamed_sigma(y[(..., *seen)], task == "denoise")
        least = least_noise(photo.is_grey)
        is_clean = damage.task is None and found is not None and found < least
        because += _noise(sigma, found, least if is_clean else None)
        if task in AT_SIZE:
            known = None if operator.missing is None else operator.missing[seen]
            because += _left(noise_left(y[(..., *seen)], known, photo.is_grey))
    if grey is not None and found is not None and not is_clean:
        y, sigma = in_colour(y, sigma)
        because += "; grey stays grey: --task colorize colours it" if damage.task is None else ""
    inside = None
    if fit == SURROUNDED and damage.kernel is not None:
        inside = valid_part(_weights(damage.kernel), image_shape)
    elif photo.outside is not None:
        factor = image_shape[1] // operator.measurement_shape[1]
        inside = (
            slice(factor * seen[0].start, factor * seen[0].stop),
            slice(factor * seen[1].start, factor * seen[1].stop),
        )
    return Measurement(operator, operator.observed(y), sigma, task, because, inside, is_clean, grey=grey)


def _border(photo: Photo, damage: Damage, image_shape: Shape, fit: str | None) -> str | None:
    """Return the border to assume; None leaves the choice to `_blur`.

    Where none is given it is valid for a photo that is surrounded, and for one of the prior's size whose kernel cannot
    be mirrored.
    """
    if fit == SURROUNDED:
        return "valid"
    if damage.border is not None or damage.kernel is None or damage.scale is not None:
        return damage.border
    fills = fit != "pad" and photo.size == image_shape[:0:-1]
    return "valid" if fills and not is_mirrored(_weights(damage.kernel)) else None


def _grey(photo: Photo, task: str, operator: Operator) -> Grey | None:
    """Return how restored images become grey again; None for a photo of colours, or one to be coloured."""
    if operator.measurement_shape[0] != 3 or task in VECTORS or not photo.is_grey:
        return None
    return Grey("mean", len(photo.pixels))


def in_colour(y: np.ndarray, sigma: float) -> tuple[np.ndarray, float]:
    """Return a measurement (3, h, w) of equal channels as one with white noise, and the deviation of that.

    Channels that share their noise say no more than one does: along grey it has sqrt(3) times the deviation. As much is
    added along the colours, where nothing else is.
    """
    among = sigma * 3**0.5
    drawn = normal(y.shape, 0, 0, Use.MEASUREMENT, step=2)  # not as `simulate` draws it
    return y + np.float32(among) * (drawn - drawn.mean(axis=0)), among


def _noise(sigma: float, found: float | None, least: float | None) -> str:
    """Return the clause that says where a sigma that was not given comes from.

    least: in a clean picture, the deviation that its noise stays below; None in others.
    """
    if found is None:
        return f"; sigma {sigma:.3f} assumed"
    levels = f"{127.5 * found:.1f} grey levels of 255"
    if least is None:
        return f"; sigma {sigma:.3f} estimated, {levels}"
    return (
        f", and its noise from pixel to pixel is {levels}, below {127.5 * least:g}: nothing was found wrong; larger "
        "spots, as phones leave them, are not looked for"
    )


def _left(found: float | None) -> str:
    """Return the clause that names the noise which the restoration leaves in; "" where none was found."""
    if found is None:
        return ""
    levels = f"{127.5 * found:.0f}"
    return f", while its noise seems to be {levels} grey levels of 255: --noise {levels} removes that too"


def _compressed(settled: SettledDamage, image_shape: Shape, fit: str | None) -> Measurement:
    """Make the measurement of a JPEG file, of an image of whole coded units in the file's orientation."""
    photo, sigma = settled.photo, settled.damage.sigma
    if fit is not None:
        raise InputError("a JPEG's blocks lie as its file has them, so it is restored at its own size; leave --fit out")
    if photo.missing is not None:
        raise InputError("a JPEG loses no pixels; mark what is to be filled in with --mask")
    coding = _coding_of(photo)
    file = coding.file
    whole = file.operator(image_shape[0])
    if whole.image_shape != image_shape:
        raise InputError(f"a JPEG of {file.size[0]}x{file.size[1]} is restored at its own size, and not at another")
    which = "its tables have" if photo.earlier is None else "the tables of before it was saved again have"
    because = f"{settled.because}; {which} steps of {coding.step:.0f} on average"
    inside = slice(0, file.size[1]), slice(0, file.size[0])
    operator: Operator = whole
    y, mask = file.measurement(whole), settled.damage.mask
    if mask is not None:
        operator = damaged = MaskedJpeg(whole, _as_stored(photo, mask, coding.turn, image_shape))
        because, y = f"{because}; {mask.mean():.0%} of the pixels are missing", damaged.undamaged(y)
    grey = Grey("rec601", len(photo.pixels)) if photo.is_grey else None  # the weights of JPEG's lightness
    sigma = JPEG_SIGMA if sigma is None else sigma
    return Measurement(operator, y, sigma, "jpeg", because, inside, turn=coding.turn, grey=grey)


def _as_stored(photo: Photo, mask: np.ndarray, turn: int, image_shape: Shape) -> np.ndarray:
    """Turn a mask (H, W) of an upright photo to its JPEG's orientation, and pad it to whole units.

    Raises InputError.
    """
    missing = masked(photo, mask).missing
    assert missing is not None
    stored = turned(missing, {6: 8, 8: 6}.get(turn, turn))  # the other turns are their own inverses
    _, height, width = image_shape
    return np.pad(stored, ((0, height - stored.shape[0]), (0, width - stored.shape[1])), "edge")


def _coding_of(photo: Photo) -> JpegSource | SavedJpeg:
    """Return `Photo.coding` of a photo to restore as a JPEG. Raises InputError where it has none."""
    coding = photo.coding
    if coding is None:
        raise InputError(
            "the task jpeg undoes what a JPEG file's own tables did, and this picture is none, nor do its pixels show "
            "that it was one; give the .jpg as it was first saved"
        )
    return coding


def whole_operator(task: str, shape: Shape, damage: Damage) -> Linear:
    """Return the operator of a task for images of `shape` (C, H, W), before any mask; for inpainting the identity.

    Raises InputError, which names the option that is missing or wrong.
    """
    match task:
        case "denoise" | "inpaint" | "outpaint":
            return Denoise(shape)
        case "colorize":
            return Colorize(shape, damage.grey or GREY)
        case "sr":
            if damage.scale is None:
                raise InputError("super-resolution needs its factor: --scale 2 .. 16")
            return _smaller(shape, damage.scale, damage.filter, damage.kernel)
        case "deblur":
            if damage.kernel is None:
                words = ", ".join(KINDS.values())
                raise InputError(f"deblurring needs its kernel: --kernel {words}, in pixels, or a file")
            return _blur(shape, damage.kernel, damage.border)
        case "sense":
            if damage.fraction is None:
                raise InputError("say what share of the Walsh-Hadamard coefficients was measured: --keep-fraction 0.25")
            return WalshHadamard(shape, damage.fraction)
        case _:
            if damage.matrix is None:
                raise InputError("say by which matrix: --matrix A.npy, a row each measured value")
            return Matrix(shape, damage.matrix)


def without(
    whole: Linear,
    task: str,
    damage: Damage,
    missing: Sequence[np.ndarray | None],
    outside: np.ndarray | None = None,
) -> Operator:
    """Return `whole`, the result of `whole_operator`, without the pixels that are missing or outside the picture.

    missing, outside: masks (h, w) bool of its measurement, or None. Raises InputError where the task cannot have
    missing pixels, or must have some, and for a mask of another size.
    """
    marked = [mask for mask in missing if mask is not None]
    if marked and "mask" not in TASK_FIELDS[task]:
        raise InputError(f"the picture has transparent pixels, which {task} cannot use; flatten it, or --task inpaint")
    if not marked and task in PAINTED:
        raise InputError(
            "outpainting needs the box to keep: --keep WIDTHxHEIGHT"
            if task == "outpaint"
            else "inpainting needs to know what is missing: --mask MASK.png (white is missing), --hole WIDTHxHEIGHT, "
            "or transparent pixels"
        )
    masks = marked if outside is None else [*marked, outside]
    if not masks:
        return whole
    lost = _joined(masks, whole.measurement_shape)
    if task in PAINTED:
        return Inpaint(whole.image_shape, lost)
    if isinstance(whole, Tapered):
        raise InputError("edges cannot be tapered where pixels are missing; choose another --border")
    if isinstance(whole, Decomposable) and type(whole).U is Decomposable.U:
        return Masked(whole, lost)
    if isinstance(whole, Partial):
        return Partial(whole.inner, whole.part, lost)
    if not is_small(whole):
        return Partial(whole, missing=lost)
    return MaskedMatrix(whole.image_shape, whole_operator(task, (1, *whole.image_shape[1:]), damage), lost)


def _joined(masks: Sequence[np.ndarray], measurement_shape: Shape) -> np.ndarray:
    """Return the union (h, w) of masks. Raises InputError for a mask of another size."""
    _, height, width = measurement_shape
    for mask in masks:
        if mask.shape != (height, width):
            raise InputError(
                f"the mask is {mask.shape[1]}x{mask.shape[0]} but the image is {width}x{height}; make them equal"
            )
    return np.asarray(np.logical_or.reduce(masks))


def _smaller(shape: Shape, scale: int, filter: str | None, kernel: str | np.ndarray | None) -> Linear:
    if kernel is not None:
        if filter is not None:
            raise InputError("--filter and --kernel both say how resolution was lost; give one")
        return Circular(shape, _weights(kernel), scale)
    if filter not in (None, *FILTERS):
        raise InputError(f"there is no filter {filter!r}; choose one of {', '.join(FILTERS)}")
    return bicubic(shape, scale) if filter == "bicubic" else SuperResolution(shape, scale)


def _blur(shape: Shape, kernel: str | np.ndarray, border: str | None) -> Linear:
    """Return the blur in its cheapest basis: by rows and columns, by cosines, or by Fourier's transform."""
    if border not in (None, *BORDERS):
        raise InputError(f"there is no border {border!r}; choose one of {', '.join(BORDERS)}")
    weights = _weights(kernel)
    if border is None:
        border = "mirror" if is_mirrored(weights) else "circular"
    if border == "valid":
        return valid_blur(shape, weights)
    if border == "taper":
        return Tapered(shape, weights)
    if border == "circular":
        return Circular(shape, weights)
    kind, _, value = kernel.partition(":") if isinstance(kernel, str) else ("", "", "")
    if kind == "gaussian" and "," not in value:
        return Deblur.gaussian(shape, float(value))
    if kind == "uniform":
        return Deblur.uniform(shape, int(value))
    return Mirrored(shape, weights)


def _weights(kernel: str | np.ndarray) -> np.ndarray:
    return parse_kernel(kernel) if isinstance(kernel, str) else kernel


def _measured(photo: Photo, operator: Operator, task: str, damage: Damage) -> np.ndarray:
    """Return the photo's pixels with the channels of `operator`'s measurement, tapered for a Tapered operator."""
    y, channels = photo.pixels, operator.measurement_shape[0]
    if task == "colorize":
        weights = np.asarray(GREY_WEIGHTS[damage.grey or GREY], np.float32)
        y = y if len(y) == 1 else np.tensordot(weights, y, 1)[None]
    elif len(y) != channels:
        y = photo.colour().pixels if channels == 3 else y.mean(axis=0, keepdims=True)
    return operator.taper(y) if isinstance(operator, Tapered) else y


def _seen(photo: Photo) -> tuple[slice, slice]:
    """Return the rows and columns of a photo that hold all pixels that are not `outside`."""
    if photo.outside is None:
        return slice(0, photo.size[1]), slice(0, photo.size[0])
    rows, columns = np.nonzero(~photo.outside)
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)


def _once(made: dict[Hashable, Any], key: Hashable, make: Callable[[], Any]) -> Any:
    """Return `make()`, cached by `key`; the oldest entries beyond KEPT and KEPT_BYTES are dropped."""
    if key not in made:
        made[key] = make()
        while len(made) > KEPT or (len(made) > 1 and sum(one.nbytes for one in made.values()) > KEPT_BYTES):
            made.pop(next(iter(made)))
    return made[key]


class Sizing(NamedTuple):
    """The size at which a photo is restored."""

    image_shape: Shape
    """(C, H, W) of the restored image."""
    fit: str | None
    """The fit of the photo to the prior's size, as in `measure`."""
    said: str = ""
    """A clause that says what the fit loses, or ""."""


def own_size(photo: Photo, damage: Damage, prior_shape: Shape, any_size: bool, fit: str | None = None) -> Sizing:
    """Determine the size of the image that `photo` measures: the photo's, unless `fit` or the damage needs another.

    prior_shape: (C, H, W) of the prior's images. any_size: whether the prior takes other sizes too. A prior of one size
    runs larger images in tiles, and smaller ones are padded. The prior's size is used for measurements that are no
    picture, and for damages of the prior's whole image: a photo smaller by a whole factor, outpainting without a box,
    the inside of a blur. A prior of any size restores what lies around a blurred photo too.

    fit: "crop" or "resize" to the prior's size; "pad" keeps the photo's. Raises InputError for a size that cannot be
    determined, or exceeds MAX_PIXELS.
    """
    channels, least = prior_shape[0], prior_shape[1:]
    if not damage.is_picture:
        return Sizing(prior_shape, fit)
    if damage.task == "jpeg":
        return _size_of_jpeg(photo, prior_shape, any_size, fit)
    if fit in ("crop", "resize"):
        if any_size:
            raise InputError("this prior takes a picture at its own size; leave --fit out")
        return Sizing(prior_shape, fit, _lost(photo, prior_shape, damage, fit))
    width, height = photo.size
    factor = None if any_size else whole_factor(photo, prior_shape)
    is_part = (factor is not None and damage.leaves_task) or _is_whole(photo, damage, least)
    if is_part and not any_size and fit is None:
        return Sizing(prior_shape, None)
    scale = damage.scale or (factor if damage.task == "sr" else 1)
    if scale is None:
        raise InputError("super-resolution needs its factor: --scale 2 .. 16")
    height, width = height * scale, width * scale
    if height * width > MAX_PIXELS:
        raise InputError(f"the image would be {width}x{height}; up to {MAX_PIXELS / 1e6:.0f} megapixels are restored")
    if any_size:
        high, wide = _surrounding(damage)
        around = None if not (high or wide) else SURROUNDED if scale == 1 else "pad"
        return Sizing((channels, height + high * scale, width + wide * scale), around)
    high, wide = (max(n, -(-side // scale) * scale) for n, side in zip((height, width), least, strict=True))
    return Sizing((channels, high, wide), None if (high, wide) == (height, width) else "pad")


def _surrounding(damage: Damage) -> tuple[int, int]:
    """Count the rows and columns around a blurred photo, of its own pixels, that its outer pixels have seen.

    Both are 0 without a blur, and where a given border says what lies there.
    """
    if damage.kernel is None or damage.border not in (None, "valid"):
        return 0, 0
    (high, wide), scale = _weights(damage.kernel).shape, damage.scale or 1
    return (high - 1, wide - 1) if scale == 1 else (2 * -(-(high // 2) // scale), 2 * -(-(wide // 2) // scale))


def _size_of_jpeg(photo: Photo, prior_shape: Shape, any_size: bool, fit: str | None) -> Sizing:
    """Return the size of a JPEG in whole units, as stored. Raises InputError where the prior's images are larger."""
    shape = _coding_of(photo).file.operator(prior_shape[0]).image_shape
    if not any_size and (shape[1] < prior_shape[1] or shape[2] < prior_shape[2]):
        raise InputError(
            f"this prior's images are {prior_shape[2]}x{prior_shape[1]} and the JPEG is {photo.size[0]}x"
            f"{photo.size[1]}; take a prior of any size, such as photo"
        )
    return Sizing(shape, fit)


def _is_whole(photo: Photo, damage: Damage, least: tuple[int, ...]) -> bool:
    """Return whether a photo, no larger than the prior's images, is the part of one that its damage left."""
    within = photo.size[0] <= least[1] and photo.size[1] <= least[0]
    centred = damage.task == "outpaint" and damage.keep is None and photo.missing is None
    return within and (centred or damage.border in ("valid", "taper"))


def _lost(photo: Photo, prior_shape: Shape, damage: Damage, fit: str) -> str:
    """Return a clause on what the fit to the prior's size does to the pixels; "" where the photo has that size."""
    scale = damage.scale or 1
    width, height = prior_shape[2] // scale, prior_shape[1] // scale
    if photo.size == (width, height):
        return ""
    kept = min(1.0, width * height / (photo.size[0] * photo.size[1]))
    how = "cropped and shrunk" if fit == "crop" else "resized"
    less = f", which leaves {kept:.1%} of its pixels" if kept < 1 else ""
    return f"{how} from {photo.size[0]}x{photo.size[1]} to {width}x{height}{less}"


def _sized(photo: Photo, size: tuple[int, int], fit: str | None, task: str) -> Photo:
    if photo.size == size:
        return photo
    if task in VECTORS:
        raise InputError(
            f"the measurement is {photo.size[0]}x{photo.size[1]}, and {task} with this prior starts from a .npy array "
            f"of {size[0]} values a channel, {size[1]} x {size[0]}"
        )
    fits = photo.size[0] <= size[0] and photo.size[1] <= size[1]
    if fit == "pad" and fits:
        return pad_photo(photo, size)
    if fit in (None, "pad"):
        raise InputError(
            f"the picture is {photo.size[0]}x{photo.size[1]}, and {task} as it is asked for starts from "
            f"{size[0]}x{size[1]}; give one of that size, or --fit crop or --fit resize"
        )
    return fit_photo(photo, size, fit)


def _inside(photo: Photo, part: tuple[slice, slice]) -> Photo:
    """Return the part of a blurred photo that depends on no pixels outside of it."""
    rows, columns = part
    return Photo(photo.pixels[:, rows, columns], None if photo.missing is None else photo.missing[rows, columns])


def _centred(photo: Photo, image_shape: Shape) -> Photo:
    """Pad a photo to the prior's size; the border is missing."""
    (width, height), (_, full_height, full_width) = photo.size, image_shape
    if width > full_width or height > full_height or (width, height) == (full_width, full_height):
        raise InputError(
            f"outpainting starts from a picture smaller than {full_width}x{full_height}, or from one of that size and "
            f"the box to keep: --keep WIDTHxHEIGHT; this one is {width}x{height}"
        )
    missing = border_mask(image_shape, width, height)
    pixels = np.zeros((len(photo.pixels), full_height, full_width), np.float32)
    pixels[:, ~missing] = photo.pixels.reshape(len(photo.pixels), -1)
    return Photo(pixels, missing)

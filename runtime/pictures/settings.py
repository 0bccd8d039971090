"""The settings that a restored picture carries, and the record of options in them that `--params` reads."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...engines.files import is_pipe, sha256_of
from ...engines.version import __version__
from ..sampling.guidance import SAMPLER

FILES = ("images", "mask", "kernel", "matrix")
"""Options that name files, whose contents are checked when the options are repeated."""


def png_settings(
    result: Mapping[str, Any],
    k: Sequence[int],
    task: str,
    fit: str | None,
    params: Mapping[str, Any],
    faces: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the settings that a restored picture carries, in JSON's types.

    result, k: of a `Result`. Its settings come first: `operator` (its name and the settings that distinguish it),
    `sigma`, `aim`, `method`, `steps`, `switch`, `every`, `zeta`, `lambda`, `seed`, `sample`, `sampler` (its
    version), `backend`, `tile` (height and width; null where the image was run whole), `prior` and `weights_sha256`.
    `batch` is left out, as it does not affect the picture. The other keys are

    - `frugal_rt`: the package's version.
    - `task`: the settled task.
    - `fit`: how the picture was brought to the prior's size; null where it had that size, or was cut into tiles.
    - `faces`: for each restored face, the largest first, its `frame` (left, top and side of the square in pixels of the
      photograph) and its `sigma`; empty where the whole picture was restored. `operator`, `sigma` and `k` are the first
      one's.
    - `k`: the steps left at the first sample's switch.
    - `samples`: the number of samples. The picture of a single sample has its `sample`; that of the deviation has
      `white`, the deviation on the [-1, 1] scale that is shown white.
    - `params`: the `record` of the options.
    """
    return {
        "frugal_rt": __version__,
        **{name: value for name, value in result.items() if name != "batch"},
        "task": task,
        "fit": fit,
        "faces": [*faces],
        "k": k[0],
        "samples": len(k),
        "params": dict(params),
    }


def record(options: Mapping[str, Any], weights_sha256: str, files: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the record of a request, for `--params` to repeat.

    options: those of `frugal-rt restore` by their parameters' names, in JSON's types, without those left at None or
    False. files: the SHA-256 of each file that an option names, by the option; empty ones are left out.
    """
    return {
        "frugal_rt": __version__,
        "sampler": SAMPLER,
        "options": dict(options),
        "sha256": {"weights": weights_sha256, **{name: list(hashes) for name, hashes in files.items() if hashes}},
    }


def alone(record: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Return a command's record for one of its pictures, with file names instead of paths."""
    options = {**record["options"], "images": [str(source)]}
    for name in ("engine", *FILES):
        if name in options and not (name == "kernel" and not Path(options[name]).suffix):
            options[name] = [Path(one).name for one in options[name]] if name == "images" else Path(options[name]).name
    images = hashes([str(source)])
    return {**record, "options": options, "sha256": {**record["sha256"], **({"images": images} if images else {})}}


def hashes(named: str | Sequence[str]) -> list[str]:
    """Return the SHA-256 of each named file; folders, patterns, words, pipes and unreadable files have none."""
    found = []
    for one in [named] if isinstance(named, str) else named:
        if one == "-" or is_pipe(Path(one)):  # it can be read only once, which decoding does
            continue
        with contextlib.suppress(OSError):  # opening it later reports the error
            found.append(sha256_of(Path(one)))
    return found

"""The options of a restoration kept, and used again: --params, --save-params, and in every result's file."""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..engines import InputError, Plan
from ..engines.files import atomic_write, is_there
from ..engines.plan import WEIGHTS
from ..runtime.pictures import settings
from ..runtime.pictures.formats import PICTURES, read_settings
from ..runtime.pictures.images import read_bytes
from ..runtime.restorer import Restorer
from ..runtime.sampling.guidance import OF_METHODS, SAMPLER
from .grouped import Grouped

NOT_KEPT = (
    *("output", "kind", "force", "resume", "traces", "save_steps", "video", "save_params", "as_json"),
    *("devices", "ray", "workers"),
)
"""Options that --params never repeats: the files to write, and the machines and devices to use."""
META = "frugal_rt.params"
BY_METHOD = tuple("steps_" if name == "steps" else name for name in OF_METHODS)
ALTERNATIVES = ((("noise",), ("sigma",)), (("aim",), BY_METHOD))
"""Options, by their parameters' names, that cannot be given together: one of the first with one of the second."""
SOURCES = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP, ParameterSource.ENVIRONMENT)
"""Sources of options, the first before the others; --params is the second."""
DECIDE = {"backend": "by {}", "tile": "in tiles of {}", "sampler": "by version {} of the sampler"}
"""Words for a result's settings that the machine and the version decide, by their names."""


class Repeating(Grouped):
    """A command with --params: of two alternatives, that of the nearer source takes the other's place."""

    def invoke(self, ctx: click.Context) -> Any:
        for sides in ALTERNATIVES:
            near, far = sorted(sides, key=lambda names: _rank(ctx, names))
            if _rank(ctx, near) < _rank(ctx, far):
                ctx.params.update(dict.fromkeys(far))
        return super().invoke(ctx)


def _rank(ctx: click.Context, names: Sequence[str]) -> int:
    """The place in SOURCES of the nearest that says one of the options; after all of them where none does."""
    said = [ctx.get_parameter_source(name) for name in names if ctx.params.get(name) is not None]
    return min((SOURCES.index(source) for source in said if source in SOURCES), default=len(SOURCES))


def _use(ctx: click.Context, option: click.Parameter, path: Path | None) -> None:
    """The options in a file as the command's defaults: what stands on the command line goes before."""
    if path is None:
        return
    whole, kept = _read(path)
    if kept.get("sampler", 1) == 1:
        kept["options"] = _translated(kept["options"])
    known = {parameter.name for parameter in ctx.command.params if parameter.name not in (*NOT_KEPT, "params")}
    for name in kept["options"]:
        if name not in known:
            near = difflib.get_close_matches(name, [one for one in known if one], 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"{path.name}: restore has no option {name!r}{hint}")
    ctx.meta[META] = path, kept, whole
    for parameter in ctx.command.params:
        if parameter.name in kept["options"]:
            parameter.envvar = None  # FILE goes before the environment, or it would not say what was done
    ctx.default_map = {**(ctx.default_map or {}), **_beside(path.parent, kept["options"])}


params = click.option(
    "--params",
    metavar="FILE",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_use,
    help="Take every option from FILE: a picture restored before, or a .json of --save-params. Options given here go "
    "before it, and it goes before the environment.",
)
save_params = click.option(
    "--save-params",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the options to FILE, a .json for --params.",
)


def record(ctx: click.Context, plan: Plan) -> dict[str, Any]:
    """Record the running command's options for --params, with the hashes of `plan`'s weights and of every file named.

    Raises InputError where --params was given, and a file it was made with or the plan's weights is another now. A
    picture from the service was made with files that it does not name: they must be named now.
    """
    options = {
        name: _plain(value)
        for name, value in ctx.params.items()
        if name not in NOT_KEPT and value is not None and value is not False
    }
    files = {name: settings.hashes(options[name]) for name in settings.FILES if name in options}
    now = settings.record(options, plan.manifest["members"][WEIGHTS]["sha256"], files)
    if META in ctx.meta:
        path, before, _ = ctx.meta[META]
        _refuse_others(ctx, path, before.get("sha256", {}), now["sha256"])
    return now


def repeated(ctx: click.Context) -> dict[str, Any]:
    """The settings of the picture of --params where it is to be repeated: by any backend, from the same picture.

    Empty where the command line names a backend or another picture, and where --params is a .json.
    """
    _, before, whole = ctx.meta.get(META, (None, {}, {}))
    images = before.get("sha256", {}).get("images")
    other = images is not None and settings.hashes(_plain(ctx.params["images"])) != images
    named = ctx.get_parameter_source("backend") is ParameterSource.COMMANDLINE
    found: dict[str, Any] = {} if other or named else whole
    return found


def tile(whole: dict[str, Any]) -> tuple[int, int] | None:
    """The tiles of the `repeated` settings, height and width, or None. Raises InputError."""
    said = whole.get("tile")
    if said is None:
        return None
    if not (isinstance(said, list) and len(said) == 2 and all(type(side) is int and side > 0 for side in said)):
        raise InputError(f"the picture of --params says tiles of no size: {said}")
    return said[0], said[1]


def refuse_another_way(whole: dict[str, Any], restorer: Restorer) -> None:
    """Raise InputError where the `repeated` settings are of another way than `restorer` restores in."""
    tiles = None if restorer.tile is None else [*restorer.tile]
    here: dict[str, Any] = {"backend": restorer.engine.name, "tile": tiles, "sampler": SAMPLER}
    if whole:
        whole = {"sampler": whole.get("method"), **whole}  # version 1 said it there
    for name, words in DECIDE.items():
        if name in whole and whole[name] != here[name]:
            was, now = ("whole" if one is None else words.format(_sides(one)) for one in (whole[name], here[name]))
            raise InputError(
                f"what --params names was restored {was}, and here it would be {now}, which gives other pixels; say "
                "--backend to have them, or leave --params out"
            )


def _sides(value: Any) -> str:
    """Tiles as WIDTHxHEIGHT; anything else as it is."""
    return "x".join(map(str, reversed(value))) if isinstance(value, list) else str(value)


def save(path: Path, kept: dict[str, Any]) -> None:
    with atomic_write(path) as file:
        file.write(json.dumps(kept, indent=1).encode() + b"\n")


def _refuse_others(ctx: click.Context, path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise InputError where a hash that --params brought is another now, unless the command line named that file."""
    for name, digest in before.items():
        if name in settings.FILES and ctx.params.get(name) is None:
            raise InputError(f"{path.name} was made with a {name} that it does not name; give it: --{name} FILE")
        option = "engine" if name == "weights" else name
        if ctx.get_parameter_source(option) is ParameterSource.DEFAULT_MAP and now.get(name) != digest:
            what = "the plan holds other weights" if name == "weights" else f"{name}: the file is another one"
            raise InputError(f"{what} than {path.name} was made with; name the right one, or leave --params out")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a file's settings as a picture ({} of a .json) and its record of options. Raises InputError."""
    whole: dict[str, Any] = {}
    if path.suffix.lower() in PICTURES:
        whole = read_settings(path) or {}
        kept = whole.get("params")
        if kept is None:
            raise InputError(f"{path.name} does not say how it was restored; frugal-rt's pictures do")
    else:
        data = read_bytes(path)
        try:
            kept = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path.name} holds no options of a restoration: {error}") from error
    if not isinstance(kept, dict) or not isinstance(kept.get("options"), dict):
        raise InputError(f'{path.name} holds no options: it should read {{"options": {{"steps": 50, ...}}}}')
    return whole, kept


def _translated(options: dict[str, Any]) -> dict[str, Any]:
    """Return what the options of the sampler's version 1 are called now: its hybrid is frugal, its dmps closed-form.

    With constants of the papers its two were, and are, the poster's hybrid and DMPS.
    """
    constant = options.get("guidance") == "official" or any(options.get(name) is not None for name in ("zeta", "lam"))
    if options.get("method", "hybrid" if constant else None) == "hybrid":
        return {**options, "method": "hybrid" if constant else "frugal"}
    if options.get("method") == "dmps" and not constant:
        return {**options, "method": "closed-form"}
    return options


def _beside(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Files looked up in `folder`, and where they are not there, as they are named."""

    def found(name: str) -> str:
        return str(folder / name) if is_there(folder / name) else name

    return {
        name: [found(one) for one in value]
        if isinstance(value, list)
        else found(value)
        if name in ("engine", *settings.FILES) and isinstance(value, str)
        else value
        for name, value in options.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value

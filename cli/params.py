"""Options of a restoration, kept and used again: --params, --save-params, and the record in each result's file."""

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
"""Pairs of alternatives, by parameter names: an option of the first excludes every option of the second."""
SOURCES = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP, ParameterSource.ENVIRONMENT)
"""Sources of an option's value, the one that wins first; --params is DEFAULT_MAP."""
DECIDE = {"backend": "by {}", "tile": "in tiles of {}", "sampler": "by version {} of the sampler"}
"""Phrases for the settings of a result that the machine and the version decide, by setting."""


class Repeating(Grouped):
    """A command with --params. Of two ALTERNATIVES, the one from the earlier of SOURCES replaces the other."""

    def invoke(self, ctx: click.Context) -> Any:
        for sides in ALTERNATIVES:
            near, far = sorted(sides, key=lambda names: _rank(ctx, names))
            if _rank(ctx, near) < _rank(ctx, far):
                ctx.params.update(dict.fromkeys(far))
        return super().invoke(ctx)


def _rank(ctx: click.Context, names: Sequence[str]) -> int:
    """Return the index of the first of SOURCES that sets one of the options; len(SOURCES) where none does."""
    said = [ctx.get_parameter_source(name) for name in names if ctx.params.get(name) is not None]
    return min((SOURCES.index(source) for source in said if source in SOURCES), default=len(SOURCES))


def _use(ctx: click.Context, option: click.Parameter, path: Path | None) -> None:
    """Use the options in the file `path` as the command's defaults; the command line overrides them."""
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
            parameter.envvar = None  # FILE overrides the environment, so that it repeats what was done
    ctx.default_map = {**(ctx.default_map or {}), **_beside(path.parent, kept["options"])}


params = click.option(
    "--params",
    metavar="FILE",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_use,
    help="Take every option from FILE: a picture restored before, or a .json of --save-params. Options given here "
    "override it, and it overrides the environment.",
)
save_params = click.option(
    "--save-params",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the options to FILE, a .json for --params.",
)


def record(ctx: click.Context, plan: Plan) -> dict[str, Any]:
    """Record the running command's options for --params, with the hashes of `plan`'s weights and of every file named.

    Raises InputError where --params was given, and the plan's weights or a named file are not those it was made with. A
    picture from the service does not name the files that it was made with: the command line must name them.
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
    """Return the settings of the picture named by --params, where the run is to repeat it pixel for pixel.

    Empty where the command line names a backend or another picture, and where --params is a .json file.
    """
    _, before, whole = ctx.meta.get(META, (None, {}, {}))
    images = before.get("sha256", {}).get("images")
    other = images is not None and settings.hashes(_plain(ctx.params["images"])) != images
    named = ctx.get_parameter_source("backend") is ParameterSource.COMMANDLINE
    found: dict[str, Any] = {} if other or named else whole
    return found


def tile(whole: dict[str, Any]) -> tuple[int, int] | None:
    """Return the height and width of the tiles in the `repeated` settings, or None. Raises InputError."""
    said = whole.get("tile")
    if said is None:
        return None
    if not (isinstance(said, list) and len(said) == 2 and all(type(side) is int and side > 0 for side in said)):
        raise InputError(f"the picture of --params names tiles of an invalid size: {said}")
    return said[0], said[1]


def refuse_another_way(whole: dict[str, Any], restorer: Restorer) -> None:
    """Raise InputError where `restorer` would compute otherwise than the `repeated` settings say (DECIDE)."""
    tiles = None if restorer.tile is None else [*restorer.tile]
    here: dict[str, Any] = {"backend": restorer.engine.name, "tile": tiles, "sampler": SAMPLER}
    if whole:
        whole = {"sampler": whole.get("method"), **whole}  # version 1 of the sampler wrote it under "method"
    for name, words in DECIDE.items():
        if name in whole and whole[name] != here[name]:
            was, now = ("whole" if one is None else words.format(_sides(one)) for one in (whole[name], here[name]))
            raise InputError(
                f"the picture of --params was restored {was}, and here it would be {now}, which gives other pixels; "
                "name a --backend to accept them, or leave --params out"
            )


def _sides(value: Any) -> str:
    """Write tiles as WIDTHxHEIGHT; return any other value as it is."""
    return "x".join(map(str, reversed(value))) if isinstance(value, list) else str(value)


def save(path: Path, kept: dict[str, Any]) -> None:
    with atomic_write(path) as file:
        file.write(json.dumps(kept, indent=1).encode() + b"\n")


def _refuse_others(ctx: click.Context, path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise InputError where a file's hash differs from the one in --params, unless the command line named the file."""
    for name, digest in before.items():
        if name in settings.FILES and ctx.params.get(name) is None:
            raise InputError(f"{path.name} was made with a {name} that it does not name; give it: --{name} FILE")
        option = "engine" if name == "weights" else name
        if ctx.get_parameter_source(option) is ParameterSource.DEFAULT_MAP and now.get(name) != digest:
            what = "the plan holds other weights" if name == "weights" else f"{name}: the file is another one"
            raise InputError(f"{what} than {path.name} was made with; name the right one, or leave --params out")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a file's settings ({} for a .json file) and its recorded options. Raises InputError."""
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
    """Translate recorded options of version 1 of the sampler: its hybrid is now frugal, its dmps is closed-form.

    Where the record sets the papers' constants, they were the poster's hybrid and DMPS, and keep their names.
    """
    constant = options.get("guidance") == "official" or any(options.get(name) is not None for name in ("zeta", "lam"))
    if options.get("method", "hybrid" if constant else None) == "hybrid":
        return {**options, "method": "hybrid" if constant else "frugal"}
    if options.get("method") == "dmps" and not constant:
        return {**options, "method": "closed-form"}
    return options


def _beside(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Resolve the options' file names in `folder`; a name without a file there is kept as it is."""

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

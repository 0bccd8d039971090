"""Hold one tree's restorations to another's, pixel by pixel, through the public doors: commands, HTTP and Python.

    PYTHONPATH=/before/.cache python tests/studies/same_pixels.py --engine celeba.plan -o before.json
    PYTHONPATH=/after/.cache  python tests/studies/same_pixels.py --engine celeba.plan --against before.json

.cache/frugal_rt is a link to the tree, as `make lint` makes it; the first line printed names the tree that ran. No name
is imported that may move, so one copy of this file serves both trees. Use one plan, one machine, and the packages of
`make test`. Decompositions and optimised graphs are made anew, in a cache of the run's own.

"pixels" is the SHA-256 of an output's type, shape and values; settings are the JSON in PNGs, of --json, X-Frugal-RT and
Result.settings, paths relative. Left out is what two runs of one tree do not share: "seconds"; the demo's sheet, which
shows them; and "batch" in shared-*, where a timing chooses it. `--allow-settings frugal_rt` lets a new version pass.
"""

import hashlib
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageSequence

from frugal_rt import Pool, Restorer, operators

FRUGAL_RT = Path(sys.executable).with_name("frugal-rt")
PATH = click.Path(path_type=Path)


def measured(damage: str, *settings: str, only: str = "", of: str = "face.png", y: str = "y.png") -> list[str]:
    """Commands that damage the picture `of` and restore it by each of `settings`; `only` is for the damage."""
    restore = [f"restore {y} {damage} {how} -o {i}.png" for i, how in enumerate(settings or [""])]
    return [f"degrade ../{of} {damage} {only} -o {y}", *restore]


METHODS = ("--method frugal", "--method dps", "--method closed-form")
BORDERS = ("--border mirror", "--border circular --method dps", "--border valid", "--border taper --method dmps")
COMMANDS = {
    "denoise": measured("--task denoise", *METHODS, only="--sigma 0.25"),
    "box": measured(
        "--task inpaint --hole 24x24", *METHODS, "--method hybrid --zeta 2 --lambda 1.5 --switch 2 --seed 3"
    ),
    "random": measured("--task inpaint", "--every 3 --trace trace.csv", only="--random 0.7"),
    "random-npy": measured("--task inpaint", "--guidance official", only="--random 0.5 --sigma 0.1", y="y.npy"),
    "text": measured("--task inpaint --mask ../text.png --sigma 13/255", "--save-steps steps --video steps.gif"),
    "outpaint": measured("--task outpaint --keep 40x40"),
    "sr-4": measured("--task sr --scale 4", *METHODS),
    "sr-16": measured("--task sr --scale 16", *METHODS[1:], of="waves.png"),
    "sr-bicubic": measured("--task sr --scale 4 --filter bicubic"),
    "sr-kernel": measured("--task sr --scale 2 --kernel gaussian:1.2"),
    "sr-random": measured("--task sr --scale 4", only="--random 0.3"),
    "colorize": measured("--task colorize --grey rec709"),
    "gaussian": measured("--task deblur --kernel gaussian:1.5", *BORDERS),
    "motion": measured("--task deblur --kernel motion:7,0", *BORDERS),
    "motion-turned": measured("--task deblur --kernel motion:7,30 --sigma 0.05"),
    "uniform": measured("--task deblur --kernel uniform:5", *BORDERS, only="--size 64x64", of="photo.png"),
    "kernel-file": measured("--task deblur --kernel ../kernel.npy", of="waves.png"),
    "sense": measured("--task sense --keep-fraction 0.25", y="y.npy"),
    "matrix": measured("--task matrix --matrix ../matrix.npy", y="y.npy"),
    "fit-crop": ["restore ../photo.png --fit crop --sigma 0.1 -o y.png"],
    "fit-pad": measured("--task inpaint --hole 12x16", "--fit pad", of="small.png"),
    "align": measured("--task denoise --sigma 0.1", "--align", of="photo.png"),
    "align-colorize": ["restore ../photo.png --align --task colorize -o y.png"],
    "params": [*measured("--scale 4", "--seed 8 --save-params kept.json", only="--task sr"), "restore --params 0.png"],
    "shared-samples": measured("--task sr --scale 4", "--samples 3"),
    "shared-tiles": measured("--task denoise --sigma 0.2", "--tile", of="wide.png"),
    "shared-tiles-blur": measured("--task deblur --kernel motion:7,30 --border valid", "--tile", of="wide.png"),
    "shared-folder": ["! restore ../folder -o restored"],
    "demo": ["demo -o ."],
}
"""By name, what is run in an empty folder of that name; a command after `!` exits with 1."""
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "denoise": ("face.png", {"task": "denoise", "sigma": 0.1, "preset": "fast", "steps": None}),
    "box": ("face.png", {"task": "inpaint", "hole": [24, 24], "seed": 7, "method": "dps"}),
    "sr": ("folder/tiny.png", {"zeta": 1.5, "lambda": 1.5}),
    "colorize": ("folder/grey.png", {"switch": 2, "seed": 7}),
    "motion": ("face.png", {"kernel": "motion:5,20", "border": "taper", "sigma": 0.05, "every": 3}),
    "outpaint": ("small.png", {"task": "outpaint", "guidance": "official"}),
    "resize": ("photo.png", {"task": "colorize", "grey": "mean", "fit": "resize", "method": "closed-form"}),
    "tile": ("wide.png", {"tile": True, "sigma": 0.1}),
}


def draw(folder: Path, face: Image.Image) -> None:
    """Write what the cases start from, of one face and one seed."""
    random, exif = np.random.default_rng(0), Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    wide = Image.fromarray(random.integers(0, 256, (6, 5, 3), np.uint8)).resize((80, 96))
    photo, text = wide.resize((200, 150)), Image.new("L", face.size)
    photo.paste(face, (70, 30))
    ImageDraw.Draw(text).text((2, 10), "same pixels\nsame face\nsame text", 255)
    (folder / "folder").mkdir()
    pictures = {"face": face, "small": face.crop((8, 8, 48, 56)), "text": text, "photo": photo, "wide": wide}
    pictures |= {"waves": wide.crop((8, 8, 72, 72)), "folder/grey": face.convert("L")}
    pictures |= {"folder/palette": face.quantize(32), "folder/tiny": face.reduce(4)}
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png")
    face.save(folder / "folder/turned.jpg", exif=exif)
    (folder / "folder/broken.png").write_bytes(b"\x89PNG\r\n")
    np.save(folder / "kernel.npy", random.random((5, 7)) ** 3)
    np.save(folder / "matrix.npy", random.standard_normal((256, 64 * 64)) / 64)


class Outputs(defaultdict[str, dict[str, Any]]):
    """Digests of pixels, and settings by dotted keys, of each case/output."""

    def array(self, name: str, array: np.ndarray) -> None:
        self[name]["pixels"] = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode() + array.tobytes()).hexdigest()

    def settings(self, name: str, value: Any, key: str = "") -> None:
        if isinstance(value, (dict, list, tuple)):
            for part, inner in value.items() if isinstance(value, dict) else enumerate(value):
                self.settings(name, inner, f"{key}.{part}" if key else str(part))
        elif key != "seconds" and not key.endswith(".seconds") and (key, name[:7]) != ("batch", "shared-"):
            self[name][key] = value

    def file(self, name: str, data: bytes) -> None:
        if name.endswith(".json"):
            self.settings(name, json.loads(data))
        elif name.endswith((".npy", ".csv")):
            self.array(name, np.load(io.BytesIO(data)) if name.endswith(".npy") else np.frombuffer(data, np.uint8))
        else:
            picture = Image.open(io.BytesIO(data))
            self.settings(name, json.loads(picture.info.get("frugal-rt", "{}")))
            frames = [np.asarray(frame.convert("RGBA")) for frame in ImageSequence.Iterator(picture)]
            self.array(name, np.asarray(picture) if len(frames) == 1 else np.stack(frames))


def ask(outputs: Outputs, folder: Path) -> None:
    """Start the service, draw the pictures from its own, send every request of REQUESTS, and end it by SIGTERM."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        host, port = free.getsockname()
    process = subprocess.Popen([FRUGAL_RT, *f"serve -e celeba.plan --backend cpu --port {port}".split()], cwd=folder)
    try:
        while socket.socket().connect_ex((host, port)) and process.poll() is None:
            time.sleep(0.1)
        with httpx.Client(base_url=f"http://{host}:{port}", timeout=300) as client:
            draw(folder, Image.open(io.BytesIO(client.get("/sample.png").raise_for_status().content)))
            for name, (picture, parameters) in REQUESTS.items():
                data = {"parameters": json.dumps({"steps": 6, **parameters})}
                answer = client.post("/v1/restore", files={"image": (folder / picture).read_bytes()}, data=data)
                outputs.file(f"http/{name}.png", answer.raise_for_status().content)
                outputs.settings(f"http/{name}", json.loads(answer.headers["x-frugal-rt"]))
    finally:
        process.terminate()
        outputs.settings("http/serve", {"status": process.wait()})


def call(outputs: Outputs, folder: Path) -> None:
    """Restore by Restorer and Pool, with operators that Python has alone, and with several rows at once."""
    restorer, random = Restorer.load(folder / "celeba.plan", "cpu"), np.random.default_rng(1)
    pictures = (np.asarray(Image.open(folder / f"{name}.png"), np.float32) for name in ("face", "waves", "wide"))
    face, waves, wide = (picture.transpose(2, 0, 1) / 127.5 - 1 for picture in pictures)
    shape = restorer.image_shape
    sr, half = operators.SuperResolution(shape, 4), operators.Inpaint(shape, random.random(shape[1:]) < 0.5)
    blur, grey = operators.Circular(shape, np.load(folder / "kernel.npy")), operators.Colorize(wide.shape, "mean")
    hdr = operators.Custom(shape, shape, lambda x: (2 * x).clip(-1, 1), lambda x, r: 2 * r * (abs(2 * x) < 1), "hdr")
    phase = operators.Custom.from_torch(shape, shape, lambda x: torch.fft.fft2(x, norm="ortho").abs(), "phase")

    def asked(operator: Any, *images: np.ndarray) -> dict[str, Any]:
        y = operator.A(np.stack(images))
        noisy = y + np.float32(0.05) * random.standard_normal(y.shape, np.float32)
        return {"y": noisy if len(images) > 1 else noisy[0], "operator": operator, "sigma": 0.05, "steps": 6}

    results = {one.name: restorer.restore(**asked(one, face), seed=2**40, sample=5) for one in (half, hdr, phase)}
    results["batch"] = restorer.restore(**asked(blur, face, waves))
    results["tiled"] = restorer.at(*wide.shape[1:]).restore(**asked(grey, wide))
    with Pool(folder / "celeba.plan", "cpu") as pool:
        futures = [pool.submit(**asked(operator, face, waves)) for operator in (sr, blur, half)]
        results |= {f"pool-{i}": future.result() for i, future in enumerate(futures)}
    for name, result in results.items():
        outputs.array(f"shared-python/{name}", result.image)
        outputs.settings(f"shared-python/{name}", result.settings)


def run(outputs: Outputs, folder: Path, case: str) -> None:
    """Run a case of COMMANDS, and keep what its commands say and every file that they leave."""
    here, threads = folder / case, {"FRUGAL_RT_THREADS": "1", "OMP_NUM_THREADS": "1"}
    here.mkdir()
    for i, line in enumerate(COMMANDS[case]):
        words = [FRUGAL_RT, *shlex.split(line.removeprefix("! ")), "--json"]
        if words[1] != "degrade":
            words += ["-e", "../celeba.plan", "--backend", "cpu", "--steps", "6"]
        ended = subprocess.run(words, cwd=here, env=os.environ | threads, capture_output=True, text=True, check=False)
        if ended.returncode != line.startswith("!"):
            raise click.ClickException(f"{case}: {line}: {ended.stderr}")
        outputs.settings(f"{case}/said-{i}", json.loads(ended.stdout))
    for path in {*here.rglob("*.*")} - {folder / "demo" / "sheet.png"}:
        outputs.file(path.relative_to(folder).as_posix(), path.read_bytes())


def differences(before: dict[str, Any], now: dict[str, Any], allowed: set[str]) -> list[str]:
    """List each output whose pixels differ or are missing, and each change of a setting that is not allowed."""
    pixels, changes = [], defaultdict(list)
    for name in sorted({*before} | {*now}):
        was, is_ = ({key: json.dumps(one) for key, one in side.get(name, {}).items()} for side in (before, now))
        for key in sorted(dict(was.items() ^ is_.items())):
            change = f"{key} {was.get(key, 'missing')} -> {is_.get(key, 'missing')}"
            if key == "pixels":
                pixels.append(f"{name}: {change}")
            elif not allowed & {key, *key.split(".")}:
                changes[f"setting {change}"].append(name)
    return pixels + [f"{change}, {len(names)} times, first in {names[0]}" for change, names in changes.items()]


@click.command(help=__doc__)
@click.option("-e", "--engine", metavar="PLAN", type=PATH, help="Default: celeba, exported by the tree.")
@click.option("-o", "--output", metavar="FILE.json", type=PATH, help="Write what came out.")
@click.option("--against", metavar="FILE.json", type=PATH, help="Compare with that; a difference exits with 1.")
@click.option("--allow-settings", metavar="KEY", multiple=True, help="Let a setting differ, by a part of its name.")
@click.option("--keep", metavar="FOLDER", type=PATH, help="Leave every picture in this new folder.")
def main(
    engine: Path | None, output: Path | None, against: Path | None, allow_settings: tuple[str, ...], keep: Path | None
) -> None:
    click.echo(f"the tree of {operators.__file__}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the service ends with this process
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(2) as threads:
        folder, outputs = keep.absolute() if keep else Path(temporary, "cases"), Outputs(dict)
        folder.mkdir()
        os.environ["FRUGAL_RT_CACHE"] = str(Path(temporary, "cache"))
        os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))  # commands run elsewhere
        if engine is None:
            subprocess.run([FRUGAL_RT, "export", "--model", "celeba", "--no-build"], cwd=folder, check=True)
        else:
            (folder / "celeba.plan").symlink_to(engine.absolute())
        ask(outputs, folder)
        call(outputs, folder)
        list(threads.map(lambda case: run(outputs, folder, case), COMMANDS))
    if output is not None:
        output.write_text(json.dumps(outputs, indent=1, sort_keys=True) + "\n")
    if against is not None:
        lines = differences(json.loads(against.read_text()), outputs, {*allow_settings})
        click.echo("\n".join(lines) or f"{len(outputs)} outputs, the same pixels and settings")
        sys.exit(bool(lines))


if __name__ == "__main__":
    main()

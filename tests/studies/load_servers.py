"""The two servers that load.py asks: frugal-rt's, writing down what each network call did, and LitServe's.

python tests/studies/load_servers.py ours celeba.plan --port 8166 --calls calls.jsonl
python tests/studies/load_servers.py litserve celeba.plan --port 8167 --batch 8 --wait 0.05
"""

import base64
import json
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from frugal_rt import Restorer
from frugal_rt.runtime.pictures.decoding import decode_photo
from frugal_rt.runtime.pictures.images import encode_png, to_picture
from frugal_rt.runtime.pictures.measurement import prepare
from frugal_rt.runtime.sampling.guidance import Guidance
from frugal_rt.runtime.service.parameters import Parameters

try:
    from litserve import LitAPI, LitServer
except ImportError:
    LitAPI = object


class API(LitAPI):  # type: ignore[misc, valid-type]
    """Whole requests in a batch: each waits for the batch before it, and ends when its own does."""

    def __init__(self, plan: str, backend: str, batch: int, wait: float):
        super().__init__(max_batch_size=batch, batch_timeout=wait if batch > 1 else 0.0)
        self._plan, self._backend = plan, backend

    def setup(self, device: str) -> None:
        self.restorer = Restorer.load(self._plan, self._backend)
        for size in (1, 2, 4, 8, 16):  # as our worker, warm before it answers
            self.restorer.engine.prepare(True, size)
        self.restorer._fastest_batch(16)

    def decode_request(self, request: dict[str, str]) -> Any:
        parameters = Parameters.read(request["parameters"])
        photo = decode_photo(base64.b64decode(request["image"]), "the image")
        return photo, prepare(photo, self.restorer.image_shape, parameters.damage(None), parameters.fit), parameters

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def predict(self, inputs: Any) -> Any:
        asked = inputs if isinstance(inputs, list) else [inputs]
        groups = [
            self.restorer._begin(job.y, job.operator, Guidance(sigma=job.sigma, **parameters.settings()))
            for _, job, parameters in asked
        ]
        images = [
            encode_png(to_picture(result.image[0]), result.settings, photo.metadata)
            for (photo, _, _), result in zip(asked, self.restorer._finish(groups), strict=True)
        ]
        return images if isinstance(inputs, list) else images[0]

    def encode_response(self, output: bytes) -> dict[str, str]:
        return {"image": base64.b64encode(output).decode()}


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.argument("plan")
@click.option("--port", type=int, required=True)
@click.option("--backend", default="auto")
@click.option("--limit", default=64)
@click.option("--calls", type=click.Path(path_type=Path), required=True, help="A line of JSON for each network call.")
def ours(plan: str, port: int, backend: str, limit: int, calls: Path) -> None:
    from frugal_rt.runtime.pool import Pool
    from frugal_rt.runtime.service.intake import Options
    from frugal_rt.runtime.service.metrics import Metrics
    from frugal_rt.runtime.service.server import Address, serve

    with calls.open("w", buffering=1) as file:

        def pool_of(metrics: Metrics) -> Pool:
            def on_report(report: Any) -> None:
                metrics.report(report)
                facts = (report.pulls, report.rows, report.seconds, report.own, [one.steps for one in report.moved])
                file.write(json.dumps([time.monotonic(), *facts]) + "\n")

            return Pool(plan, backend, limit=limit, on_report=on_report)

        def on_ready(pool: Pool, address: Address) -> None:
            file.write(json.dumps(asdict(pool.costs)) + "\n")

        serve(pool_of, Options(), Address("127.0.0.1", port), on_ready)


@main.command()
@click.argument("plan")
@click.option("--port", type=int, required=True)
@click.option("--backend", default="auto")
@click.option("--batch", default=8, help="Requests of a batch at most.")
@click.option("--wait", default=0.05, help="Seconds that a batch waits for more.")
def litserve(plan: str, port: int, backend: str, batch: int, wait: float) -> None:
    logging.disable(logging.INFO)
    server = LitServer(API(plan, backend, batch, wait), accelerator="cpu", timeout=False)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()

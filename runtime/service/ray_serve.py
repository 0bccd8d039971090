"""The service as a Ray Serve application: replicas with a pool each, scaled by traffic.

    serve run frugal_rt.runtime.service.ray_serve:application plan=/models/celeba.plan backend=cpu replicas=4 cpus=2

Needs the extra [ray-serve].
"""

import os
from pathlib import Path
from typing import Any

from ...engines import NEED_GPU, MissingExtra, WorkerError, parse_backend
from ...engines.machine import THREADS
from ..pool.pool import LIMIT, Pool
from . import TOKEN

try:
    from pydantic import BaseModel, ConfigDict, Field
    from ray import serve

    from .app import create_app
    from .intake import Options
except ImportError as error:
    raise MissingExtra("A service of replicas", error.name or "ray", "ray-serve") from error

MARGIN = 64
"""Requests that a replica gets beyond its limit, so that it answers them with 429 instead of letting them queue."""


class Arguments(BaseModel):
    """Arguments of `serve run`, as NAME=VALUE."""

    model_config = ConfigDict(extra="forbid")

    plan: Path = Field(description="The plan's path, on every node that may hold a replica.")
    backend: str = "auto"
    replicas: int = Field(1, ge=1, description="At most.")
    least: int = Field(1, ge=1, description="At least, with no traffic.")
    cpus: int = Field(1, ge=1, description="Of each, reserved and computed on.")
    gpus: int = Field(0, ge=0, le=1, description="Of each; a backend that needs one takes one anyway.")
    limit: int = Field(LIMIT, ge=1, description="Images that each takes at once.")
    target: float | None = Field(
        None, gt=0, description="Requests under way in each, on average, past which there are more; limit / 4."
    )
    timeout: float = Field(300.0, gt=0, description="Seconds for a restoration that does not say.")


class Replica:
    """Hooks of a replica that Ray calls, beside the ASGI application, which serve.ingress keeps as `app`."""

    app: Any
    """The application of `create_app`, after it is built."""

    def check_health(self) -> None:
        """Raise WorkerError while no worker is ready; Ray replaces a replica after three times in a row."""
        if not self.app.state.service.pool.is_ready:
            raise WorkerError("the replica's pool has no worker that is ready")

    def __del__(self) -> None:
        """Close the pool after Ray has waited for the replica's requests; the worker of a killed replica ends by
        itself.
        """
        if hasattr(self, "app"):  # it was opened
            self.app.state.service.pool.close(drain=False)


def application(args: Arguments) -> Any:
    """Return a Ray Serve application of the service, without jobs, the page and /metrics, which need a single process.

    Every replica requires the token in this process's environment variable FRUGAL_RT_TOKEN.
    """
    plan = args.plan.absolute()  # a replica's working directory is another
    options = Options(timeout=args.timeout, token=os.environ.get(TOKEN) or None, replicated=True)
    gpus = args.gpus or int(parse_backend(args.backend)[0] in NEED_GPU)
    deployment = serve.deployment(
        name="frugal-rt",
        ray_actor_options={"num_cpus": args.cpus, "num_gpus": gpus},
        autoscaling_config={
            "min_replicas": args.least,
            "max_replicas": args.replicas,
            "target_ongoing_requests": args.target or max(1.0, args.limit / 4),
        },
        max_ongoing_requests=args.limit + MARGIN,
        health_check_period_s=5,
        graceful_shutdown_timeout_s=args.timeout,
    )

    def build() -> Any:
        """Make the ASGI application around a warm pool of its own, in a replica, before it is sent any traffic."""
        os.environ[THREADS] = str(args.cpus)  # the pool's worker inherits it
        return create_app(Pool(plan, args.backend, limit=args.limit), options)

    return deployment(serve.ingress(build)(Replica)).bind()

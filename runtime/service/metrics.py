"""Metrics of a service, for Prometheus. Every name begins with `frugal_`."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ...engines import DivergedError
from ..pool import Pool
from ..pool.messages import Report

_STEP = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_REQUEST = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """The metrics of a service, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        of = self.registry
        self.images = Gauge("frugal_images", "Images taken and not done, those that wait included.", registry=of)
        self.limit = Gauge("frugal_images_limit", "Images that are taken at most.", registry=of)
        self.rows = Gauge("frugal_inflight_rows", "Images that share the network's calls now, by turns.", registry=of)
        self.step = Histogram(
            "frugal_step_seconds", "One network call and the sampler around it.", ["phase"], buckets=_STEP, registry=of
        )
        self.fill = Histogram(
            "frugal_batch_fill",
            "Rows of a call over the rows it could have had.",
            buckets=(0.125, 0.25, 0.5, 0.75, 1.0),
            registry=of,
        )
        self.own = Counter("frugal_scheduler_seconds", "Between the calls, while there was work.", registry=of)
        self.network = Counter("frugal_call_seconds", "Within the calls.", registry=of)
        self.diverged = Counter("frugal_nan_guards", "Restorations stopped because they left the numbers.", registry=of)
        self.rejected = Counter(
            "frugal_rejections", "Requests to restore that got no picture, by cause.", ["cause"], registry=of
        )
        self.restarts = Gauge("frugal_worker_restarts", "Workers started again because they died.", registry=of)
        self.restored = Counter(
            "frugal_restorations", "Restorations that were begun, by how they ended.", ["outcome"], registry=of
        )
        self.seconds = Histogram(
            "frugal_restoration_seconds", "From the request to its image.", buckets=_REQUEST, registry=of
        )

    def reject(self, cause: str) -> None:
        """Count a request that was refused or failed."""
        self.rejected.labels(cause).inc()

    def report(self, report: Report) -> None:
        """Count a worker's network call."""
        self.step.labels(report.phase).observe(report.seconds)
        self.fill.observe(report.rows / report.room)
        self.own.inc(max(0.0, report.own))
        self.network.inc(report.seconds)
        self.rows.set(report.active)
        self.diverged.inc(sum(isinstance(why, DivergedError) for why in report.failed.values()))

    def text(self, pool: Pool) -> bytes:
        """Write the metrics in Prometheus's text format."""
        self.images.set(pool.images)
        self.limit.set(pool.limit)
        self.restarts.set(pool.restarts)
        return generate_latest(self.registry)

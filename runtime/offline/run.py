"""A run over pictures: restored by this process or by workers, and written with the files wanted beside them."""

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ...engines import FileError, FrugalError, InputError, Plan, gpu_backend, open_engine
from ...engines.files import make_folder, remove_drafts
from ..pictures.align import knows_faces, sees_face
from ..pictures.images import check_output, read_bytes, to_picture
from ..pictures.settings import alone, png_settings
from ..restorer import Restorer
from ..sampling.loop import StepEvent
from . import animation, streams, trace
from .claims import Claims
from .folder import Failed, FolderRestorer, Order, Outcome, Prepared, Restored, Untouched, name_of
from .gpus import Devices
from .outputs import Targets, is_whole, write_result, write_untouched
from .ray_cluster import Cluster
from .spread import Spread

REFUSED_NAMES = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EISDIR, errno.ELOOP)
"""System errors about the name of one output; other outputs may still be written."""
Restore = Callable[[Sequence[Path], Callable[[Path], bytes]], Iterator[Outcome]]
"""Restores pictures, which the given function reads."""


@dataclass(frozen=True)
class Resources:
    """The place where a run computes: this process, worker processes on this machine's GPUs, or a Ray cluster."""

    plan: Path
    """The plan's file, which each GPU's worker opens."""
    backend: str
    trust_engines: bool
    gpus: Sequence[str] = ()
    """$CUDA_VISIBLE_DEVICES of each worker."""
    ray: str | None = None
    """The address of a cluster, as in `Cluster`."""
    workers: int | None = None
    """The number of workers on the cluster; None: as many as fit."""

    @property
    def spread(self) -> bool:
        """Whether workers restore the pictures."""
        return bool(self.gpus or self.ray)


@dataclass(frozen=True)
class Beside:
    """Files about the restoration of a single picture, beside its result."""

    traces: Sequence[Path] = ()
    steps: Path | None = None
    """A folder for the estimate after every step."""
    video: Path | None = None
    force: bool = False
    """Whether existing files may be replaced, and files added to the folder."""

    def check(self) -> None:
        """Raise InputError for a file that may not be written, MissingExtra for a plot without matplotlib."""
        for path in self.traces:
            check_output(path, self.force, trace.SUFFIXES)
        if self.video is not None:
            check_output(self.video, self.force, animation.SUFFIXES)
        trace.load_plots(self.traces)


class Written(NamedTuple):
    """The outcome of a picture that was written, restored or unchanged; without its pixels."""

    source: Path
    paths: Sequence[Path]
    """The files written: the picture, and with several samples each sample and the deviation."""
    task: str
    because: str
    sigma: float
    aim: str | None
    """The aim of the restoration; None where it was by a method."""
    figures: Mapping[str, Any]
    """Costs of the restoration, as in `Result`; empty for an unchanged picture."""
    unchanged: bool = False
    """Whether nothing wrong was found with it."""
    notes: Sequence[str] = ()
    """Sentences about contents of its file that were left out."""


class Elsewhere(NamedTuple):
    """A picture that another process has restored into the same folder."""

    source: Path


class _Taken(FrugalError):
    """Another process has claimed the picture that was to be read."""


class Run:
    """A run over pictures by an Order.

    record: the command's options, which each result carries. Making a Run opens the engine where this process restores,
    and makes the folder for the pictures of steps. Raises PlanError, InputError, MissingExtra or BackendError.
    """

    def __init__(
        self,
        plan: Plan,
        order: Order,
        targets: Targets,
        beside: Beside,
        resources: Resources,
        record: Mapping[str, Any],
    ):
        beside.check()
        self.plan, self.order, self.targets, self.resources = plan, order, targets, resources
        self._beside, self._record = beside, record
        self._backend, trust = resources.backend, resources.trust_engines
        if resources.gpus:
            self._backend = gpu_backend(plan, self._backend, trust)
        engine = None if resources.spread else open_engine(plan, self._backend, trust_engines=trust)
        self._restorer = None if engine is None else Restorer(plan, engine)
        folder = None if beside.steps is None else animation.check_folder(beside.steps, beside.force)
        self._recorder = animation.Recorder(folder, keep=beside.video is not None)
        written = {target.parent for target in targets.paths.values() if target != streams.STREAM}
        for one in written if targets.folder is None else {targets.folder}:
            remove_drafts(one)

    @property
    def backend(self) -> str:
        """Name of the engine that runs the network here, or of the backend that workers will open."""
        return self._backend if self._restorer is None else self._restorer.engine.name

    def advice(self, prepared: Prepared | None = None) -> str | None:
        """Return advice where a prior of faces restores unaligned pictures larger than its images; None otherwise.

        prepared: one of the pictures; None where workers read them, and only the order is known.
        """
        said = knows_faces(self.plan)
        if said is None or self.order.align:
            return None
        if prepared is None:
            return said if self.order.fit in ("crop", "resize") else None
        sizes = prepared.photo.size, prepared.restorer.image_shape[:0:-1]
        if all(wide <= self.plan.image_shape[2] and high <= self.plan.image_shape[1] for wide, high in sizes):
            return None
        return f"{said}: see --align" if sees_face(prepared.photo, self.plan) else said

    def here(
        self,
        on_ready: Callable[[Prepared], object],
        on_step: Callable[[StepEvent], object],
        on_tiles: Callable[[int, int], object],
    ) -> Iterator[Written | Failed | Elsewhere]:
        """Restore and write every picture in this process, in order, except those that another process restores.

        on_ready: called with each picture before it is restored. on_step, on_tiles: as in `Restorer.restore` and
        `Restorer.at`. Raises InputError where a trace is wanted of a restoration without a switch.
        """
        assert self._restorer is not None  # `spread` is for workers
        folder = FolderRestorer(self._restorer, self.order, on_tiles)

        def begin(prepared: Prepared) -> None:
            measured = prepared.measurement
            asked = replace(self.order.guidance, sigma=measured.sigma)
            if self._beside.traces and asked.aim_with(measured.operator) is not None:
                raise InputError(
                    "--trace shows the switch, which only a method has: leave --aim out, and for noise, a JPEG or thin "
                    "holes add --method frugal"
                )
            on_ready(prepared)

        def each(event: StepEvent) -> None:
            self._recorder(event)
            on_step(event)

        return self._shared(lambda sources, read: folder.restore(sources, read, begin, each), streams.read)

    def hire(self, on_loss: Callable[[str], object]) -> Spread:
        """Join the cluster, or prepare a process for each GPU; return a context manager that ends the workers.

        on_loss: called with a sentence when one dies. Raises PlanError, MissingExtra, InputError or BackendError.
        """
        by, trust = self.resources, self.resources.trust_engines
        if by.ray is not None:
            return Cluster(by.ray, self.plan, self.order, self._backend, by.workers, on_loss, trust_engines=trust)
        return Devices(by.plan, self.order, self._backend, by.gpus, on_loss, trust_engines=trust)

    def spread(self, workers: Spread) -> Iterator[Written | Failed | Elsewhere]:
        """Write every picture that `workers` restore, in the order in which they end."""
        return self._shared(workers.restore, read_bytes)

    def apart(self, outcomes: Iterable[Written | Failed | Elsewhere]) -> tuple[list[Written], list[Failed]]:
        """Separate the written pictures from those that failed, each in the pictures' order."""
        sources = [*(one.source for one in self.targets.unfit), *self.targets.paths]
        rank = {source: place for place, source in enumerate(sources)}
        in_order = sorted(outcomes, key=lambda outcome: rank[outcome.source])
        written = [outcome for outcome in in_order if isinstance(outcome, Written)]
        return written, [outcome for outcome in in_order if isinstance(outcome, Failed)]

    def _shared(self, restore: Restore, read: Callable[[Path], bytes]) -> Iterator[Written | Failed | Elsewhere]:
        """Restore the pictures that no other process has claimed, and then those that others left undone."""
        yield from self.targets.unfit
        if self.targets.folder is None:
            yield from self._written(restore([*self.targets.paths], read))
            return
        busy: set[Path] = set()
        elsewhere: set[Path] = set()

        def claimed(source: Path, wait: bool = False) -> bytes:
            if not claims.take(self.targets.paths[source].name, wait):
                busy.add(source)
            elif source not in self.targets.replaced and is_whole(self.targets.paths[source], self.order.samples):
                elsewhere.add(source)
            else:
                return read(source)
            raise _Taken

        def told(outcomes: Iterator[Outcome]) -> Iterator[Written | Failed | Elsewhere]:
            for outcome in self._written(outcomes):
                claims.give_back(self.targets.paths[outcome.source].name)
                if outcome.source not in busy:
                    yield Elsewhere(outcome.source) if outcome.source in elsewhere else outcome

        with closing(Claims(self.targets.folder)) as claims:
            yield from told(restore([*self.targets.paths], claimed))
            for source in [one for one in self.targets.paths if one in busy]:
                busy.discard(source)  # one by one: a waiting process then holds no claim, so no two can deadlock
                yield from told(restore([source], partial(claimed, wait=True)))

    def _written(self, outcomes: Iterable[Outcome]) -> Iterator[Written | Failed]:
        for outcome in outcomes:
            try:
                yield outcome if isinstance(outcome, Failed) else self._write(outcome)
            except FileError as error:
                if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in REFUSED_NAMES:
                    raise
                yield Failed(outcome.source, str(error))

    def _write(self, outcome: Restored | Untouched) -> Written | Failed:
        """Write the files of a picture. Raises FrugalError."""
        if self.targets.folder is not None:
            make_folder(self.targets.folder)  # not before there is a result
        return self._pass_on(outcome) if isinstance(outcome, Untouched) else self._write_result(outcome)

    def _pass_on(self, one: Untouched) -> Written | Failed:
        """Write a picture in which nothing wrong was found, if the user named an output."""
        if not self.targets.named:
            ask = f"say what was done to it, such as {' or '.join(one.options)}, or where it goes as it is: -o"
            return Failed(one.source, f"{name_of(one.source)}: {one.because}; {ask}")
        paths = write_untouched(self.targets.paths[one.source], one, self.targets.suffix)
        return Written(one.source, paths, "denoise", one.because, one.sigma, None, {}, unchanged=True, notes=one.notes)

    def _write_result(self, restored: Restored) -> Written:
        source, result = restored.source, restored.result
        asked = alone(self._record, source)
        settings = png_settings(result.settings, result.k, restored.task, self.order.fit, asked, restored.faces)
        paths = write_result(self.targets.paths[source], restored, settings, self.targets.suffix)
        for path in self._beside.traces:
            trace.write_trace(path, trace.explain(result, self.plan))
        if self._beside.video is not None:
            self._recorder.write(self._beside.video, to_picture(result.image[0]))
        aim = result.settings["aim"]
        said = restored.task, restored.because, restored.sigma
        return Written(source, paths, *said, aim, result.figures, notes=restored.notes)

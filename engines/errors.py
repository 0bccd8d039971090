"""The package's errors. A message is a sentence or two for the user: what is wrong, and what to do.

Each class also derives from the built-in error that a caller expects, such as ValueError, TypeError or OSError.
"""


class FrugalError(Exception):
    """Base of every error that this package raises on purpose."""


class InputError(FrugalError, ValueError):
    """An image, a file or an option is not valid, or does not fit the others."""


class KindError(InputError, TypeError):
    """A value has a type that is not accepted, or an option has an unknown name."""


class FileError(FrugalError, OSError):
    """A file cannot be read or written."""


class UnreadableError(InputError, FileError):
    """A file that was named cannot be read."""


class MissingFile(UnreadableError, FileNotFoundError):
    """A file that was named does not exist."""


class PlanError(FrugalError, ValueError):
    """A plan cannot be read, is damaged, or is not a plan."""


class UnreadablePlan(PlanError, FileError):
    """A plan's file cannot be read."""


class MissingPlan(UnreadablePlan, FileNotFoundError):
    """A plan's file does not exist."""


class ExportError(FrugalError):
    """A prior cannot be turned into a plan, or the plan does not match the prior."""


class BackendError(FrugalError):
    """A backend exists but cannot run here, or failed while running."""


class MissingExtra(BackendError, ImportError):
    """An optional dependency is not installed; the message holds the command that installs it."""

    def __init__(self, what: str, module: str, extra: str):
        super().__init__(f"{what} needs {module}, which is not installed; run: pip install 'frugal-rt[{extra}]'")
        self.what = what
        self.module = module
        self.extra = extra

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.what, self.module, self.extra)


class DivergedError(FrugalError):
    """A restoration became NaN or infinite, or collapsed to a constant image; nothing is returned."""


class BusyError(FrugalError):
    """A pool's queue is full. `retry_after` is the number of seconds after which to ask again."""

    def __init__(self, message: str, retry_after: float):
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type, tuple[str, float]]:
        return type(self), (str(self), self.retry_after)


class DeadlineError(FrugalError, TimeoutError):
    """A restoration did not end by its deadline, and was stopped."""


class Stopped(FrugalError):
    """Work was interrupted, as nobody waits for its result any more."""

    def __init__(self, why: str = "the work was stopped, as nobody waits for it"):
        super().__init__(why)


class WorkerError(FrugalError):
    """A worker process died during a restoration, and so did the one that tried it again."""


def one_line(error: Exception) -> str:
    """Return the message of another library's error, in one line without a full stop."""
    return " ".join(str(error).split()).rstrip(".")

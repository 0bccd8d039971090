"""The one family of errors. A message is a sentence or two for the user: what is wrong, and what to do."""


class FrugalError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(FrugalError, ValueError):
    """An image, a file or an option does not fit what was asked."""


class PlanError(FrugalError):
    """A plan cannot be read, is damaged, or is not a plan."""


class ExportError(FrugalError):
    """A prior cannot be turned into a plan, or the plan does not match the prior."""


class BackendError(FrugalError):
    """A backend exists but cannot run here, or failed while running."""


class MissingExtra(BackendError, ImportError):
    """An optional dependency is not installed; the message carries the command that brings it."""

    def __init__(self, what: str, module: str, extra: str):
        super().__init__(f"{what} needs {module}, which is not installed; run: pip install 'frugal-rt[{extra}]'")
        self.module = module
        self.extra = extra


class DivergedError(FrugalError):
    """A restoration left the numbers (NaN, infinity) or collapsed to a constant image; nothing is returned."""

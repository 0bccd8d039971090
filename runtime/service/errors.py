"""The HTTP status of each error, the cause under which metrics count it, and its sentence for clients."""

import re

from ...engines import BackendError, BusyError, DeadlineError, DivergedError, FrugalError, InputError, WorkerError

STATUS: dict[type[FrugalError], tuple[int, str]] = {
    BusyError: (429, "busy"),
    DeadlineError: (504, "deadline"),
    WorkerError: (503, "worker"),
    DivergedError: (422, "diverged"),
    BackendError: (500, "backend"),
    InputError: (422, "input"),
}


def status_of(error: FrugalError) -> tuple[int, str]:
    """Return the HTTP status of an error, and its cause in a word."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), (500, "other"))


def sentence(error: Exception) -> str:
    """Return an error's sentence with parameters instead of a command's options: "fit crop" for "--fit crop"."""
    return re.sub(r"--([a-z][a-z-]*)", lambda option: option[1].replace("-", "_"), str(error))

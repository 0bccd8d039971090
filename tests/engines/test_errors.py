"""Errors are of the package's family, and of the kinds of Python's own that a caller expects."""

import copy

import numpy as np
import pytest

from frugal_rt import FrugalError, InputError, PlanError, Restorer
from frugal_rt.engines import DeadlineError, FileError, KindError, MissingFile, MissingPlan, errors
from frugal_rt.engines.files import atomic_write
from frugal_rt.runtime.pictures.images import read_photo


def every_error():
    return [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, FrugalError)]


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (InputError, ValueError),
        (PlanError, ValueError),
        (KindError, TypeError),
        (FileError, OSError),
        (MissingFile, FileNotFoundError),
        (MissingPlan, FileNotFoundError),
        (DeadlineError, TimeoutError),
    ],
)
def test_each_is_the_builtin_that_is_expected(kind, builtin):
    with pytest.raises(builtin, match="a sentence") as caught:
        raise kind("a sentence")
    assert isinstance(caught.value, FrugalError)


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_each_goes_to_another_process(kind):
    given = {"MissingExtra": ("it", "module", "extra"), "BusyError": ("a sentence", 2.0)}.get(kind.__name__, ("one",))
    error = kind(*given)
    again = copy.copy(error)  # by what pickle calls
    assert type(again) is kind
    assert str(again) == str(error) != ""


def test_what_is_missing_is_a_file_not_found(tmp_path):
    for read, whose in ((read_photo, InputError), (Restorer.load, PlanError)):
        with pytest.raises(FileNotFoundError, match=r"there is no file .*nothing\.x") as caught:
            read(tmp_path / "nothing.x")
        assert isinstance(caught.value, whose)
    with pytest.raises(OSError, match="cannot write"), atomic_write(tmp_path / "no folder" / "x.png"):
        pass


def test_a_sentence_raised_while_a_file_is_written_stays(tmp_path):
    with pytest.raises(MissingFile, match=r"^there is no file y$"), atomic_write(tmp_path / "x.png"):
        raise MissingFile("there is no file y")
    assert not [*tmp_path.iterdir()]


def test_a_damaged_plan_says_what_is_wrong_once(tmp_path):
    (tmp_path / "x.plan").write_bytes(np.arange(999).tobytes())
    with pytest.raises(ValueError, match=r"^x\.plan is not a frugal-rt plan"):
        Restorer.load(tmp_path / "x.plan")

"""Operations of a network that are not known."""

import pytest

from frugal_rt import ExportError
from frugal_rt.export import build_plan, read_prior


def test_an_operation_that_is_not_known_is_named(make_prior):
    with pytest.raises(ExportError, match=r"uses the operation aten\.\w+.*, which frugal-rt cannot export yet"):
        build_plan(read_prior(make_prior({"act_fn": "mish"})))

"""The words that type checkers are told are those that there are."""

import inspect
from dataclasses import fields
from typing import get_args, get_type_hints

from frugal_rt import Restorer
from frugal_rt.runtime.operators import GREY_WEIGHTS
from frugal_rt.runtime.pictures import damage, options
from frugal_rt.runtime.sampling import choices, guidance


def test_words_are_those_that_are_read():
    assert get_args(choices.Preset) == tuple(guidance.PRESETS)
    assert get_args(choices.Aim) == tuple(guidance.AIMS)
    assert get_args(choices.Method) == tuple(guidance.METHODS)
    assert get_args(choices.StepSizes) == guidance.GUIDANCE
    assert get_args(options.Task) == tuple(damage.TASK_FIELDS)
    assert get_args(options.Filter) == damage.FILTERS
    assert get_args(options.Border) == damage.BORDERS
    assert get_args(options.Grey) == tuple(GREY_WEIGHTS)


class Asked(dict):
    """Options that are all left out; it keeps the names that were asked for."""

    def get(self, name, default=None):
        return self.setdefault(name, default)


def test_every_option_of_a_damage_is_read():
    asked = Asked()
    options.read_damage(asked)
    others = get_type_hints(choices.Settings).keys() - {"sigma"} | {"fit", "align", "frame", "batch", "on_step"}
    assert asked.keys() == get_type_hints(options.Options).keys() - others


def test_settings_are_those_of_restore_and_of_guidance():
    settings = get_type_hints(choices.Settings)
    assert [*settings] == [field.name for field in fields(guidance.Guidance)]
    hints = get_type_hints(Restorer.restore, vars(inspect.getmodule(Restorer)))
    for name, kind in settings.items():
        assert hints[name] == kind, name

"""Parameters of a request that do not fit."""

from types import SimpleNamespace

import pytest

from frugal_rt.runtime.service.parameters import Parameters

from .asking import error, png, restore


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"task": "polish"}, "task: Input should be 'denoise'"),
        ({"sigma": -1}, "sigma"),
        ({"steps": 1}, "steps"),
        ({"steps": 10**30}, "steps"),
        ({"seed": 2**64}, "seed"),
        ({"zoom": 2}, "there is no parameter 'zoom'"),
        ({"sigm": 2}, "there is no parameter 'sigm'; did you mean sigma?"),
        ({"hole": "6"}, None),
        ({"hole": "a6"}, "a size is WIDTHxHEIGHT"),
        ({"sigma": 7, "hole": [0, 1]}, "sigma: Input should be less than or equal to 2 (got 7); hole.0"),
        ({"task": "deblur", "kernel": "/etc/passwd"}, "a kernel is gaussian:STD"),
        ({"task": "deblur", "kernel": "kernel.npy"}, "a kernel is gaussian:STD"),
        ({"task": "inpaint"}, "inpainting needs to know what is missing"),
        ({"method": "dps", "switch": 3}, "switch is a setting of frugal and hybrid"),
        ({"task": "sr"}, "super-resolution needs its factor"),
        ({"hole": [99, 99]}, "a box of 99x99"),
    ],
)
def test_parameters_that_do_not_fit_are_named(client, parameters, says):
    if says is None:
        assert restore(client, steps=3, **parameters).status_code == 200
    else:
        assert says in error(restore(client, **parameters), 422)


@pytest.mark.parametrize("text", ["{", "[]", "null", "NaN", '{"sigma": NaN}', '{"sigma": 1e999}', "\x00", '"x"'])
def test_parameters_that_are_no_json_object_are_refused(client, text):
    answer = client.post("/v1/restore", files={"image": png()}, data={"parameters": text})
    assert error(answer, 422)


def test_every_parameter_is_read():
    class Asked(SimpleNamespace):
        def __getattr__(self, name):
            names.add(name)

    names = {"fit", "frame", "tile", "timeout"}  # by the service itself
    Parameters.damage(Asked(), None)
    Parameters.settings(Asked())
    assert names == set(Parameters.model_fields)

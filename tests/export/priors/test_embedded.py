"""The priors that ship in the package: their cards and licences."""

import pytest

from frugal_rt.export import EMBEDDED, find_prior


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_prior_names_its_licence_and_its_card_the_training(name):
    prior = find_prior(name)
    assert prior.licence in (EMBEDDED[name] / "LICENSE").read_text()
    assert all(f"| {heading} |" in prior.card for heading in ("training", "limits", "licence"))
    assert (EMBEDDED[name] / "recipe.json").is_file()


def test_photo_is_free():
    prior = find_prior("photo")
    assert prior.licence == "Apache License 2.0"
    assert all(licence in prior.card for licence in ("CC0", "MIT", "public domain"))

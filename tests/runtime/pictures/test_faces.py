"""Faces found in a photograph, clean and noisy, one and several."""

from dataclasses import replace

import numpy as np

from frugal_rt.runtime.pictures import faces
from frugal_rt.runtime.pictures.decoding import Photo
from frugal_rt.runtime.pictures.faces import SURE, VOTES, find_faces

from .photos import photo_of, scene


def test_a_face_is_found_where_it_is_clean_and_noisy_and_nowhere_else():
    photo = photo_of(scene())
    for sigma in (0, 0.25):
        noise = sigma * np.random.default_rng(0).standard_normal(photo.pixels.shape)
        face, *_ = find_faces(replace(photo, pixels=np.float32(photo.pixels + noise)))
        np.testing.assert_allclose(face[:2], (70 + 32, 30 + 39), atol=5)
        assert 38 < face.side < 60
    assert find_faces(Photo(photo.pixels[:, :, :60])) == []


def test_every_face_is_found_whatever_the_votes_of_the_largest():
    found = find_faces(photo_of(scene((32, 10, 100), (40, 150, 90)).resize((400, 300))))
    centres = sorted((round(face.x), round(face.y)) for face in found)
    np.testing.assert_allclose(centres, [(52, 238), (204, 138), (340, 228)], atol=10)


class Boxes:
    """A detector that finds so many boxes at each place."""

    def __init__(self, *votes: int):
        self._votes = votes

    def detect_multi_scale(self, **named: object) -> list[dict[str, int]]:
        return [
            {"c": 90 * i, "r": 20, "width": 40, "height": 40}
            for i, votes in enumerate(self._votes)
            for _ in range(votes)
        ]


def test_faces_that_many_boxes_agree_on_stand_together_and_others_alone(monkeypatch):
    def votes(*found: int) -> list[int]:
        monkeypatch.setattr(faces, "_detector", lambda: Boxes(*found))
        return [face.votes for face in find_faces(Photo(np.zeros((3, 384, 384), np.float32)))]

    assert votes(SURE, 70, SURE - 1) == [70, SURE]
    assert votes(VOTES, SURE - 1, VOTES) == [SURE - 1]
    assert votes(VOTES - 1) == []

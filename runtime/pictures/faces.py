"""Faces in a photograph, by scikit-image's detector."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ...engines import MissingExtra
from .decoding import Photo
from .images import resized

SEARCHED = 384
"""Pixels of the longer side at which a photograph is searched. Resampling to it also reduces noise."""
SMALLEST = 32
"""Pixels of the smallest face at that scale."""
VOTES = 3
"""Boxes of the detector that must agree on a face."""
SURE = 8
"""The least boxes that must agree on a face where several are returned; in photographs up to 7 agree on a non-face."""


class Face(NamedTuple):
    """A face: centre and side of the detector's square box in pixels of the photograph, and the boxes that agreed."""

    x: float
    y: float
    side: float
    votes: int


def find_faces(photo: Photo) -> list[Face]:
    """Return the upright frontal faces with at least SURE votes, most votes first; without any, the best of VOTES.

    The detector is scikit-image's cascade of local binary patterns, on the photograph at SEARCHED pixels. Raises
    MissingExtra.
    """
    grey = photo.pixels.mean(axis=0)
    if photo.missing is not None and not photo.missing.all():
        grey = np.where(photo.missing, grey[~photo.missing].mean(), grey)
    height, width = grey.shape
    scale = SEARCHED / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    levels = np.round(np.clip(resized(grey, size) + 1, 0, 2) * 127.5).astype(np.uint8)
    if min(size) < SMALLEST:
        return []
    found = _detector().detect_multi_scale(
        img=levels,
        scale_factor=1.1,
        step_ratio=1,
        min_size=(SMALLEST, SMALLEST),
        max_size=(min(size), min(size)),
        min_neighbor_number=1,
        intersection_score_threshold=2.0,  # more than two boxes can share, so that none are merged and votes count them
    )
    boxes = np.array([(one["c"] + one["width"] / 2, one["r"] + one["height"] / 2, one["width"]) for one in found])
    faces = [face for face in _agreed(boxes.reshape(-1, 3) / scale) if face.votes >= VOTES]
    return [face for face in faces if face.votes >= SURE] or faces[:1]


def _agreed(boxes: np.ndarray) -> list[Face]:
    """Merge boxes (n, 3) of x, y and side that lie together to their median; return faces, most votes first."""
    faces = []
    while len(boxes):
        x, y, side = boxes.T
        apart = np.maximum(np.abs(x[:, None] - x), np.abs(y[:, None] - y))
        together = (apart < side[:, None] / 4) & (np.abs(np.log(side[:, None] / side)) < np.log(1.5))
        best = together[together.sum(axis=1).argmax()]
        middle = np.median(boxes[best], axis=0)
        face = Face(float(middle[0]), float(middle[1]), float(middle[2]), int(best.sum()))
        faces.append(face)
        boxes = boxes[np.maximum(np.abs(x - face.x), np.abs(y - face.y)) > face.side / 2]
    return sorted(faces, key=lambda face: -face.votes)


@cache
def _detector() -> Any:
    try:
        from skimage.data import lbp_frontal_face_cascade_filename
        from skimage.feature import Cascade
    except ImportError as error:
        raise MissingExtra("Finding faces", "scikit-image", "align") from error
    trained: Any = lbp_frontal_face_cascade_filename
    return Cascade(trained())

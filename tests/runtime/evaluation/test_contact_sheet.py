"""Contact sheets."""

import numpy as np

from frugal_rt.runtime.evaluation.contact_sheet import contact_sheet
from frugal_rt.runtime.pictures.images import to_picture

LEVELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def expected(levels: np.ndarray) -> np.ndarray:
    return (levels.transpose(2, 0, 1) if levels.ndim == 3 else levels[None]) / 127.5 - 1


def test_contact_sheets_hold_every_picture():
    picture = to_picture(expected(LEVELS))
    sheet = contact_sheet(
        [("one", [(picture, "a"), (picture.convert("RGBA"), "b")]), ("two", [(picture, "c")])], tile=48
    )
    assert sheet.width > 2 * 48
    assert sheet.height > 2 * 48
    colours = {tuple(level) for level in LEVELS.reshape(-1, 3)}
    assert colours <= {tuple(level) for level in np.asarray(sheet).reshape(-1, 3)}

"""Contact sheets: labelled pictures in rows."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def contact_sheet(rows: Sequence[tuple[str, Sequence[tuple[Image.Image, str]]]], tile: int = 192) -> Image.Image:
    """Draw rows of (title, [(picture, caption), ...]) as one picture; pictures are enlarged by whole factors."""
    font = ImageFont.load_default(14)
    gap, line = 12, 20
    columns = max(len(cells) for _, cells in rows)
    step = tile + gap
    sheet = Image.new("RGB", (gap + columns * step, gap + len(rows) * (tile + 3 * line)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (title, cells) in enumerate(rows):
        top = gap + i * (tile + 3 * line)
        draw.text((gap, top - 4), title, "black", font)
        for j, (picture, caption) in enumerate(cells):
            left, under = gap + j * step, top + line
            enlarged = picture.resize((tile, tile), Image.Resampling.NEAREST)
            if enlarged.mode == "RGBA":
                sheet.paste(_checkerboard(tile), (left, under))
            sheet.paste(enlarged, (left, under), enlarged if enlarged.mode == "RGBA" else None)
            draw.text((left, under + tile + 2), caption, "black", font)
    return sheet


def _checkerboard(size: int) -> Image.Image:
    squares = np.indices((size, size)) // 8
    return Image.fromarray(np.where(squares.sum(0) % 2, 200, 235).astype(np.uint8))

"""Sheets of images for people: grids with headings, and a label before each row."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from components.dataset import Split
from components.images import grid

GAP, MARGIN, INDENT = 2, 22, 6
SHOWN_SIZE = 64
"""Pixels below which images are enlarged by a whole factor."""
LABEL_LENGTH = 28
"""Signs of a label that are shown; of a longer one, its beginning and its end."""

Rows = dict[str, NDArray[np.int64]]
"""Per category the row numbers of its images in a split; without conditions those of all, under an empty name."""


def category_attribute(attributes: Collection[str]) -> str:
    """The attribute that results are broken down by: `category`, or else the first; there must be one."""
    return "category" if "category" in attributes else next(iter(attributes))


def rows_by_category(split: Split) -> Rows:
    """Row numbers of each category's images; a category without any is left out. See `Rows`."""
    if not split.attributes:
        return {"": np.arange(len(split))}
    name = category_attribute(split.attributes)
    codes_N = split.conditions_NA[:, list(split.attributes).index(name)]
    rows = {value: np.flatnonzero(codes_N == code) for code, value in enumerate(split.attributes[name])}
    return {value: found for value, found in rows.items() if len(found)}


def labelled_grids(panels: Sequence[tuple[str, Tensor]], labels: Sequence[str]) -> Image.Image:
    """Grids side by side with headings, and a label before each row.

    Args:
        panels: heading and uint8 images (rows * columns, C, H, W) of each grid.
        labels: one per row, any text.
    """
    shown = [shortened(label) for label in labels]
    height, scale = panels[0][1].shape[-2], enlargement(panels[0][1])
    grids = [grid(images, len(images) // len(labels), GAP, scale) for _, images in panels]
    font = ImageFont.load_default(size=14)
    left = max(int(font.getlength(label)) for label in shown) + 2 * INDENT
    top = MARGIN if any(heading for heading, _ in panels) else 0
    width = left + sum(part.width for part in grids) + MARGIN * (len(grids) - 1)
    sheet = Image.new("RGB", (width, top + grids[0].height), "white")
    draw = ImageDraw.Draw(sheet)
    for row, label in enumerate(shown):
        middle = top + (GAP + row * (height + GAP) + height / 2) * scale
        draw.text((INDENT, middle), label, fill="black", font=font, anchor="lm")
    for (heading, _), part in zip(panels, grids, strict=True):
        draw.text((left + GAP * scale, MARGIN / 2), heading, fill="black", font=font, anchor="lm")
        sheet.paste(part, (left, top))
        left += part.width + MARGIN
    return sheet


def captioned_groups(heading: str, groups: Sequence[tuple[Tensor, str]], columns: int) -> Image.Image:
    """Groups of images side by side, so many in a row, each with its caption below.

    Args:
        groups: uint8 images (K, C, H, W), the same K for all, and any text; at least one group.
    """
    font = ImageFont.load_default(size=12)
    tiles = [(grid(images, len(images), GAP, enlargement(images)), caption) for images, caption in groups]
    width, height = tiles[0][0].size
    in_row, step = min(columns, len(tiles)), (width + MARGIN, height + MARGIN)
    across = max(in_row * step[0] - MARGIN, int(font.getlength(heading)) + 2 * GAP)
    sheet = Image.new("RGB", (across, MARGIN + -(-len(tiles) // in_row) * step[1]), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, MARGIN / 2), heading, fill="black", font=font, anchor="lm")
    for number, (tile, caption) in enumerate(tiles):
        left, top = number % in_row * step[0], MARGIN + number // in_row * step[1]
        sheet.paste(tile, (left, top))
        middle = (left + GAP, top + height + MARGIN / 2 - GAP)
        draw.text(middle, _fitted(caption, font, width - 2 * GAP), fill="black", font=font, anchor="lm")
    return sheet


def enlargement(images_NCHW: Tensor) -> int:
    """The whole factor by which images are enlarged to be seen."""
    return max(1, SHOWN_SIZE // images_NCHW.shape[-2])


def _fitted(label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """A label in one line that is no wider than so many pixels."""
    line = one_line(label)
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(f"{line}…") > width:
        line = line[:-1]
    return f"{line}…"


def one_line(label: str) -> str:
    """A label in one line, control characters as `?`."""
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(label.split()))


def shortened(label: str) -> str:
    """A label in one line of at most LABEL_LENGTH signs, control characters as `?`."""
    line = one_line(label)
    if len(line) <= LABEL_LENGTH:
        return line
    half = (LABEL_LENGTH - 1) // 2
    return f"{line[: LABEL_LENGTH - 1 - half]}…{line[-half:]}"

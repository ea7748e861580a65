"""Small pictures of photos for a page, as data URIs; decoded in guarded worker processes like all photos."""

import base64
import io
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from components.guarded.parallel import over_groups
from components.photos.decoding import UndecodableError, decode, flatten
from components.raw import Row, RowGroup
from components.settings import DecodingSettings

HEIGHT, WIDTH = 128, 160
"""Pixels, at most."""

QUALITY = 55


def thumbnails(groups: Iterable[RowGroup], ids: Iterable[str], limits: DecodingSettings) -> dict[str, str]:
    """Id to a WebP picture as data URI; without those that cannot be decoded.

    Args:
        groups: of data/raw; those without any of the ids are not read.
    """
    wanted = np.array(sorted(set(ids)), dtype=np.str_)
    chosen = [narrowed for group in groups if len((narrowed := _narrowed(group, wanted)).ids)]
    found: dict[str, str] = {}
    for pictures, _lost in over_groups(pictures_of_rows, chosen, ["id", "image"], limits, limits):
        found |= pictures
    return found


def _narrowed(group: RowGroup, ids: np.ndarray) -> RowGroup:
    wanted = np.isin(group.ids, ids)
    return RowGroup(group.part, group.index, group.rows[wanted], group.ids[wanted])


def pictures_of_rows(rows: Sequence[Row], limits: DecodingSettings) -> dict[str, str]:
    """Thumbnails of the rows' images by their ids."""
    pictures = {}
    for row in rows:
        try:
            photo = decode(row["image"], limits, at_least=min(HEIGHT, WIDTH))
        except UndecodableError:
            continue
        pictures[row["id"]] = data_uri(flatten(photo.image, 3))
    return pictures


def data_uri(image: Image.Image, *, shrink: bool = True) -> str:
    """The picture as WebP within a text; `shrink`: to a thumbnail."""
    if shrink:
        image = image.copy()
        image.thumbnail((WIDTH, HEIGHT))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()

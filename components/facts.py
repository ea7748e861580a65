"""Facts about photos: what validation checks and prepare decides on without decoding again."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from components.decoding import UndecodableError, decode, flatten
from components.parallel import over_groups
from components.progress import Progress
from components.raw import RECORD, RowGroup, read_group, row_groups

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("file_name", pa.string()),
        ("category", pa.string()),
        ("split_hint", pa.string()),
        ("licence", pa.string()),
        ("source", pa.string()),
        ("attributes", pa.string()),
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("decodable", pa.bool_()),
        ("decode_error", pa.string()),
        ("format", pa.string()),
        ("mode", pa.string()),
        ("channels", pa.int64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("mean", pa.float64()),
        ("std", pa.float64()),
        ("pixel_sha256", pa.string()),
    ]
)
"""One row per photo. Null where the photo cannot be decoded: all after `decode_error`.

sha256: of the file's bytes as found, `id` being what was recorded.
channels: 1 if the file is grey, else 3; transparency does not count.
width, height: pixels, of the upright photo.
mean, std: brightness 0..255 of the photo in grey.
pixel_sha256: over size and decoded pixels; the same for exact duplicates in different files.
"""

INTEGERS = ("bytes", "channels", "width", "height")


def gather_facts(raw_dir: Path) -> pa.Table:
    """Decodes every photo of the snapshot; rows in the order of the ids.

    Raises:
        InputError: data/raw is missing or damaged.
    """
    groups = row_groups(raw_dir)
    progress = Progress("validate: photos decoded", sum(len(group.ids) for group in groups))
    tables = []
    for table in over_groups(facts_of_group, groups):
        tables.append(table)
        progress.add(table.num_rows)
    return pa.concat_tables([SCHEMA.empty_table(), *tables]).sort_by("id")


def facts_of_group(group: RowGroup) -> pa.Table:
    rows = read_group(group, [*RECORD, "image"])
    return pa.Table.from_pylist([facts_of_photo(row) for row in rows], schema=SCHEMA)


def facts_of_photo(row: Mapping[str, Any]) -> dict[str, Any]:
    """One row of SCHEMA, from one of data/raw."""
    content: bytes = row["image"]
    facts = {name: row[name] for name in RECORD}
    facts |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    try:
        photo = decode(content)
    except UndecodableError as error:
        return facts | {"decodable": False, "decode_error": str(error)}
    mean, std = brightness(flatten(photo.image, 1))
    return facts | {
        "decodable": True,
        "format": photo.format,
        "mode": photo.mode,
        "channels": 1 if photo.image.mode in ("L", "LA") else 3,
        "width": photo.image.width,
        "height": photo.image.height,
        "mean": mean,
        "std": std,
        "pixel_sha256": pixel_sha256(photo.image),
    }


def pixel_sha256(image: Image.Image) -> str:
    header = f"{image.mode} {image.width} {image.height}\n".encode()
    return hashlib.sha256(header + image.tobytes()).hexdigest()


def brightness(grey: Image.Image) -> tuple[float, float]:
    """Mean and standard deviation of an image of mode L.

    Computed from whole numbers, for sums of floats differ from processor to processor in their
    last digit, and with them the hash of the facts.
    """
    counts = np.array(grey.histogram(), dtype=np.int64)
    levels = np.arange(256)
    n, total, squares = (int(counts @ weights) for weights in (np.ones_like(levels), levels, levels**2))
    return total / n, math.sqrt((n * squares - total * total) / (n * n))


def as_frame(facts: pa.Table) -> pd.DataFrame:
    """Facts as a DataFrame in which whole numbers stay whole where some are missing."""
    frame: pd.DataFrame = facts.to_pandas().astype(dict.fromkeys(INTEGERS, "Int64"))
    return frame

"""Facts about photos: what validation checks and prepare decides on without decoding again."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.guarded.parallel import Lost, over_groups
from components.photos.decoding import GREY, UndecodableError, decode
from components.photos.measures import SIDE, measure
from components.progress import Progress
from components.raw import RECORD, Row, RowGroup, part_paths, read_group, row_groups
from components.settings import DecodingSettings
from components.validation.facts_cache import FactsCache

MEASURED = pa.schema(
    [
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("decodable", pa.bool_()),
        ("decode_error", pa.string()),
        ("format", pa.string()),
        ("mode", pa.string()),
        ("channels", pa.int64()),
        ("frames", pa.int64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("aspect_ratio", pa.float64()),
        ("brightness", pa.float64()),
        ("contrast", pa.float64()),
        ("sharpness", pa.float64()),
        ("blankness", pa.float64()),
        ("colorfulness", pa.float64()),
        ("background_uniformity", pa.float64()),
        ("phash", pa.string()),
        ("pixel_sha256", pa.string()),
        ("box_left", pa.int64()),
        ("box_top", pa.int64()),
        ("box_right", pa.int64()),
        ("box_bottom", pa.int64()),
        ("color_derived", pa.bool_()),
    ]
)
"""What is found in the bytes. Null where the photo cannot be decoded: all after `decode_error`.

sha256, bytes: of the file as found, `id` being the SHA-256 that was recorded.
decodable, decode_error: whether it is a photo, and why not.
format, mode: Pillow's names, of the file.
channels: 1 if the file is grey, else 3; transparency does not count.
frames: 1 but for animations, of which only the first frame counts.
width, height, aspect_ratio: pixels of the upright photo, and width over height.
brightness, contrast: mean and standard deviation of the photo in grey, 0..255.
sharpness, blankness, colorfulness, background_uniformity, phash, pixel_sha256: components/photos/measures.py.
box_*: the product's box in pixels of the upright photo, right and bottom outside; the whole photo
    where no plain background shows where the product ends.
color_derived: whether `color` was told from the pixels, the photo having none given.
"""

SCHEMA = pa.schema([*((name, pa.string()) for name in RECORD), *MEASURED])
"""The fixed columns, one row per photo: its record in data/raw, and what is measured.

After them comes a column of strings per attribute found in the data, sorted by name, and always `color`.
"""

COLOR = "color"
INTEGERS = tuple(field.name for field in MEASURED if pa.types.is_integer(field.type))
OF_GROUP = pa.schema([*SCHEMA, (COLOR, pa.string())])
"""What a worker finds: `color` is the derived one."""


def gather_facts(raw_dir: Path, limits: DecodingSettings, between: Callable[[], None] = lambda: None) -> pa.Table:
    """Facts about every photo of the snapshot; rows in the order of the ids.

    Photos are decoded in guarded worker processes, but for those of parts whose facts are in the cache.

    Args:
        between: called after every row group; may raise to end the work.

    Raises:
        InputError: data/raw is missing or damaged.
    """
    cache = FactsCache(OF_GROUP, limits)
    cache.keep_only({path.name for path in part_paths(raw_dir)})
    known: list[pa.Table] = []
    missing: list[RowGroup] = []
    for part, groups_of_part in groupby(row_groups(raw_dir), key=lambda group: group.part):
        groups = list(groups_of_part)
        table = cache.read(part.name)
        if table is not None:
            table = table.filter(pc.is_in(table["id"], pa.array(np.concatenate([group.ids for group in groups]))))
            known.append(table)
            found = set(table["id"].to_pylist())
            groups = [narrowed for group in groups if len((narrowed := _without(group, found)).ids)]
        missing += groups
    tables = [*known, *_decoded(missing, limits, cache, between)]
    return with_attributes(pa.concat_tables([OF_GROUP.empty_table(), *tables]).sort_by("id"))


def _without(group: RowGroup, ids: set[str]) -> RowGroup:
    wanted = np.array([photo_id not in ids for photo_id in group.ids.tolist()], dtype=np.bool_)
    return RowGroup(group.part, group.index, group.rows[wanted], group.ids[wanted])


def _decoded(
    groups: Sequence[RowGroup], limits: DecodingSettings, cache: FactsCache, between: Callable[[], None]
) -> Iterator[pa.Table]:
    """Facts per part; each part's are put into the cache as soon as they are complete."""
    progress = Progress("validate: photos decoded", sum(len(group.ids) for group in groups))
    results = over_groups(facts_of_rows, groups, [*RECORD, "image"], limits, limits)
    for part, pairs in groupby(zip(groups, results, strict=True), key=lambda pair: pair[0].part):
        tables = []
        lost: list[pa.Table] = []
        for group, (table, missing) in pairs:
            tables.append(table)
            lost += [facts_of_lost(group, missing)] if missing else []
            progress.add(len(group.ids))
            between()
        # Not those that were lost: on a machine less busy they may decode.
        cache.add(part.name, pa.concat_tables(tables))
        yield pa.concat_tables([*tables, *lost])


def facts_of_rows(rows: Sequence[Row], limits: DecodingSettings) -> pa.Table:
    """Rows of OF_GROUP, from rows of data/raw with their images."""
    return pa.Table.from_pylist([facts_of_photo(row, limits) for row in rows], schema=OF_GROUP)


def facts_of_photo(row: Row, limits: DecodingSettings) -> dict[str, Any]:
    """One row of OF_GROUP, from one of data/raw."""
    facts = _facts_of_file(row)
    try:
        photo = decode(row["image"], limits, at_least=SIDE)
    except UndecodableError as error:
        return facts | {"decodable": False, "decode_error": str(error)}
    derived = COLOR not in json.loads(row["attributes"] or "{}")
    return facts | {
        "decodable": True,
        "format": photo.format,
        "mode": photo.mode,
        "channels": 1 if photo.image.mode in GREY else 3,
        "frames": photo.frames,
        "width": photo.width,
        "height": photo.height,
        "aspect_ratio": photo.width / photo.height,
        "color_derived": derived,
        **measure(photo, color=derived),
    }


def _facts_of_file(row: Row) -> dict[str, Any]:
    content: bytes = row["image"]
    facts = {name: row[name] for name in RECORD}
    return facts | {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def facts_of_lost(group: RowGroup, lost: Sequence[Lost]) -> pa.Table:
    """Rows of OF_GROUP for photos of the group whose decoding did not end well."""
    reasons = {each.id: each.reason for each in lost}
    rows = read_group(_without(group, set(group.ids.tolist()) - reasons.keys()), [*RECORD, "image"])
    facts = [_facts_of_file(row) | {"decodable": False, "decode_error": reasons[row["id"]]} for row in rows]
    return pa.Table.from_pylist(facts, schema=OF_GROUP)


def with_attributes(table: pa.Table) -> pa.Table:
    """Adds a column per attribute; a photo's own `color` goes before the derived one."""
    # Of a million photos few differ in all their attributes: each combination is read once.
    encoded = pc.fill_null(table["attributes"], "{}").combine_chunks().dictionary_encode()
    distinct = [json.loads(text) for text in encoded.dictionary.to_pylist()]
    columns = {}
    for name in sorted({COLOR}.union(*distinct)):
        values = pa.array([attributes.get(name) for attributes in distinct], pa.string())
        columns[name] = values.take(encoded.indices)
    derived = table[COLOR]
    columns[COLOR] = pc.coalesce(columns[COLOR], derived.combine_chunks())
    table = table.drop_columns([COLOR])
    for name, values in columns.items():
        table = table.append_column(pa.field(name, pa.string()), values)
    return table.combine_chunks()


def attribute_names(facts: pa.Table) -> list[str]:
    """Names of the facts' columns that are attributes of the photos."""
    return [name for name in facts.column_names if name not in SCHEMA.names]

"""metadata.csv, .jsonl or .parquet beside the photos: the ImageFolder convention of the library `datasets`.

The column `file_name` holds a path relative to the metadata file's folder. `category` (or `label`),
`text`, `license` (or `licence`), `source_url` and `group_id` are what they say; every other column
is an attribute.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.errors import InputError
from components.raw import SCHEMA
from components.sources.names import nfc, shown

METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
METADATA_BYTES = 512 * 2**20
"""Size of a metadata file, at most: it is held in memory."""

KNOWN = ("category", "text", "license", "source_url", "group_id")
ALIASES = {"label": "category", "licence": "license", "colour": "color"}
_OF_THE_FILE = ("sha256", "bytes", "decodable", "decode_error", "format", "mode", "channels", "frames")
_OF_THE_SHAPE = ("width", "height", "aspect_ratio", "box_left", "box_top", "box_right", "box_bottom")
_OF_THE_PIXELS = (
    *("brightness", "contrast", "sharpness", "blankness", "colorfulness", "background_uniformity"),
    *("phash", "pixel_sha256", "color_derived"),
)
RESERVED = frozenset((*SCHEMA.names, *_OF_THE_FILE, *_OF_THE_SHAPE, *_OF_THE_PIXELS))
"""Columns of data/validated/facts.parquet, whose names no attribute may have."""

ATTRIBUTE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_ ]{0,63}")


@dataclass(frozen=True, slots=True)
class Annotation:
    """A row: what a photo is said to be.

    Attributes:
        line: of the file where the row ends, from 1; of Parquet, the row.
        values: of KNOWN, None where there is none.
    """

    line: int
    values: Mapping[str, str | None]
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class Metadata:
    """A metadata file.

    Attributes:
        name: of the file, within the source.
        columns: which of KNOWN it has.
        rows: by the photo's path within the source.
        composed: the same by the path in composed form, where that is another.
    """

    name: str
    columns: frozenset[str]
    rows: Mapping[str, Annotation]
    composed: Mapping[str, Annotation]

    def row_of(self, path: str) -> Annotation | None:
        """The row of a photo, however its name and the row write their accents."""
        return self.rows.get(path) or self.rows.get(nfc(path)) or self.composed.get(nfc(path))


def read_metadata(name: str, content: bytes) -> Metadata:
    """Reads a metadata file.

    Args:
        name: its path within the source; the suffix says the format.

    Raises:
        InputError: it cannot be used; the message names file and line.
    """
    columns: dict[str, str] = {}
    rows: dict[str, Annotation] = {}
    for line, given in _READERS[PurePosixPath(name).suffix](name, content):
        for column in given:
            if column not in columns:
                columns[column] = _meaning(column, columns, name)
        values = {columns[column]: value for column, value in given.items()}
        path = _path(name, line, values.pop("file_name", None))
        if path in rows:
            raise InputError(
                f"{name}, line {line}: names {shown(path)!r} a second time, first in line {rows[path].line}; "
                "leave one of them"
            )
        rows[path] = _annotation(name, line, values)
    composed = {nfc(path): row for path, row in rows.items() if nfc(path) != path}
    return Metadata(shown(name), frozenset(columns.values()) & set(KNOWN), rows, composed)


def _annotation(name: str, line: int, values: Mapping[str, Any]) -> Annotation:
    texts = {}
    for column, value in values.items():
        try:
            texts[column] = as_text(value)
        except ValueError as error:
            raise InputError(f"{name}, line {line}: column '{column}': {error}") from None
    attributes = {column: text for column, text in sorted(texts.items()) if column not in KNOWN and text is not None}
    return Annotation(line, {column: texts.get(column) for column in KNOWN}, attributes)


def _path(name: str, line: int, given: Any) -> str:
    """The photo's path within the source."""
    if not isinstance(given, str) or not given:
        raise InputError(f"{name}, line {line}: file_name: found {given!r}; it must be the path of a photo")
    path = PurePosixPath(given)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(
            f"{name}, line {line}: file_name: found {shown(given)!r}; it must be a path below the file's own folder, "
            "without '..'"
        )
    return str(PurePosixPath(name).parent / path)


def _meaning(column: str, columns: Mapping[str, str], name: str) -> str:
    """What a column is called from now on; checks that it can be."""
    meaning = column.strip()
    if meaning.lower() in (*KNOWN, "file_name", *ALIASES):
        meaning = ALIASES.get(meaning.lower(), meaning.lower())
    elif meaning.lower() in RESERVED:
        raise InputError(
            f"{name}: column '{column}': that name is taken for what Vitrine itself records or measures; "
            "rename or remove the column"
        )
    elif not ATTRIBUTE_NAME.fullmatch(meaning):
        raise InputError(
            f"{name}: column {shown(column)!r}: an attribute's name is made of letters, digits, '_' and spaces, begins "
            "with a letter or '_', and has 64 characters at most; rename the column"
        )
    for other, taken in columns.items():
        if taken.lower() == meaning.lower():
            raise InputError(f"{name}: columns '{other}' and '{column}' mean the same; leave one of them")
    return meaning


def as_text(value: Any) -> str | None:
    """A value as text that is the same whatever file it came from; None where there is none.

    Raises:
        ValueError: it is no single value.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return nfc(shown(value)).strip() or None
    if isinstance(value, float):
        # A column of whole numbers in which one is missing is often stored as floats.
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, int | Decimal):
        return str(value)
    if isinstance(value, date | time):  # datetime is a date
        return value.isoformat()
    raise ValueError(f"found a {type(value).__name__}; allowed are texts, numbers, true, false, dates and nothing")


Line = tuple[int, dict[str, Any]]


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{name}, line {line}: not UTF-8 ({error.reason}); save the file as UTF-8") from None


def _csv_lines(name: str, content: bytes) -> Iterator[Line]:
    reader = csv.reader(io.StringIO(_text(name, content), newline=""), strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            twice = next(column for column in header if header.count(column) > 1)
            raise InputError(f"{name}, line 1: column '{twice}' stands there twice; leave one of them")
        if "file_name" not in (column.strip().lower() for column in header):
            raise InputError(f"{name}, line 1: found the columns {', '.join(header)}; one must be file_name")
        for values in reader:
            if not values:
                continue
            if len(values) != len(header):
                raise InputError(
                    f"{name}, line {reader.line_num}: found {len(values)} values, the first line names "
                    f"{len(header)} columns; put values with a comma in quotes"
                )
            yield reader.line_num, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise InputError(f"{name}, line {reader.line_num}: cannot be read as CSV: {error}") from None


def _jsonl_lines(name: str, content: bytes) -> Iterator[Line]:
    # Not splitlines(), which would also cut at characters that JSON allows within a text.
    for number, line in enumerate(_text(name, content).split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{name}, line {number}: cannot be read as JSON: {error}") from None
        if not isinstance(values, dict):
            raise InputError(f"{name}, line {number}: found {line[:40]!r}; each line must be a JSON object")
        yield number, values


def _parquet_lines(name: str, content: bytes) -> Iterator[Line]:
    try:
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            if "file_name" not in (column.strip().lower() for column in file.schema_arrow.names):
                found = ", ".join(file.schema_arrow.names)
                raise InputError(f"{name}: found the columns {found}; one must be file_name")
            number = 0
            for batch in file.iter_batches(use_threads=False):
                for values in batch.to_pylist():
                    number += 1
                    yield number, values
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{name}: cannot be read as Parquet: {error}") from None


_READERS = {".csv": _csv_lines, ".jsonl": _jsonl_lines, ".parquet": _parquet_lines}

"""All parts of data/raw: written in a row, and read for what is known of their photos."""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pyarrow.parquet as pq

from components.raw import (
    GROUP_BYTES,
    GROUP_ROWS,
    PART_BYTES,
    RECORD,
    SCHEMA,
    Row,
    check_part,
    part_paths,
    record_key,
    runs,
    write_groups,
)


def write_parts(rows: Iterable[Row], raw_dir: Path, max_rows: int) -> Iterator[tuple[str, list[str]]]:
    """Writes rows of SCHEMA, ids all different, into as many parts as they need, holding but a few at a time.

    Yields:
        Each part's name, when it is whole, and the ids in it.
    """
    for _, numbered in groupby(_numbered(rows, max_rows), key=itemgetter(0)):
        ids: list[str] = []
        name = write_groups(runs(_noted(numbered, ids), GROUP_ROWS, GROUP_BYTES), raw_dir)
        yield name, ids


def _noted(numbered: Iterable[tuple[int, Row]], ids: list[str]) -> Iterator[Row]:
    for _, row in numbered:
        ids.append(row["id"])
        yield row


def _numbered(rows: Iterable[Row], max_rows: int) -> Iterator[tuple[int, Row]]:
    """Rows, each with the number of the part that has room for it."""
    number, count, size = 0, 0, 0
    for row in rows:
        if count and (count == max_rows or size + len(row["image"]) > PART_BYTES):
            number, count, size = number + 1, 0, 0
        count, size = count + 1, size + len(row["image"])
        yield number, row


def records(raw_dir: Path) -> Iterator[tuple[str, Row]]:
    """All photos in the parts, in the snapshot or not: part and what is known of each, etag included.

    Parts of an older make of Vitrine, with other columns, are as if they were not there.

    Raises:
        InputError: a part is damaged.
    """
    columns = [*RECORD, "etag"]
    for path in part_paths(raw_dir):
        check_part(path)
        with pq.ParquetFile(path) as file:
            if file.schema_arrow.names != SCHEMA.names:
                continue
            for batch in file.iter_batches(columns=columns, use_threads=False):
                for values in zip(*(batch[name].to_pylist() for name in columns), strict=True):
                    yield path.name, dict(zip(columns, values, strict=True))


def read_records(raw_dir: Path) -> dict[bytes, str]:
    """Record key to part, for all photos in the parts, whether in the snapshot or not.

    Raises:
        InputError: a part is damaged.
    """
    return {record_key(row): part for part, row in records(raw_dir)}


def rewrite_without(raw_dir: Path, is_out: Callable[[str], bool]) -> dict[str, str]:
    """Writes each part that holds photos to be erased anew without them; the old one is left for the caller.

    Args:
        is_out: whether the photo of that id is to be erased.

    Returns:
        Old part to new part; parts of which nothing is left are missing.
    """
    renamed = {}
    for path in part_paths(raw_dir):
        with pq.ParquetFile(path) as file:
            ids = file.read(columns=["id"], use_threads=False)["id"].to_pylist()
            out = sum(map(is_out, ids))
            if 0 < out < len(ids) and file.schema_arrow.names == SCHEMA.names:
                renamed[path.name] = write_groups(_kept(file, is_out), raw_dir)
    return renamed


def _kept(file: pq.ParquetFile, is_out: Callable[[str], bool]) -> Iterator[list[Row]]:
    for index in range(file.num_row_groups):
        rows = file.read_row_group(index, use_threads=False).to_pylist()
        kept = [row for row in rows if not is_out(row["id"])]
        if kept:
            yield kept

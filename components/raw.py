"""data/raw: photos as append-only Parquet parts, and the snapshot that says which of them count.

A part is named after the SHA-256 of its content and never rewritten: new photos come as new
parts, so that a push moves only what is new. `snapshot.parquet` lists the photos of this version,
sorted by id, each with the part that holds it; a photo leaves by leaving the snapshot. Both are
written without times, with fixed options and a fixed order: the same photos give the same bytes.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.errors import InputError
from components.files import sha256_file, written_whole
from components.tables import read_table, write_table

PART_BYTES = 128 * 2**20
"""Image bytes in one part, at most: it is put together in memory."""

GROUP_ROWS, GROUP_BYTES = 1000, 16 * 2**20
"""Rows and image bytes in one row group, at most: what a reader holds at a time."""

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.binary()),
        ("file_name", pa.string()),
        ("category", pa.string()),
        ("split_hint", pa.string()),
        ("licence", pa.string()),
        ("source", pa.string()),
        ("attributes", pa.string()),
    ]
)
RECORD = [name for name in SCHEMA.names if name != "image"]
SNAPSHOT_SCHEMA = pa.schema([("id", pa.string()), ("part", pa.string())])


@dataclass(frozen=True, slots=True)
class Photo:
    """One photo as a source hands it over.

    Attributes:
        image: the bytes of the image file.
        file_name: path within the source, for people: errors and reports name a photo by it.
        split_hint: the source's own split; kept as a fact, the pipeline splits anew.
        attributes: further conditions, name to value.
    """

    image: bytes
    file_name: str
    category: str
    split_hint: str
    licence: str
    source: str
    attributes: Mapping[str, str] = field(default_factory=dict)

    def row(self) -> dict[str, str | bytes]:
        """The photo as a row of SCHEMA; `id` is the SHA-256 of the image file's bytes."""
        return {
            "id": hashlib.sha256(self.image).hexdigest(),
            "image": self.image,
            "file_name": self.file_name,
            "category": self.category,
            "split_hint": self.split_hint,
            "licence": self.licence,
            "source": self.source,
            "attributes": json.dumps(dict(self.attributes), sort_keys=True, ensure_ascii=False),
        }


Row = Mapping[str, Any]


def record_key(row: Row) -> bytes:
    """Identity of a photo with all that is known of it: a corrected category makes a new record."""
    return hashlib.sha256("\0".join(str(row[name]) for name in RECORD).encode()).digest()


@dataclass(frozen=True)
class RowGroup:
    """Photos that are read together.

    Attributes:
        index: number of the row group in the part.
        rows: which of its rows belong to the snapshot, (n,).
        ids: their ids, (n,).
    """

    part: Path
    index: int
    rows: NDArray[np.int64]
    ids: NDArray[np.str_]


def part_paths(raw_dir: Path) -> list[Path]:
    """The parts in a folder, in the order of their names; none if there is no folder."""
    return sorted(raw_dir.glob("part-*.parquet"))


def part_name(content_sha256: str) -> str:
    return f"part-{content_sha256[:16]}.parquet"


def check_part(path: Path) -> None:
    """Compares a part's content with its name.

    Raises:
        InputError: they differ: the file is damaged.
    """
    try:
        found = sha256_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: not found; {_MEND}") from None
    if part_name(found) != path.name:
        raise InputError(f"{path}: damaged, its content has SHA-256 {found[:16]}..., its name another; {_MEND}")


_MEND = (
    "restore it with `dvc checkout --force data/raw` (or `dvc pull --force data/raw`), "
    "or delete it and run `dvc repro ingest`, which takes its photos from the source again"
)


def write_part(rows: Sequence[Row], raw_dir: Path) -> str:
    """Writes rows of SCHEMA, ids all different, into one part; returns its name."""
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(
        buffer,
        SCHEMA,
        version="2.6",
        compression="zstd",
        compression_level=3,
        use_dictionary=["category", "split_hint", "licence", "source", "attributes"],
        write_statistics=["id"],
    ) as writer:
        for group in runs(rows, GROUP_ROWS, GROUP_BYTES):
            writer.write_table(pa.Table.from_pylist(list(group), schema=SCHEMA))
    content = buffer.getvalue()
    name = part_name(hashlib.sha256(content).hexdigest())
    with written_whole(raw_dir / name) as temporary:
        temporary.write_bytes(content)
    return name


def runs(rows: Iterable[Row], max_rows: int, max_bytes: int) -> Iterator[list[Row]]:
    """Cuts rows into runs of at most `max_rows` rows and, but for a larger photo, `max_bytes` of images."""
    run: list[Row] = []
    size = 0
    for row in rows:
        if run and (len(run) == max_rows or size + len(row["image"]) > max_bytes):
            yield run
            run, size = [], 0
        run.append(row)
        size += len(row["image"])
    if run:
        yield run


def read_records(raw_dir: Path) -> dict[bytes, str]:
    """Record key to part, for all photos in the parts, whether in the snapshot or not.

    Raises:
        InputError: a part is damaged.
    """
    known: dict[bytes, str] = {}
    for path in part_paths(raw_dir):
        check_part(path)
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=RECORD, use_threads=False):
                known.update((record_key(row), path.name) for row in batch.to_pylist())
    return known


def write_snapshot(raw_dir: Path, parts_by_id: Mapping[str, str]) -> None:
    """Writes which photos count, as id to part; leaves the file alone if it says so already."""
    ids = sorted(parts_by_id)
    parts = [parts_by_id[photo_id] for photo_id in ids]
    write_table(pa.table([ids, parts], schema=SNAPSHOT_SCHEMA), raw_dir / "snapshot.parquet")


def read_snapshot(raw_dir: Path) -> dict[str, str]:
    """Id to part of the photos that count, in the order of the ids.

    Raises:
        InputError: there is no snapshot, or it is damaged.
    """
    table = read_table(raw_dir / "snapshot.parquet", "ingest")
    return dict(zip(table["id"].to_pylist(), table["part"].to_pylist(), strict=True))


def row_groups(raw_dir: Path) -> list[RowGroup]:
    """All photos of the snapshot, in groups that fit in memory; every part is checked first.

    Raises:
        InputError: the snapshot is missing, a part is missing or damaged, or a photo is in no part.
    """
    snapshot = read_snapshot(raw_dir)
    groups = [group for name in sorted(set(snapshot.values())) for group in _groups_of_part(raw_dir / name, snapshot)]
    missing = len(snapshot) - sum(len(group.ids) for group in groups)
    if missing:
        raise InputError(f"{raw_dir}: {missing} photos of snapshot.parquet are not in its parts; {_MEND}")
    return groups


def _groups_of_part(path: Path, snapshot: Mapping[str, str]) -> Iterator[RowGroup]:
    check_part(path)
    with pq.ParquetFile(path) as file:
        for index in range(file.num_row_groups):
            ids = file.read_row_group(index, columns=["id"], use_threads=False)["id"].to_pylist()
            rows = [row for row, photo_id in enumerate(ids) if snapshot.get(photo_id) == path.name]
            if rows:
                chosen = np.array([ids[row] for row in rows])
                yield RowGroup(path, index, np.array(rows, dtype=np.int64), chosen)


def read_group(group: RowGroup, columns: Sequence[str]) -> list[Row]:
    """The group's photos as rows with the given columns of SCHEMA, in the order of `group.ids`."""
    with pq.ParquetFile(group.part) as file:
        table = file.read_row_group(group.index, columns=list(columns), use_threads=False)
    return cast(list[Row], table.take(group.rows).to_pylist())

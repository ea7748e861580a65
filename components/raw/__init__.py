"""data/raw: photos as append-only Parquet parts, and the snapshot that says which of them count.

A part is named after the SHA-256 of its content: new photos come as new parts, so that a push
moves only what is new. `snapshot.parquet` lists the photos of this version, sorted by id, each with
the part that holds it and the version that brought it; a photo leaves by leaving the snapshot. Both
are written without times, with fixed options and a fixed order: the same photos give the same bytes.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.errors import InputError
from components.files import sha256_file
from components.tables import read_table, write_table

PART_BYTES = 128 * 2**20
"""Image bytes in one part, at most: what is fetched again when one of its photos must be erased."""

GROUP_ROWS, GROUP_BYTES = 1000, 4 * 2**20
"""Rows and image bytes in one row group, at most: what a writer or a reader holds at a time."""

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.binary()),
        ("file_name", pa.string()),
        ("category", pa.string()),
        ("split_hint", pa.string()),
        ("text", pa.string()),
        ("license", pa.string()),
        ("source", pa.string()),
        ("source_url", pa.string()),
        ("group_id", pa.string()),
        ("etag", pa.string()),
        ("attributes", pa.string()),
    ]
)
RECORD = [name for name in SCHEMA.names if name not in ("image", "etag")]
"""What is known of a photo; the etag is how a store calls its bytes, which `id` does better."""

SNAPSHOT_SCHEMA = pa.schema([("id", pa.string()), ("part", pa.string()), ("version", pa.int64())])

_record_values = itemgetter(*RECORD)

_REPEATING = ["category", "split_hint", "license", "source", "group_id", "attributes"]
"""Columns with few values, for which a dictionary is shorter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What a source knows of a photo without its bytes; None: unknown.

    Attributes:
        file_name: path within the source, for people: errors and reports name a photo by it.
        split_hint: the source's own split; kept as a fact, the pipeline splits anew.
        source: kind of the source: a key of components.sources.SOURCES.
        group_id: photos of the same item have the same.
        etag: of the object, where the source is an object store.
        attributes: further conditions, name to value.
    """

    file_name: str
    source: str
    category: str | None = None
    split_hint: str | None = None
    text: str | None = None
    license: str | None = None
    source_url: str | None = None
    group_id: str | None = None
    etag: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)

    def record(self, photo_id: str) -> dict[str, str | None]:
        """What RECORD names, of the photo whose bytes have that id."""
        return {
            "id": photo_id,
            "file_name": self.file_name,
            "category": self.category,
            "split_hint": self.split_hint,
            "text": self.text,
            "license": self.license,
            "source": self.source,
            "source_url": self.source_url,
            "group_id": self.group_id,
            "attributes": json.dumps(dict(self.attributes), sort_keys=True, ensure_ascii=False)
            if self.attributes
            else "{}",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo(Described):
    """A photo with the bytes of its image file."""

    image: bytes

    def row(self) -> dict[str, str | bytes | None]:
        """The photo as a row of SCHEMA."""
        return row_of(self, id_of(self.image), self.image)


def id_of(image: bytes) -> str:
    """A photo's id: the SHA-256 of the image file's bytes."""
    return hashlib.sha256(image).hexdigest()


def row_of(photo: Described, photo_id: str, image: bytes) -> dict[str, str | bytes | None]:
    """A row of SCHEMA."""
    return {**photo.record(photo_id), "image": image, "etag": photo.etag}


Row = Mapping[str, Any]


def record_key(row: Row) -> bytes:
    """Identity of a photo with all that is known of it: a corrected category makes a new record."""
    return hashlib.sha256(repr(_record_values(row)).encode()).digest()


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
    return write_groups(runs(rows, GROUP_ROWS, GROUP_BYTES), raw_dir)


def write_groups(groups: Iterable[Sequence[Row]], raw_dir: Path) -> str:
    """Writes one part, each group of rows of SCHEMA as a row group; returns its name."""
    raw_dir.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=raw_dir, prefix=".part-")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file, _writer(file) as writer:
            for group in groups:
                writer.write_table(pa.Table.from_pylist(list(group), schema=SCHEMA))
        part = part_name(sha256_file(temporary))
        temporary.chmod(0o644)  # mkstemp's 0600 would follow the file into caches
        temporary.replace(raw_dir / part)
        return part
    finally:
        temporary.unlink(missing_ok=True)


def _writer(file: IO[bytes]) -> Any:
    return pq.ParquetWriter(
        file,
        SCHEMA,
        version="2.6",
        compression="zstd",
        compression_level=3,
        use_dictionary=_REPEATING,
        write_statistics=["id"],
    )


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


def write_snapshot(raw_dir: Path, parts_by_id: Mapping[str, str], versions: Mapping[str, int] | None = None) -> None:
    """Writes which photos count, as id to part; leaves the file alone if it says so already.

    Args:
        versions: id to the version that brought the photo; None: all came with the first.
    """
    ids = sorted(parts_by_id)
    parts = [parts_by_id[photo_id] for photo_id in ids]
    numbers = [1 if versions is None else versions[photo_id] for photo_id in ids]
    write_table(pa.table([ids, parts, numbers], schema=SNAPSHOT_SCHEMA), raw_dir / "snapshot.parquet")


def read_snapshot(raw_dir: Path) -> dict[str, str]:
    """Id to part of the photos that count, in the order of the ids.

    Raises:
        InputError: there is no snapshot, or it is damaged.
    """
    table = _snapshot(raw_dir)
    return dict(zip(table["id"].to_pylist(), table["part"].to_pylist(), strict=True))


def read_versions(raw_dir: Path) -> dict[str, int]:
    """Id to version: 1 for the photos of the first ingest, one more for each later one that brought new ones.

    Raises:
        InputError: there is no snapshot, or it is damaged.
    """
    table = _snapshot(raw_dir)
    return dict(zip(table["id"].to_pylist(), table["version"].to_pylist(), strict=True))


def _snapshot(raw_dir: Path) -> pa.Table:
    path = raw_dir / "snapshot.parquet"
    table = read_table(path, "ingest")
    if table.schema != SNAPSHOT_SCHEMA:
        raise InputError(f"{path}: made by an earlier Vitrine; make it again with `dvc repro ingest`")
    return table


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

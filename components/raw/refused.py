"""What ingest did not take, as the later stages read it."""

from pathlib import Path

import pyarrow as pa

from components.sources.listing import EMPTY, ENCRYPTED, TOO_LARGE, UNREADABLE
from components.sources.names import reason_against
from components.tables import read_table

SCHEMA = pa.schema([("file_name", pa.string()), ("reason", pa.string())])

BROKEN = (EMPTY, TOO_LARGE, UNREADABLE, ENCRYPTED)
"""Kinds of reasons that say of a file what `decodable` says of a photo."""


def read_refused(raw_dir: Path) -> pa.Table:
    """Files that were refused: file_name, reason."""
    return _read(raw_dir / "refused.parquet")


def read_removed(raw_dir: Path) -> pa.Table:
    """Photos that the removal list took out: file_name, reason."""
    return _read(raw_dir / "removed.parquet")


def _read(path: Path) -> pa.Table:
    if not path.exists():
        return SCHEMA.empty_table()
    return read_table(path, "ingest").select(SCHEMA.names)


def kind_of(reason: str) -> str:
    """What stands before the first ': ': reasons differ in what follows."""
    return reason.partition(": ")[0]


def broken_photos(raw_dir: Path) -> list[tuple[str, str]]:
    """File name and reason of refused files that are photos by their names and cannot be read."""
    rows = read_refused(raw_dir).to_pylist()
    return [
        (row["file_name"], row["reason"])
        for row in rows
        if kind_of(row["reason"]) in BROKEN and reason_against(row["file_name"]) is None
    ]

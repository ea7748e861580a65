"""Small sources of photos for tests, and what ingest makes of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from components.raw import RECORD, part_paths, read_group, row_groups
from components.settings import DataSettings, FashionMnistSettings, S3Settings


def settings_of(source: str, path: Path | None = None, **changes: Any) -> DataSettings:
    """Settings of ingest for a source of the test's own."""
    values: dict[str, Any] = {
        "source": source,
        "path": None if path is None else str(path),
        "s3": S3Settings(url=None, endpoint=None, profile=None),
        "license": None,
        "removals": None,
        "file_bytes": 1000,
        "subset": None,
        "part_rows": 4,
        "fashion_mnist": FashionMnistSettings(origin="auto", folder=None, url="http://fashion-mnist.invalid"),
    }
    return DataSettings(**(values | changes))


def write_files(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    """Writes files by their path below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def taken(raw: Path) -> dict[str, dict[str, Any]]:
    """What is known of each photo of the snapshot, by file name; image and etag too."""
    groups = row_groups(raw)
    rows = [row for group in groups for row in read_group(group, [*RECORD, "image", "etag"])]
    return {row["file_name"]: dict(row) for row in rows}


def refused(raw: Path) -> dict[str, str]:
    table = pq.read_table(raw / "refused.parquet")
    return dict(zip(table["file_name"].to_pylist(), table["reason"].to_pylist(), strict=True))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stored_ids(raw: Path) -> list[str]:
    """Ids of all rows of all parts, whether they count or not."""
    return [str(value) for path in part_paths(raw) for value in pq.read_table(path)["id"].to_pylist()]

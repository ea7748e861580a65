"""Parquet files that are the same bytes for the same rows."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.errors import InputError
from components.files import written_whole


def write_table(table: pa.Table, path: Path) -> None:
    """Writes Parquet, whole or not at all; leaves the file alone if it holds just that already."""
    buffer = pa.BufferOutputStream()
    # pandas' metadata would name its version.
    pq.write_table(table.replace_schema_metadata(None), buffer, version="2.6", compression="zstd")
    content = buffer.getvalue().to_pybytes()
    if not path.is_file() or path.read_bytes() != content:
        with written_whole(path) as temporary:
            temporary.write_bytes(content)


def read_table(path: Path, stage: str) -> pa.Table:
    """Reads what write_table wrote.

    Args:
        stage: the stage that makes the file, for the errors.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with path.open("rb") as file:
            return pq.read_table(file)
    except FileNotFoundError:
        raise InputError(f"{path}: not found; make it with `dvc repro {stage}` or fetch it with `dvc pull`") from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path}: damaged ({error}); restore it with `dvc checkout --force {path.parent}` "
            f"or make it again with `dvc repro --force {stage}`"
        ) from None

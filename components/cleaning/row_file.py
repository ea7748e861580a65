"""Rows of one shape and type in a temporary file, read and written by position: memory stays flat.

Not mapped into memory: mapped pages count as memory of the process, and writing into a mapped file
on a full disk ends the process without a word.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Rows(Protocol):
    """Rows by their positions: an array, or a RowFile."""

    def __getitem__(self, places: NDArray[np.int64], /) -> NDArray[Any]: ...


class RowFile:
    """Fixed-size rows in an open file."""

    def __init__(self, handle: int, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        """
        Args:
            shape: of one row.
        """
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._handle = handle
        self._bytes = int(np.prod(shape)) * self.dtype.itemsize

    def write(self, places: Sequence[int] | NDArray[np.int64], rows: NDArray[Any]) -> None:
        """Puts rows (n, *shape) at their places.

        Raises:
            OSError: the disk is full.
        """
        if rows.shape != (len(places), *self.shape) or rows.dtype != self.dtype:
            raise ValueError(f"rows {rows.dtype} {rows.shape} for {len(places)} places of {self.dtype} {self.shape}")
        for place, row in zip(places, np.ascontiguousarray(rows), strict=True):
            written = os.pwrite(self._handle, row.data, int(place) * self._bytes)
            if written < self._bytes:
                # The rest fails with the reason, which is a full disk.
                os.pwrite(self._handle, row.tobytes()[written:], int(place) * self._bytes + written)

    def __getitem__(self, places: NDArray[np.int64], /) -> NDArray[Any]:
        """The rows at the places, (n, *shape)."""
        rows = np.empty((len(places), *self.shape), dtype=self.dtype)
        for row, place in zip(rows, places.tolist(), strict=True):
            if os.preadv(self._handle, [row.data], place * self._bytes) < self._bytes:
                raise ValueError(f"row {place} was never written")
        return rows


@contextmanager
def row_file(folder: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> Iterator[RowFile]:
    """A RowFile in `folder`, on its disk but without a name: it is gone when the process is, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        yield RowFile(file.fileno(), shape, dtype)

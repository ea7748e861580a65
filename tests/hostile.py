"""Work on photos whose bytes say what befalls the process that reads them."""

import os
import signal
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.errors import InputError
from components.photos.decoding import UndecodableError, decode, flatten
from components.raw import Photo, Row, RowGroup, row_groups, write_groups, write_snapshot
from components.settings import DecodingSettings

MIB = 2**20


def obey(rows: Sequence[Row], suffix: str = "") -> list[str]:
    """What the photos say, each with the suffix, but for those that say what is to be done."""
    held = []
    for row in rows:
        order, _, value = bytes(row["image"]).decode().partition(" ")
        if order == "signal":
            os.kill(os.getpid(), signal.Signals[value.split()[0]])
        elif order == "exit":
            os._exit(int(value.split()[0]))
        elif order == "sleep":
            time.sleep(float(value.split()[0]))
        elif order == "spin":
            # One call that holds the interpreter, as a decoder in C may.
            sum(range(10**12))
        elif order == "allocate":
            held.append(bytearray(int(value.split()[0]) * MIB))
        elif order == "refuse":
            raise InputError(value)
        elif order == "print":
            os.write(2, b"noise\n")
            print("noise", flush=True)
    return [row["image"].decode() + suffix for row in rows]


def merge(rows: Sequence[Row]) -> list[tuple[str, Any]]:
    return [(row["image"].decode(), row["rank"]) for row in rows]


def pids(rows: Sequence[Row]) -> int:
    time.sleep(0.05 * len(rows))
    return os.getpid()


def outcomes(rows: Sequence[Row], limits: DecodingSettings) -> dict[str, str]:
    """Per file name the photo's mode, size and pixels, or why it is none."""
    found = {}
    for row in rows:
        try:
            image = decode(row["image"], limits, at_least=64).image
            pixels = zlib.crc32(flatten(image, 3).tobytes())
            found[row["file_name"]] = f"photo {image.mode} {image.size} {pixels:08x}"
        except UndecodableError as error:
            found[row["file_name"]] = str(error)
    return found


def groups_of(folder: Path, orders: Iterable[Sequence[str]]) -> list[RowGroup]:
    """data/raw with one row group per sequence of orders; its groups, in that order."""
    rows = [
        [Photo(image=order.encode(), file_name=f"{order}.jpg", source="test").row() for order in group]
        for group in orders
    ]
    name = write_groups(rows, folder)
    write_snapshot(folder, {str(row["id"]): name for group in rows for row in group})
    return row_groups(folder)


def groups_of_files(folder: Path, files: Mapping[str, bytes], group_rows: int) -> list[RowGroup]:
    """data/raw of files, by their names and in their order; of several with the same bytes the first."""
    photos: dict[bytes, Row] = {}
    for name, content in files.items():
        photos.setdefault(content, Photo(image=content, file_name=name, source="test").row())
    rows = list(photos.values())
    part = write_groups([rows[start : start + group_rows] for start in range(0, len(rows), group_rows)], folder)
    write_snapshot(folder, {str(row["id"]): part for row in rows})
    return row_groups(folder)

"""The removal list: photos that must leave every later version, because a licence ended or a person asked.

A CSV with any of the columns id, file_name, group_id and source_url, and a reason. An entry takes out
every photo that one of its values names; the id of such a photo is remembered, so that its bytes stay
out under any name, for as long as the entry stands.
"""

import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pyarrow as pa

from components.errors import InputError
from components.sources.names import nfc
from components.tables import read_table, write_table

COLUMNS = ("id", "file_name", "group_id", "source_url")
NO_REASON = "on the removal list"
REMOVED_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "file_name", "reason", "entry")])


@dataclass(frozen=True, slots=True)
class Removal:
    """An entry of the list.

    Attributes:
        line: of the file where it ends.
        values: of COLUMNS, those that are given.
    """

    line: int
    reason: str
    values: Mapping[str, str]


@dataclass
class Removals:
    """The list, and what it takes out.

    Attributes:
        by_value: entries by column and value.
        removed: by id and file name of each photo that was ever found, the column and value that name it.
        used: lines of the entries that name a photo.
    """

    entries: list[Removal] = field(default_factory=list)
    by_value: dict[tuple[str, str], Removal] = field(default_factory=dict)
    removed: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)
    _by_id: dict[str, tuple[str, str]] = field(default_factory=dict)

    def match(self, values: Mapping[str, str | None]) -> tuple[str, str] | None:
        """The first column and value by which an entry names a photo."""
        if not self.by_value:
            return None
        found = [
            (column, value)
            for column in COLUMNS
            if (value := values.get(column)) is not None and (column, value) in self.by_value
        ]
        self.used.update(self.by_value[by].line for by in found)
        return found[0] if found else None

    def covers(self, photo_id: str) -> bool:
        """Whether the photo with these bytes is taken out."""
        return photo_id in self._by_id or ("id", photo_id) in self.by_value

    def take_out(self, photo_id: str, file_name: str, by: tuple[str, str] | None = None) -> None:
        """Notes that a photo is taken out, as named by an entry, or for having the bytes of one that is."""
        by = self._by_id.setdefault(photo_id, by or ("id", photo_id))
        self.removed.setdefault((photo_id, file_name), by)
        self.used.add(self.by_value[by].line)

    def reasons(self) -> Counter[str]:
        """How many photos each reason takes out."""
        return Counter(self.by_value[by].reason for by in self._by_id.values())

    def unused(self) -> list[Removal]:
        """Entries that name no photo, neither now nor before."""
        return [entry for entry in self.entries if entry.line not in self.used]


def read_removals(path: str | None, raw_dir: Path) -> Removals:
    """Reads the list, and from data/raw what it took out before.

    Raises:
        InputError: the list is missing or malformed, or removed.parquet is damaged.
    """
    removals = Removals(entries=list(_entries(Path(path).expanduser())) if path else [])
    for entry in removals.entries:
        for by in entry.values.items():
            removals.by_value.setdefault(by, entry)
    forgotten = 0
    for row in read_removed(raw_dir):
        column, _, value = row["entry"].partition("=")
        if (column, value) in removals.by_value:
            removals.take_out(row["id"], row["file_name"], (column, value))
        else:
            forgotten += 1
    if forgotten:
        print(f"ingest: {forgotten} photos that were removed are not on the removal list any more", file=sys.stderr)
    return removals


def read_removed(raw_dir: Path) -> list[dict[str, str]]:
    """Rows of removed.parquet; none where there is none yet."""
    path = raw_dir / "removed.parquet"
    return cast(list[dict[str, str]], read_table(path, "ingest").to_pylist()) if path.exists() else []


def write_removed(raw_dir: Path, removals: Removals) -> None:
    """Writes removed.parquet, sorted by id and file name; `entry` is what named the photo, as 'group_id=17'."""
    rows = [
        {"id": photo_id, "file_name": name, "reason": removals.by_value[by].reason, "entry": "=".join(by)}
        for (photo_id, name), by in sorted(removals.removed.items())
    ]
    write_table(pa.Table.from_pylist(rows, schema=REMOVED_SCHEMA), raw_dir / "removed.parquet")


def _entries(path: Path) -> Iterator[Removal]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(
            f"params.yaml: data.removals: found '{path}', which cannot be read: {error.strerror}; name a CSV, or null"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        if not set(header) & set(COLUMNS) or len(set(header)) < len(header):
            raise InputError(
                f"{path}, line 1: found the columns {', '.join(header) or 'none'}; allowed are {', '.join(COLUMNS)} "
                "(at least one of them), reason, and others that are ignored, each once"
            )
        for values in reader:
            if any(value.strip() for value in values):
                yield _entry(path, reader.line_num, header, values)
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: cannot be read as CSV: {error}") from None


def _entry(path: Path, line: int, header: list[str], values: list[str]) -> Removal:
    if len(values) != len(header):
        raise InputError(
            f"{path}, line {line}: found {len(values)} values, the first line names {len(header)} columns; put values "
            "with a comma in quotes"
        )
    given = {column: nfc(value).strip() for column, value in zip(header, values, strict=True)}
    named = {column: given[column] for column in COLUMNS if given.get(column)}
    if not named:
        raise InputError(f"{path}, line {line}: names no photo; one of {', '.join(COLUMNS)} must be given")
    if "id" in named:
        named["id"] = named["id"].lower()
        if not re.fullmatch(r"[0-9a-f]{64}", named["id"]):
            raise InputError(f"{path}, line {line}: id: found {given['id']!r}; it must be 64 hexadecimal digits")
    return Removal(line, given.get("reason") or NO_REASON, named)

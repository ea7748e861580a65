"""A tree of files as photos: what is a photo, of which category, and what the metadata files say of it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from components.errors import InputError
from components.settings import DataSettings
from components.sources.listing import EMPTY, SAME_NAME, TOO_LARGE, Entry, Refused
from components.sources.metadata import METADATA_BYTES, METADATA_NAMES, Annotation, Metadata, read_metadata
from components.sources.names import nfc, reason_against, shown, split_and_category

NO_ROW = "no row in"
NO_FILE = "not in the source, but in"


@dataclass(frozen=True, slots=True)
class File:
    """A file of a source that is a tree.

    Attributes:
        name: path below the root, '/' between folders.
        fingerprint, where: as of an Entry.
        etag: of an object.
    """

    name: str
    size: int
    fingerprint: str | None
    where: Any
    etag: str | None = None


def by_convention(
    files: Sequence[File],
    settings: DataSettings,
    read: Callable[[File, int], bytes],
    base: str = "",
) -> tuple[list[Entry], list[Refused]]:
    """Makes entries of the files that are photos, in the given order, and says why the others are none.

    Args:
        read: reads a file of at most so many bytes; used for the metadata files alone.
        base: folder from which a category's and a split's levels count.

    Raises:
        InputError: a metadata file cannot be used, or there are fewer photos than data.subset.
    """
    metadata = _metadata_by_folder(files, read)
    photos: list[File] = []
    refused: list[Refused] = []
    names: set[str] = set()
    for file in files:
        if _is_metadata(file.name):
            continue
        reason = _reason_against(file, settings.file_bytes, names)
        names.add(file.name)
        if reason is None:
            photos.append(file)
        else:
            refused.append(Refused(shown(file.name), reason))
    refused += _rows_without_file(metadata, names)
    entries: list[Entry] = []
    recorded = _recorded_names(photos)
    for file, name in zip(photos, recorded, strict=True):
        entry = _entry(file, name, metadata, settings, base)
        if isinstance(entry, Refused):
            refused.append(entry)
        else:
            entries.append(entry)
    return _subset(entries, settings), refused


def _is_metadata(name: str) -> bool:
    folder, slash, last = name.rpartition("/")
    return last in METADATA_NAMES and reason_against(f"{folder}{slash}x.png") is None


def _reason_against(file: File, limit: int, names: set[str]) -> str | None:
    reason = reason_against(file.name)
    if reason is not None:
        return reason
    if file.name in names:
        return SAME_NAME
    if file.size == 0:
        return EMPTY
    return f"{TOO_LARGE}: {file.size} bytes" if file.size > limit else None


def _metadata_by_folder(files: Sequence[File], read: Callable[[File, int], bytes]) -> dict[str, Metadata]:
    found: dict[str, Metadata] = {}
    for file in files:
        if not _is_metadata(file.name):
            continue
        folder = str(PurePosixPath(file.name).parent)
        if folder in found:
            raise InputError(f"{found[folder].name} and {shown(file.name)}: one metadata file in a folder is allowed")
        if file.size > METADATA_BYTES:
            raise InputError(f"{shown(file.name)}: found {file.size} bytes; {METADATA_BYTES} are allowed")
        found[folder] = read_metadata(file.name, read(file, METADATA_BYTES))
    _check_overlap(found)
    return found


def _check_overlap(metadata: Mapping[str, Metadata]) -> None:
    """A photo's metadata file is the nearest: a row of another one would have no effect."""
    for file in metadata.values():
        for path, row in file.rows.items():
            nearest = _nearest(path, metadata)
            if nearest is not file and nearest is not None:
                raise InputError(
                    f"{file.name}, line {row.line}: names {shown(path)!r}, which is a matter of {nearest.name}, "
                    f"the metadata file nearest to it; move the row there"
                )


def _nearest(path: str, metadata: Mapping[str, Metadata]) -> Metadata | None:
    """The metadata file in the photo's folder, or in the nearest one above."""
    if not metadata:
        return None
    for folder in PurePosixPath(path).parents:
        found = metadata.get(str(folder))
        if found is not None:
            return found
    return None


def _rows_without_file(metadata: Mapping[str, Metadata], names: set[str]) -> list[Refused]:
    there = {nfc(name) for name in names} if metadata else set()
    return [
        Refused(shown(path), f"{NO_FILE} {file.name}: line {row.line}")
        for file in metadata.values()
        for path, row in file.rows.items()
        if path not in names and nfc(path) not in there
    ]


def _recorded_names(photos: Sequence[File]) -> list[str]:
    """Names in composed form, so that a copy made by another system has the same; as they are where two would meet."""
    composed = Counter(nfc(shown(file.name)) for file in photos)
    names = []
    for file in photos:
        name = shown(file.name)
        names.append(nfc(name) if composed[nfc(name)] == 1 else name)
    return names


def _entry(
    file: File, name: str, metadata: Mapping[str, Metadata], settings: DataSettings, base: str
) -> Entry | Refused:
    split, category = split_and_category(file.name, base)
    described = _nearest(file.name, metadata)
    row: Annotation | None = None
    if described is not None:
        row = described.row_of(file.name)
        if row is None:
            return Refused(name, f"{NO_ROW} {described.name}")
        if "category" in described.columns:
            category = row.values["category"]
    values = row.values if row else {}
    return Entry(
        file_name=name,
        source=settings.source,
        category=category,
        split_hint=split,
        text=values.get("text"),
        license=values.get("license") or settings.license,
        source_url=values.get("source_url"),
        group_id=values.get("group_id"),
        etag=file.etag,
        attributes=row.attributes if row else {},
        size=file.size,
        fingerprint=file.fingerprint,
        where=file.where,
    )


def _subset(entries: list[Entry], settings: DataSettings) -> list[Entry]:
    if settings.subset is None:
        return entries
    if settings.subset > len(entries):
        raise InputError(
            f"params.yaml: data.subset: found {settings.subset}; the source has {len(entries)} photos, null takes "
            "them all"
        )
    return entries[: settings.subset]

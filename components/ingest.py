"""Takes photos from their source into data/raw.

What is in the parts already is not written again; what the source no longer has leaves the
snapshot. The same photos again change nothing, byte for byte.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from components.errors import InputError
from components.files import write_json
from components.progress import Progress
from components.raw import (
    PART_BYTES,
    Row,
    part_paths,
    read_records,
    read_snapshot,
    record_key,
    runs,
    write_part,
    write_snapshot,
)
from components.settings import DataSettings, load_settings
from components.sources import SOURCES
from components.stage import explained_errors, stage_parser

NAMED = 3
"""Repeated photos that are named; all are counted."""


@dataclass(frozen=True)
class IngestReport:
    """What data/raw holds now, and what changed against the snapshot before.

    Attributes:
        photos: in the snapshot.
        new: not in the snapshot before.
        unchanged: in the snapshot before and now.
        removed: in the snapshot before, no more now.
        repeated: files of the source whose bytes an earlier file had; only the first is kept.
        parts: Parquet files.
        bytes: size of all image files.
        categories: photos per category.
    """

    photos: int
    new: int
    unchanged: int
    removed: int
    repeated: int
    parts: int
    bytes: int
    categories: dict[str, int]


@dataclass
class _Reading:
    """What is counted while the source is read."""

    parts_by_id: dict[str, str] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)
    repeated: int = 0
    categories: Counter[str] = field(default_factory=Counter)
    bytes: int = 0


def ingest(settings: DataSettings, out_dir: Path) -> IngestReport:
    """Brings `out_dir` in line with the source.

    Whatever stops it, the parts that are finished stay and count the next time, and the snapshot
    is the old or the new one.

    Raises:
        InputError: the source cannot be read or is empty, or a part is damaged.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(out_dir)
    before = _previous_ids(out_dir)
    known = read_records(out_dir)
    reading = _Reading()
    for run in runs(_new_rows(settings, known, reading), settings.part_rows, PART_BYTES):
        name = write_part(run, out_dir)
        reading.parts_by_id.update((str(row["id"]), name) for row in run)
    if not reading.parts_by_id:
        raise InputError(f"params.yaml: data.source: '{settings.source}' has no photos")
    write_snapshot(out_dir, reading.parts_by_id)
    _remove_unused(out_dir, set(reading.parts_by_id.values()))
    return _report(reading, before, part_paths(out_dir))


def _new_rows(settings: DataSettings, known: Mapping[bytes, str], reading: _Reading) -> Iterator[Row]:
    """Reads the whole source, and yields the photos that no part holds."""
    progress = Progress("ingest: photos read")
    for photo in SOURCES[settings.source](settings):
        row = photo.row()
        photo_id = str(row["id"])
        progress.add()
        if photo_id in reading.ids:
            reading.repeated += 1
            if reading.repeated <= NAMED:
                print(
                    f"ingest: {photo.file_name} repeats an earlier photo byte for byte; left out",
                    file=sys.stderr,
                )
            continue
        reading.ids.add(photo_id)
        reading.categories[photo.category] += 1
        reading.bytes += len(photo.image)
        part = known.get(record_key(row))
        if part is None:
            yield row
        else:
            reading.parts_by_id[photo_id] = part


def _previous_ids(out_dir: Path) -> set[str]:
    return set(read_snapshot(out_dir)) if (out_dir / "snapshot.parquet").exists() else set()


def _remove_leftovers(out_dir: Path) -> None:
    """Removes what a killed process was writing (components.files.written_whole)."""
    for pattern in (".part-*", ".snapshot.parquet.*"):
        for path in out_dir.glob(pattern):
            path.unlink()


def _remove_unused(out_dir: Path, used: set[str]) -> None:
    """Removes the parts of which the snapshot needs no photo."""
    for path in part_paths(out_dir):
        if path.name not in used:
            path.unlink()


def _report(reading: _Reading, before: set[str], parts: Sequence[Path]) -> IngestReport:
    return IngestReport(
        photos=len(reading.ids),
        new=len(reading.ids - before),
        unchanged=len(reading.ids & before),
        removed=len(before - reading.ids),
        repeated=reading.repeated,
        parts=len(parts),
        bytes=reading.bytes,
        categories=dict(sorted(reading.categories.items())),
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the parts")
    parser.add_argument("--report", type=Path, required=True, help="JSON with what was found")
    args = parser.parse_args(argv)
    with explained_errors():
        report = ingest(load_settings(args.params).data, args.out)
        write_json(args.report, asdict(report))
        print(
            f"ingest: {report.photos:,} photos in {report.parts} parts: {report.new:,} new, "
            f"{report.unchanged:,} unchanged, {report.removed:,} removed, {report.repeated:,} repeated"
        )


if __name__ == "__main__":
    main()

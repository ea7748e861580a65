"""Takes photos from their source into data/raw.

What is in the parts already is neither read nor written again; what the source no longer has leaves
the snapshot. The same photos again change nothing, byte for byte.
"""

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from components.errors import InputError
from components.files import write_json
from components.raw import SNAPSHOT_SCHEMA, fingerprints, part_paths, write_snapshot
from components.raw.intake import REPEATS, Intake, new_rows, prepared
from components.raw.parts import rewrite_without, write_parts
from components.raw.removals import Removals, read_removals, write_removed
from components.settings import DataSettings, load_settings
from components.sources import SOURCES
from components.sources.listing import Refused
from components.sources.names import nfc
from components.stage import explained_errors, printable, stage_parser
from components.tables import read_table, write_table

REFUSED_SCHEMA = pa.schema([("file_name", pa.string()), ("reason", pa.string())])
NONE = "(none)"
"""In the report, the category or licence of photos that have none."""

NAMED = 3
"""Files or entries that a message names; all are counted."""


@dataclass(frozen=True)
class IngestReport:
    """What data/raw holds now.

    Attributes:
        photos: in the snapshot.
        version: of the newest of them: how often ingest found new photos.
        repeated: files of the source whose bytes an earlier file had; only the first is kept.
        refused: files of the source that are not taken, repeated ones among them, per kind of reason.
        removed: photos that the removal list takes out, per reason.
        names_alike: photos whose name another one has too, but for capitals or the way accents are written.
        parts: Parquet files.
        bytes: size of all image files.
        categories, licenses: photos per value.
    """

    photos: int
    version: int
    repeated: int
    refused: dict[str, int]
    removed: dict[str, int]
    names_alike: int
    parts: int
    bytes: int
    categories: dict[str, int]
    licenses: dict[str, int]


@dataclass(frozen=True)
class Changes:
    """What an ingest changed against the snapshot before.

    Attributes:
        new, unchanged, gone: photos.
        read: files whose bytes were read, the others being known by their fingerprint.
    """

    new: int
    unchanged: int
    gone: int
    read: int


def ingest(settings: DataSettings, out_dir: Path) -> tuple[IngestReport, Changes]:
    """Brings `out_dir` in line with the source.

    Whatever stops it, the parts that are finished stay and count the next time, and the snapshot
    is the old or the new one.

    Raises:
        InputError: the source or the removal list cannot be read, no photo is left, or a part is damaged.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(out_dir)
    before = _versions_before(out_dir)
    removals = read_removals(settings.removals, out_dir)
    intake = prepared(out_dir, removals)
    parts_by_id: dict[str, str] = {}
    with SOURCES[settings.source](settings) as listing:
        intake.known_ids |= fingerprints.load(listing.place)
        for name, ids in write_parts(new_rows(listing, intake), out_dir, settings.part_rows):
            parts_by_id.update(dict.fromkeys(ids, name))
    parts_by_id |= intake.parts_by_id
    refused = sorted(intake.refused, key=lambda file: (file.file_name, file.reason))
    alike = _alike(intake.names.values())
    _say(refused, alike, removals)
    if not parts_by_id:
        raise InputError(_nothing_left(settings, refused, removals))
    versions = _numbered(parts_by_id, before)
    _finish(out_dir, removals, parts_by_id, versions, refused)
    fingerprints.save(listing.place, intake.ids)
    report = _report(intake, refused, alike, versions, len(part_paths(out_dir)))
    return report, _changes(intake, before)


def _finish(
    out_dir: Path,
    removals: Removals,
    parts_by_id: Mapping[str, str],
    versions: Mapping[str, int],
    refused: Sequence[Refused],
) -> None:
    """Writes what counts from now on, in an order that loses nothing wherever it is broken off.

    The ids of removed photos are safe before the last part that holds them goes.
    """
    write_removed(out_dir, removals)
    renamed = rewrite_without(out_dir, removals.covers) if removals.removed else {}
    parts = {photo_id: renamed.get(part, part) for photo_id, part in parts_by_id.items()}
    columns = [[file.file_name for file in refused], [file.reason for file in refused]]
    write_table(pa.table(columns, schema=REFUSED_SCHEMA), out_dir / "refused.parquet")
    write_snapshot(out_dir, parts, versions)
    _remove_unused(out_dir, set(parts.values()))


def _versions_before(out_dir: Path) -> dict[str, int]:
    """Id to version in the snapshot before; an earlier Vitrine's counts for nothing."""
    path = out_dir / "snapshot.parquet"
    table = read_table(path, "ingest") if path.exists() else None
    if table is None or table.schema != SNAPSHOT_SCHEMA:
        return {}
    return dict(zip(table["id"].to_pylist(), table["version"].to_pylist(), strict=True))


def _numbered(ids: Iterable[str], before: Mapping[str, int]) -> dict[str, int]:
    """Version of each photo: its own, or the next for those that are new."""
    following = max(before.values(), default=0) + 1
    return {photo_id: before.get(photo_id, following) for photo_id in ids}


def _remove_leftovers(out_dir: Path) -> None:
    """Removes what a killed process was writing (components.files.written_whole, components.raw.write_groups)."""
    for pattern in (".part-*", ".*.parquet.*"):
        for path in out_dir.glob(pattern):
            path.unlink()


def _remove_unused(out_dir: Path, used: Collection[str]) -> None:
    """Removes the parts of which the snapshot needs no photo."""
    for path in part_paths(out_dir):
        if path.name not in used:
            path.unlink()


def kinds(refused: Iterable[Refused]) -> dict[str, int]:
    """How many files were refused per kind of reason: what stands before the first ': '."""
    return dict(sorted(Counter(file.reason.partition(": ")[0] for file in refused).items()))


def _alike(names: Iterable[str]) -> list[list[str]]:
    """Names that differ only in capitals or in the way accents are written."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(nfc(name).casefold(), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _say(refused: Sequence[Refused], alike: Sequence[Sequence[str]], removals: Removals) -> None:
    """Tells on stderr what a person should look at."""
    for kind, count in kinds(refused).items():
        of_kind = (
            f"{printable(file.file_name)}{printable(file.reason.removeprefix(kind))}"
            for file in refused
            if file.reason.partition(": ")[0] == kind
        )
        _tell(f"{count:,} files refused: {kind}", of_kind, count)
    _tell(
        f"{len(alike):,} names differ only in capitals or accents",
        (" and ".join(map(printable, group)) for group in alike),
        len(alike),
    )
    unused = removals.unused()
    _tell(
        f"{len(unused):,} of {len(removals.entries):,} entries of the removal list name no photo",
        (f"line {entry.line} ({', '.join(map('='.join, entry.values.items()))})" for entry in unused),
        len(unused),
    )


def _tell(what: str, examples: Iterable[str], count: int) -> None:
    if count:
        named = [example for example, _ in zip(examples, range(NAMED), strict=False)]
        print(f"ingest: {what}: {'; '.join(named)}{'; ...' if count > NAMED else ''}", file=sys.stderr)


def _nothing_left(settings: DataSettings, refused: Sequence[Refused], removals: Removals) -> str:
    where = {"folder": settings.path, "archive": settings.path, "s3": settings.s3.url}.get(settings.source)
    reasons = [f"{count} {kind}" for kind, count in kinds(refused).items()]
    if removals.removed:
        reasons.append(f"{len(removals.removed)} on the removal list")
    found = f": {'; '.join(reasons)}" if reasons else ""
    return f"params.yaml: data.source: '{settings.source}'{f' ({where})' if where else ''} has no photos{found}"


def _report(
    intake: Intake,
    refused: Sequence[Refused],
    alike: Sequence[Sequence[str]],
    versions: Mapping[str, int],
    parts: int,
) -> IngestReport:
    return IngestReport(
        photos=len(versions),
        version=max(versions.values()),
        repeated=kinds(refused).get(REPEATS, 0),
        refused=kinds(refused),
        removed=dict(sorted(intake.removals.reasons().items())),
        names_alike=sum(map(len, alike)),
        parts=parts,
        bytes=intake.bytes,
        categories=_counts(intake.categories),
        licenses=_counts(intake.licenses),
    )


def _counts(counter: Mapping[str | None, int]) -> dict[str, int]:
    return dict(sorted((NONE if value is None else value, count) for value, count in counter.items()))


def _changes(intake: Intake, before: Collection[str]) -> Changes:
    now, earlier = intake.names.keys(), set(before)
    return Changes(len(now - earlier), len(now & earlier), len(earlier - now), intake.read)


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the parts")
    parser.add_argument("--report", type=Path, required=True, help="JSON with what was found")
    args = parser.parse_args(argv)
    with explained_errors():
        report, changes = ingest(load_settings(args.params).data, args.out)
        write_json(args.report, asdict(report))
        print(
            f"ingest: {report.photos:,} photos in {report.parts} parts: {changes.new:,} new, "
            f"{changes.unchanged:,} unchanged, {changes.gone:,} gone; {sum(report.refused.values()):,} files refused, "
            f"{sum(report.removed.values()):,} photos removed; {changes.read:,} files read"
        )


if __name__ == "__main__":
    main()

"""One page that shows a person what became of the photos: self-contained HTML, no script, no network.

The same inputs give the same bytes. Names, categories and reasons come from outside: the template
(dataset.html.j2) escapes whatever it shows.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from components.photos.thumbnails import data_uri, thumbnails
from components.raw import row_groups
from components.raw.refused import kind_of, read_refused, read_removed
from components.report.histograms import HISTOGRAMS, Histogram, histogram_of
from components.report.rendering import write_page
from components.settings import AugmentSettings, DecodingSettings
from components.tables import read_table
from components.validation.approved import CHANGES, PHOTO_COLUMNS, base_of, changes_since
from components.validation.drift import category_shares, profile_of
from components.validation.facts import SCHEMA
from components.validation.quarantine import Reason, by_reason
from components.validation.verdict import ValidationReport, accepted_of

OF_CATEGORY, OF_REASON, OF_DUPLICATES, OF_OUTLIERS = 8, 12, 24, 24
"""Photos shown per category and reason; groups of duplicates and outliers shown in all."""

MOST_CATEGORIES, NAMES, VALUES = 30, 8, 15
"""Categories with pictures; names in a list; values of an attribute."""


@dataclass(frozen=True)
class Inputs:
    """What the page is made of.

    Attributes:
        raw, validated, approved: folders that ingest and validate made.
        validation: reports/validation.json.
        cleaning, prepared: folders that prepare made, once it has.
        augment: settings of the augmentation, to show some augmented images; needs `prepared`.
        seed: of these images.
    """

    raw: Path
    validated: Path
    approved: Path
    validation: Path
    cleaning: Path | None = None
    prepared: Path | None = None
    augment: AugmentSettings | None = None
    seed: int = 0


@dataclass(frozen=True)
class Tables:
    """What was read; empty where prepare has made nothing yet."""

    report: ValidationReport
    facts: pa.Table
    accepted: pa.Table
    quarantine: pa.Table
    refused: pa.Table
    removed: pa.Table
    left_out: pa.Table
    pairs: pa.Table
    outliers: pa.Table
    manifest: pa.Table


def write_report(path: Path, inputs: Inputs, decoding: DecodingSettings) -> None:
    """Writes the page; sections whose inputs are not there are left out.

    validate calls it without `cleaning` and `prepared`, also when the data set fails; prepare with both.

    Raises:
        InputError: an input is missing or damaged.
    """
    tables = _read(inputs)
    groups = row_groups(inputs.raw)
    place = {photo_id: number for number, group in enumerate(groups) for photo_id in group.ids.tolist()}
    sections = {
        "report": tables.report,
        "categories": _categories(tables, place),
        "reasons": _reasons(tables, place),
        "refused": _listed(tables.refused),
        "removed": _listed(tables.removed),
        "changes": _changes(tables, inputs),
        "histograms": _histograms(tables),
        "attributes": _attributes(tables),
        "licenses": _counts(tables.facts, "license"),
        "left_out": _left_out(tables),
        "duplicates": _duplicates(tables),
        "outliers": _outliers(tables),
        "splits": _splits(tables),
        "sheet": _augmented(inputs),
        "prepared": inputs.prepared is not None,
    }
    sections["pictures"] = thumbnails(groups, _shown(sections), decoding)
    write_page(path, "dataset.html.j2", sections)


NOTHING = {
    "left_out": pa.schema([("id", pa.string()), ("file_name", pa.string()), ("reason", pa.string())]),
    "pairs": pa.schema([("id_a", pa.string()), ("id_b", pa.string()), ("similarity", pa.float64())]),
    "outliers": pa.schema([("id", pa.string()), ("score", pa.float64())]),
    "manifest": pa.schema([("id", pa.string()), ("split", pa.string()), ("category", pa.string())]),
}


def _read(inputs: Inputs) -> Tables:
    facts = _as_shown(read_table(inputs.validated / "facts.parquet", "validate"))
    quarantine = read_table(inputs.validated / "quarantine.parquet", "validate")
    prepared = {"left_out": inputs.cleaning, "pairs": inputs.cleaning, "outliers": inputs.cleaning}
    folders = {**prepared, "manifest": inputs.prepared}
    made = {
        name: read_table(folder / f"{name}.parquet", "prepare") if folder else NOTHING[name].empty_table()
        for name, folder in folders.items()
    }
    return Tables(
        report=ValidationReport.model_validate(json.loads(inputs.validation.read_text("utf-8"))),
        facts=facts,
        accepted=accepted_of(facts, quarantine),
        quarantine=quarantine,
        refused=read_refused(inputs.raw),
        removed=read_removed(inputs.raw),
        **made,
    )


SHOWN = ("id", "file_name", "category", "license", "source", "color_derived", *(kind.column for kind in HISTOGRAMS))


def _as_shown(facts: pa.Table) -> pa.Table:
    """The columns that the page is made from: the others are most of the bytes."""
    return facts.select([name for name in facts.column_names if name in SHOWN or name not in SCHEMA.names])


def _first(rows: pa.Table, count: int, place: Mapping[str, int]) -> list[dict[str, Any]]:
    """Some photos that lie together in data/raw, so that few row groups must be read to show them."""
    ids = rows["id"].to_pylist()
    order = sorted(range(len(ids)), key=lambda row: (place[ids[row]], ids[row]))[:count]
    chosen: list[dict[str, Any]] = rows.take(pa.array(order, pa.int64())).to_pylist()
    return chosen


def _categories(tables: Tables, place: Mapping[str, int]) -> list[dict[str, Any]]:
    counts = sorted(tables.report.categories.items(), key=lambda item: (-item[1], item[0]))
    found = tables.accepted.select(["id", "file_name", "category"])
    categories = []
    for number, (name, count) in enumerate(counts):
        same = pc.equal(found["category"], name) if name else pc.is_null(found["category"])
        shown = _first(found.filter(same), OF_CATEGORY, place) if number < MOST_CATEGORIES else []
        categories.append({"name": name, "count": count, "photos": shown})
    return categories


def _reasons(tables: Tables, place: Mapping[str, int]) -> list[Reason]:
    limits = {each.name: each.limits for each in tables.report.checked}
    return by_reason(tables.quarantine, limits, lambda rows: _first(rows, OF_REASON, place))


def _listed(table: pa.Table) -> list[dict[str, Any]]:
    """File names per kind of reason, most frequent first."""
    names: dict[str, list[str]] = {}
    for row in table.to_pylist():
        kind = kind_of(row["reason"])
        detail = row["reason"].removeprefix(kind).removeprefix(": ")
        name = row["file_name"] or "unknown name"
        names.setdefault(kind, []).append(f"{name} ({detail})" if detail else name)
    order = sorted(names, key=lambda reason: (-len(names[reason]), reason))
    return [{"reason": reason, "count": len(names[reason]), "names": names[reason][:NAMES]} for reason in order]


def _changes(tables: Tables, inputs: Inputs) -> dict[str, Any] | None:
    sources = sorted(set(tables.accepted["source"].to_pylist()))
    base = base_of(inputs.approved, tables.report.digest, sources)
    if base is None:
        return None
    changes = changes_since(inputs.approved, base, tables.accepted.select(PHOTO_COLUMNS))
    lists = {
        name: {"count": table.num_rows, "photos": table.slice(0, OF_REASON).to_pylist()}
        for name in CHANGES
        for table in [getattr(changes, name)]
    }
    shares = [
        {"name": name, "now": now, "then": then}
        for name, now, then in category_shares(profile_of(tables.accepted), base)
    ]
    return {"base": base, "lists": lists, "shares": shares[:MOST_CATEGORIES]}


def _histograms(tables: Tables) -> list[Histogram]:
    ids = pc.is_in(tables.facts["id"], tables.quarantine["id"])
    aside = tables.facts.filter(ids)
    return [histogram for kind in HISTOGRAMS if (histogram := histogram_of(kind, tables.accepted, aside)) is not None]


def _attributes(tables: Tables) -> list[dict[str, Any]]:
    names = [name for name in tables.facts.column_names if name not in SCHEMA.names]
    derived = pc.sum(tables.accepted["color_derived"]).as_py() or 0
    return [
        {"name": name, "values": _counts(tables.accepted, name), "derived": derived if name == "color" else 0}
        for name in names
    ]


def _counts(table: pa.Table, column: str) -> list[tuple[str, int]]:
    """Values and their counts, most frequent first; the rest as one."""
    entries = [(entry["values"], entry["counts"]) for entry in pc.value_counts(table[column]).to_pylist()]
    entries.sort(key=lambda entry: (-entry[1], entry[0] or ""))
    shown = [("unknown" if value is None else value, count) for value, count in entries[:VALUES]]
    rest = entries[VALUES:]
    return [*shown, (f"{len(rest):,} further values", sum(count for _, count in rest))] if rest else shown


def _left_out(tables: Tables) -> list[tuple[str, int]]:
    return _counts(tables.left_out, "reason")


def _duplicates(tables: Tables) -> list[dict[str, Any]]:
    """Photos that were kept, each with those that yielded to it; those least alike come first."""
    similarity = {
        frozenset((row["id_a"], row["id_b"])): (row["similarity"], row["distance"]) for row in tables.pairs.to_pylist()
    }
    clusters: dict[str, list[dict[str, Any]]] = {}
    for row in tables.left_out.to_pylist():
        if row["reason"] == "near-duplicate" and row["of"] is not None:
            likeness = similarity.get(frozenset((row["id"], row["of"])))
            clusters.setdefault(row["of"], []).append({**row, "likeness": likeness})
    names = _names(tables.facts, clusters)
    least = {kept: min((row["likeness"] or (1.0, 0))[0] for row in rows) for kept, rows in clusters.items()}
    order = sorted(clusters, key=lambda kept: (least[kept], kept))[:OF_DUPLICATES]
    return [{"id": kept, "file_name": names[kept], "copies": clusters[kept]} for kept in order]


def _names(facts: pa.Table, ids: Mapping[str, Any]) -> dict[str, str]:
    rows = facts.filter(pc.is_in(facts["id"], pa.array(list(ids), pa.string()))).select(["id", "file_name"])
    return dict(zip(rows["id"].to_pylist(), rows["file_name"].to_pylist(), strict=True))


def _outliers(tables: Tables) -> dict[str, Any]:
    rows = sorted(tables.outliers.to_pylist(), key=lambda row: (-row["score"], row["id"]))
    return {"count": len(rows), "dropped": sum(row["dropped"] for row in rows), "photos": rows[:OF_OUTLIERS]}


def _splits(tables: Tables) -> dict[str, Any]:
    """Images per category and split."""
    manifest = tables.manifest
    if "category" not in manifest.column_names:  # it is none of the conditions
        rows = pc.index_in(manifest["id"], tables.facts["id"])
        manifest = manifest.append_column("category", tables.facts["category"].take(rows))
    grouped = manifest.group_by(["category", "split"]).aggregate([([], "count_all")]).to_pylist()
    order = ("train", "val", "test")
    counts: dict[str, dict[str, int]] = {}
    for row in grouped:
        counts.setdefault(row["category"] or "", dict.fromkeys(order, 0))[row["split"]] = row["count_all"]
    total = {split: sum(of_category[split] for of_category in counts.values()) for split in order}
    return {"order": order, "rows": sorted(counts.items()), "total": total}


def _augmented(inputs: Inputs) -> str | None:
    """The contact sheet of augmented images, or None where nothing is augmented."""
    if inputs.augment is None or inputs.prepared is None:
        return None
    # Not at the top: torch takes seconds.
    from components.augment import contact_sheet, is_off
    from components.dataset import load_split

    if is_off(inputs.augment):
        return None
    sheet = contact_sheet(load_split(inputs.prepared, "train"), inputs.augment, inputs.seed)
    return data_uri(sheet.convert("RGB"), shrink=False)


def _shown(sections: Mapping[str, Any]) -> list[str]:
    """Ids of all photos that the page shows."""
    photos: list[Mapping[str, Any]] = []
    for category in sections["categories"]:
        photos += category["photos"]
    for reason in sections["reasons"]:
        photos += reason.photos
    for cluster in sections["duplicates"]:
        photos += [cluster, *cluster["copies"][:4]]
    photos += sections["outliers"]["photos"]
    if sections["changes"]:
        photos += sections["changes"]["lists"]["added"]["photos"]
        photos += sections["changes"]["lists"]["recategorized"]["photos"]
    return [photo["id"] for photo in photos]

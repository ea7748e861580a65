"""Decodes every photo and checks the facts; what fails goes to quarantine, too much stops.

Facts, quarantine, reports and Data Docs are written before the stage fails, to show why.
"""

import ctypes
import importlib
import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from components.errors import InputError
from components.files import write_json
from components.raw.refused import broken_photos
from components.settings import DecodingSettings, ValidateSettings, load_settings
from components.stage import explained_errors, stage_parser
from components.tables import write_table
from components.validation.approved import PHOTO_COLUMNS, approve, base_of, changes_since
from components.validation.drift import brightness_kl, category_kl, profile_of
from components.validation.facts import INTEGERS, gather_facts
from components.validation.verdict import (
    Checked,
    Drift,
    ValidationReport,
    Version,
    accepted_of,
    category_counts,
    failures_of,
    limits_of,
    values_of,
)

if TYPE_CHECKING:
    import pandas as pd

    from components.validation.data_docs import Outcome
    from components.validation.expectations import Rule

PROFILED = ("id", "category", "brightness", "source")
QUARANTINE_SCHEMA = pa.schema([("id", pa.string()), ("file_name", pa.string()), ("reasons", pa.string())])


@dataclass(frozen=True)
class Places:
    """Where validate reads and writes.

    Attributes:
        raw: folder that ingest made.
        out: folder of facts.parquet and quarantine.parquet.
        approved: folder of the versions that passed, kept from run to run.
        docs: folder of the Data Docs.
        report: the numbers, JSON.
        page: the same for people, HTML.
    """

    raw: Path
    out: Path
    approved: Path
    docs: Path
    report: Path
    page: Path


def validate(settings: ValidateSettings, decoding: DecodingSettings, places: Places) -> ValidationReport:
    """Writes all that `places` names; a version that passes becomes the approved one.

    Raises:
        InputError: the suite cannot be used, data/raw is damaged, or a limit is passed.
    """
    with ThreadPoolExecutor(1) as pool:
        # Great Expectations takes seconds to import: meanwhile worker processes decode.
        rules = pool.submit(_rules, settings)
        facts = gather_facts(places.raw, decoding, between=lambda: _raise_early(rules))
    built = rules.result()
    _give_back_memory()
    write_table(facts, places.out / "facts.parquet")
    version = _checked(settings, built, facts, places)
    write_table(version.quarantine, places.out / "quarantine.parquet")
    report = _report(version, places.approved)
    write_json(places.report, report.model_dump())
    _write_page(places, decoding)
    if report.failures:
        raise InputError(_explained(report, places))
    approve(places.approved, version.profile, _photos(version))
    return report


def _give_back_memory() -> None:
    """Lets the system have what decoding needed: glibc keeps freed memory, 90 MiB at 38,000 photos."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _rules(settings: ValidateSettings) -> list["Rule"]:
    # Not at the top: worker processes import this module again.
    importlib.import_module("components.validation.data_docs")
    from components.validation.expectations import build_rules

    return build_rules(settings)


def _raise_early(rules: "Future[list[Rule]]") -> None:
    """Ends a long decoding as soon as it is known that the suite is wrong."""
    if rules.done():
        rules.result()


def _checked(settings: ValidateSettings, rules: list["Rule"], facts: pa.Table, places: Places) -> Version:
    from components.validation.data_docs import build_docs, check_rules, new_context
    from components.validation.expectations import CATEGORIES, check_columns

    if facts.num_rows == 0:
        raise InputError(f"{places.raw}: no photos; see refused.parquet there for what ingest did not take")
    check_columns(rules, facts.column_names)
    context = new_context()
    of_photos = check_rules(context, *_table("photos", rules, facts))
    quarantine = _quarantine(of_photos, facts)
    profile = profile_of(accepted_of(facts.select(PROFILED), quarantine))
    base = base_of(places.approved, profile.digest, profile.sources)
    unreadable, files = _unreadable(facts, places.raw)
    numbers = {
        "quarantined_share": quarantine.num_rows / facts.num_rows,
        "undecodable_share": len(unreadable) / files,
    }
    if base is not None and settings.drift.accept != profile.digest:
        numbers |= {"category_kl": category_kl(profile, base), "brightness_kl": brightness_kl(profile, base)}
    counts = category_counts(facts, profile, settings.categories.allowed)
    rows = [{"category": name, "photos": count} for name, count in counts]
    # Without a version to compare with there is no drift to limit.
    rules = [rule for rule in rules if rule.table != "version" or rule.columns[0] in numbers]
    outcomes = [
        *of_photos,
        *check_rules(context, *_table("columns", rules, facts.slice(0, 0))),
        # Of no photos nothing can be said.
        *(_of_accepted(context, rules, facts, quarantine) if profile.photos else ()),
        *check_rules(context, *_table("categories", rules, pa.Table.from_pylist(rows, CATEGORIES))),
        *check_rules(context, *_table("version", rules, pa.table({key: [value] for key, value in numbers.items()}))),
    ]
    build_docs(context, places.docs)
    return Version(settings, facts, outcomes, quarantine, unreadable, files, profile, base)


def _of_accepted(context: object, rules: list["Rule"], facts: pa.Table, quarantine: pa.Table) -> list["Outcome"]:
    from components.validation.data_docs import check_rules

    columns = {column for rule in rules if rule.table == "accepted" for column in rule.columns}
    accepted = accepted_of(facts.select(sorted({"id", *columns})), quarantine)
    return check_rules(context, *_table("accepted", rules, accepted))


def _table(name: str, rules: Sequence["Rule"], rows: pa.Table) -> tuple[str, list["Rule"], "pd.DataFrame"]:
    """Rules about a table, and as much of it as they need: of no column the number of rows could not be told."""
    chosen = [rule for rule in rules if rule.table == name]
    columns = {column for rule in chosen for column in rule.columns}
    needed = [column for column in rows.column_names if column in columns or column == "id" or name == "columns"]
    return name, chosen, as_frame(rows.select(needed))


def as_frame(rows: pa.Table) -> "pd.DataFrame":
    """A DataFrame in which whole numbers stay whole where some are missing."""
    frame: pd.DataFrame = rows.to_pandas()
    return frame.astype(dict.fromkeys(set(INTEGERS) & set(rows.column_names), "Int64"))


def _quarantine(outcomes: Sequence["Outcome"], facts: pa.Table) -> pa.Table:
    """One row per photo that fails an expectation about photos, with every reason; ids ascending."""
    reasons: dict[int, list[str]] = {}
    for outcome in outcomes:
        for row, value in zip(outcome.rows.tolist(), values_of(outcome, facts), strict=True):
            reasons.setdefault(row, []).append(f"{outcome.rule.name}: {value}")
    rows = sorted(reasons)
    chosen = facts.select(["id", "file_name"]).take(pa.array(rows, pa.int64()))
    texts = pa.array(["; ".join(reasons[row]) for row in rows], pa.string())
    return chosen.append_column("reasons", texts).cast(QUARANTINE_SCHEMA).combine_chunks()


def _unreadable(facts: pa.Table, raw_dir: Path) -> tuple[list[str], int]:
    """Files that are photos by their names but cannot be read, each with the reason; and how many files there are."""
    refused = [f"{name} ({reason})" for name, reason in broken_photos(raw_dir)]
    broken = facts.filter(pc.invert(facts["decodable"])).select(["file_name", "decode_error"]).to_pylist()
    undecodable = [f"{row['file_name']} ({row['decode_error']})" for row in broken]
    return [*undecodable, *refused], facts.num_rows + len(refused)


def _report(version: Version, approved_dir: Path) -> ValidationReport:
    photos, quarantined = version.facts.num_rows, version.quarantine.num_rows
    undecodable = int(pc.sum(pc.invert(version.facts["decodable"])).as_py())
    failures = failures_of(version)
    return ValidationReport(
        passed=not failures,
        digest=version.profile.digest,
        photos=photos,
        accepted=photos - quarantined,
        quarantined=quarantined,
        quarantined_share=_short(quarantined / photos),
        refused=version.files - photos,
        undecodable=undecodable,
        undecodable_share=_short(len(version.unreadable) / version.files),
        categories=version.profile.categories,
        drift=_drift(version, approved_dir),
        expectations={outcome.rule.name: _summary(outcome) for outcome in version.outcomes},
        checked=[_as_checked(outcome) for outcome in version.outcomes],
        failures=failures,
    )


def _as_checked(outcome: "Outcome") -> Checked:
    return Checked(name=outcome.rule.name, where=outcome.rule.where, limits=limits_of(outcome.rule.kwargs))


def _drift(version: Version, approved_dir: Path) -> Drift:
    profile, base = version.profile, version.base
    accepted = version.settings.drift.accept == profile.digest
    if base is None:
        nothing = dict.fromkeys(("against", "category_kl", "brightness_kl", "added", "removed", "recategorized"))
        return Drift(accepted=accepted, **nothing)
    changes = changes_since(approved_dir, base, _photos(version))
    return Drift(
        against=base.digest,
        category_kl=_short(category_kl(profile, base)),
        brightness_kl=_short(brightness_kl(profile, base)),
        accepted=accepted,
        **changes.counts(),
    )


def _photos(version: Version) -> pa.Table:
    """The accepted photos, as approved versions are kept."""
    return accepted_of(version.facts.select(PHOTO_COLUMNS), version.quarantine)


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _summary(outcome: "Outcome") -> dict[str, bool | int | float]:
    if outcome.observed is None:
        return {"success": outcome.success, "unexpected": len(outcome.rows)}
    # JSON knows no NaN, which is the mean of nothing, nor infinity.
    if isinstance(outcome.observed, int | float) and math.isfinite(outcome.observed):
        return {"success": outcome.success, "observed": _short(outcome.observed)}
    return {"success": outcome.success}


def _write_page(places: Places, decoding: DecodingSettings) -> None:
    from components.report.dataset import Inputs, write_report

    write_report(places.page, Inputs(places.raw, places.out, places.approved, places.report), decoding)


def _explained(report: ValidationReport, places: Places) -> str:
    lines = [line for failure in report.failures for line in failure.lines()]
    return "\n".join(
        [
            "validation failed:",
            *lines,
            f"See {places.page}, {places.out / 'quarantine.parquet'} and {places.docs / 'index.html'}. "
            "Mend the photos at their source, or the limit where it is wrong.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--raw", type=Path, required=True, help="folder that ingest made")
    parser.add_argument("--out", type=Path, required=True, help="folder of facts.parquet and quarantine.parquet")
    parser.add_argument("--approved", type=Path, required=True, help="folder of the versions that passed")
    parser.add_argument("--docs", type=Path, required=True, help="folder of Great Expectations' Data Docs")
    parser.add_argument("--report", type=Path, required=True, help="JSON with what was found")
    parser.add_argument("--page", type=Path, required=True, help="the report for people, HTML")
    args = parser.parse_args(argv)
    with explained_errors():
        # Arrow's own allocator keeps what it has freed: 50 MiB at 38,000 photos.
        pa.set_memory_pool(pa.system_memory_pool())
        settings = load_settings(args.params)
        places = Places(args.raw, args.out, args.approved, args.docs, args.report, args.page)
        report = validate(settings.validation, settings.decoding, places)
        print(
            f"validate: {report.photos:,} photos, {report.quarantined:,} in quarantine; "
            f"pages: {args.page}, {args.docs / 'index.html'}"
        )


if __name__ == "__main__":
    main()

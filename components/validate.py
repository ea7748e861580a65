"""Decodes every photo and checks the facts; what fails goes to quarantine, too much stops.

Facts, quarantine, report and Data Docs are written before the stage fails, to show why.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from components.errors import InputError
from components.facts import as_frame, gather_facts
from components.files import write_json
from components.settings import ValidateSettings, load_settings
from components.stage import explained_errors, stage_parser
from components.tables import write_table

if TYPE_CHECKING:
    from components.expectations import Outcome

QUARANTINE_SCHEMA = pa.schema([("id", pa.string()), ("file_name", pa.string()), ("reasons", pa.string())])
EXAMPLES = 3
"""Photos that an error names per expectation."""


@dataclass(frozen=True)
class ValidationReport:
    """What the suite found.

    Attributes:
        expectations: per expectation, in the suite's order: success, and unexpected (photos that
            fail it) or, where it is about all of them together, the number observed.
    """

    photos: int
    quarantined: int
    expectations: dict[str, dict[str, bool | int | float]]


def validate(
    settings: ValidateSettings, raw_dir: Path, out_dir: Path, docs_dir: Path, report_path: Path
) -> ValidationReport:
    """Writes facts.parquet and quarantine.parquet into `out_dir`, the report, and the Data Docs.

    Raises:
        InputError: the suite cannot be used, data/raw is damaged, an expectation about the data
            set fails, or more photos than the tolerance fail theirs.
    """
    # Not at the top: worker processes import this module again, and that library takes seconds.
    from components.expectations import build_rules, check_rules

    rules = build_rules(settings.suite)
    facts = gather_facts(raw_dir)
    write_table(facts, out_dir / "facts.parquet")
    frame = as_frame(facts)
    outcomes = check_rules(rules, frame, docs_dir)
    quarantine = _quarantine(outcomes, frame)
    write_table(quarantine, out_dir / "quarantine.parquet")
    report = ValidationReport(
        photos=len(frame),
        quarantined=quarantine.num_rows,
        expectations={outcome.rule.name: _summary(outcome) for outcome in outcomes},
    )
    write_json(report_path, asdict(report))
    _stop_if_too_bad(settings, outcomes, report, frame, f"{out_dir / 'quarantine.parquet'}, {docs_dir / 'index.html'}")
    return report


def _quarantine(outcomes: Sequence["Outcome"], frame: pd.DataFrame) -> pa.Table:
    """One row per photo that fails a row-level expectation, with every reason; ids ascending."""
    reasons: dict[int, list[str]] = {}
    for outcome in outcomes:
        if outcome.rule.level == "row":
            values = _values(outcome, frame, len(outcome.rows))
            for row, value in zip(outcome.rows.tolist(), values, strict=True):
                reasons.setdefault(row, []).append(f"{outcome.rule.name}: {value}")
    rows = sorted(reasons)
    chosen = frame.iloc[rows]
    columns = [chosen["id"].tolist(), chosen["file_name"].tolist(), ["; ".join(reasons[row]) for row in rows]]
    return pa.table(columns, schema=QUARANTINE_SCHEMA)


def _values(outcome: "Outcome", frame: pd.DataFrame, count: int) -> list[str]:
    """What the first `count` failing rows hold in the expectation's columns, as text."""
    cells = frame.iloc[outcome.rows[:count]][list(outcome.rule.columns)]
    return [", ".join(_text(value) for value in row) for row in cells.itertuples(index=False)]


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _summary(outcome: "Outcome") -> dict[str, bool | int | float]:
    if outcome.observed is None:
        return {"success": outcome.success, "unexpected": len(outcome.rows)}
    # JSON knows no NaN, which is the mean of nothing, nor infinity.
    if isinstance(outcome.observed, int | float) and math.isfinite(outcome.observed):
        return {"success": outcome.success, "observed": float(f"{outcome.observed:.6g}")}
    return {"success": outcome.success}


def _stop_if_too_bad(
    settings: ValidateSettings,
    outcomes: Sequence["Outcome"],
    report: ValidationReport,
    frame: pd.DataFrame,
    see: str,
) -> None:
    """Raises InputError for a failed dataset-level expectation or too large a quarantine."""
    failed = [outcome for outcome in outcomes if not outcome.success]
    of_dataset = [outcome for outcome in failed if outcome.rule.level == "dataset"]
    share = report.quarantined / report.photos
    found = []
    if share > settings.tolerance:
        found.append(
            f"{report.quarantined} of {report.photos} photos ({share:.2%}) are in quarantine, "
            f"{settings.tolerance:.2%} may be (params.yaml: validate.tolerance)"
        )
    if of_dataset:
        found.append(f"{len(of_dataset)} expectation(s) about the data set failed")
    if found:
        lines = [_line(outcome, frame) for outcome in (failed if share > settings.tolerance else of_dataset)]
        raise InputError(
            "; ".join(found) + ":\n" + "\n".join(lines) + f"\nSee {see}. Mend the photos at their source, "
            "or the expectation where it is wrong."
        )


def _line(outcome: "Outcome", frame: pd.DataFrame) -> str:
    """A failed expectation with its count and examples, or with what was observed."""
    rule = outcome.rule
    line = f"  {rule.where}: {rule.name} {_limits(rule.kwargs)}"
    if outcome.observed is not None:
        return f"{line}: observed {outcome.observed}"
    names = frame.iloc[outcome.rows[:EXAMPLES]]["file_name"]
    pairs = zip(names, _values(outcome, frame, EXAMPLES), strict=True)
    return f"{line}: {len(outcome.rows)} photo(s), such as " + ", ".join(f"{name} ({value})" for name, value in pairs)


def _limits(kwargs: Mapping[str, Any]) -> str:
    """The expectation's arguments but for the columns, which its name has."""
    return ", ".join(f"{key}={value}" for key, value in kwargs.items() if not key.startswith("column")) or "(no limits)"


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--raw", type=Path, required=True, help="folder that ingest made")
    parser.add_argument("--out", type=Path, required=True, help="folder of facts.parquet and quarantine.parquet")
    parser.add_argument("--docs", type=Path, required=True, help="folder of Great Expectations' Data Docs")
    parser.add_argument("--report", type=Path, required=True, help="JSON with what was found")
    args = parser.parse_args(argv)
    with explained_errors():
        settings = load_settings(args.params).validation
        report = validate(settings, args.raw, args.out, args.docs, args.report)
        print(
            f"validate: {report.photos:,} photos, {report.quarantined:,} in quarantine; "
            f"pages: {args.docs / 'index.html'}"
        )


if __name__ == "__main__":
    main()

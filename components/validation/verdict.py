"""What validation found: the numbers, what failed, and how that is said."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from components.settings import Section, ValidateSettings
from components.validation.drift import Profile, category_shares

if TYPE_CHECKING:
    from components.validation.data_docs import Outcome

EXAMPLES = 3
"""Photos that an error names per expectation."""


class Failure(Section):
    """A limit that was passed."""

    key: str = Field(description="where it stands in params.yaml")
    text: str = Field(description="what was found and what is allowed")
    examples: list[str]

    def lines(self) -> list[str]:
        such_as = f", such as {', '.join(self.examples)}" if self.examples else ""
        return [f"  {self.key}: {self.text}{such_as}"]


class Checked(Section):
    """An expectation as it was checked."""

    name: str
    where: str = Field(description="its place in params.yaml")
    limits: str


class Drift(Section):
    """The version against the one that was approved before; None where there is none."""

    against: str | None = Field(description="digest of that version")
    category_kl: float | None
    brightness_kl: float | None
    accepted: bool = Field(description="whether params.yaml says that the drift is right")
    added: int | None = Field(description="photos that it did not have")
    removed: int | None = Field(description="photos that only it had")
    recategorized: int | None


class ValidationReport(Section):
    """Content of reports/validation.json."""

    passed: bool
    digest: str = Field(description="of the accepted photos and their categories: the version's name")
    photos: int = Field(description="in data/raw")
    accepted: int
    quarantined: int
    quarantined_share: float
    refused: int = Field(description="files that ingest could not take although they are photos by their names")
    undecodable: int = Field(description="photos that cannot be decoded")
    undecodable_share: float = Field(description="refused and undecodable ones, of photos and refused ones")
    categories: dict[str, int] = Field(description="accepted photos")
    drift: Drift
    expectations: dict[str, dict[str, bool | int | float]] = Field(
        description="success, and unexpected (rows that fail) or the number observed"
    )
    checked: list[Checked] = Field(description="the same expectations, with their limits")
    failures: list[Failure]


@dataclass(frozen=True)
class Version:
    """What the failures are told from, beside the outcomes."""

    settings: ValidateSettings
    facts: pa.Table
    outcomes: Sequence["Outcome"]
    quarantine: pa.Table
    unreadable: Sequence[str]
    files: int
    profile: Profile
    base: Profile | None


def failures_of(version: Version) -> list[Failure]:
    """Everything that stops the stage."""
    failed = [outcome for outcome in version.outcomes if not outcome.success]
    failures = [failure for outcome in failed for failure in _failures(outcome, version)]
    if version.profile.photos == 0:
        rows = [_of_photos(outcome, version.facts) for outcome in failed if _is_row_failure(outcome)]
        return [Failure(key="data/raw", text="no photo is left", examples=[]), *(failures or rows)]
    return failures


def _failures(outcome: "Outcome", version: Version) -> Iterator[Failure]:
    table = outcome.rule.table
    if table == "version":
        yield _TELL[outcome.rule.columns[0]](outcome.rule.where, version)
        if outcome.rule.columns[0] == "quarantined_share":
            yield from (_of_photos(each, version.facts) for each in version.outcomes if _is_row_failure(each))
    elif table == "categories":
        yield _of_categories(outcome, version)
    elif table in ("accepted", "columns"):
        yield _of_photos(outcome, _accepted(version))


def _is_row_failure(outcome: "Outcome") -> bool:
    return outcome.rule.table == "photos" and not outcome.success


def _accepted(version: Version) -> pa.Table:
    return accepted_of(version.facts, version.quarantine)


def accepted_of(facts: pa.Table, quarantine: pa.Table) -> pa.Table:
    """The facts of the photos that are not in quarantine."""
    return facts.filter(pc.invert(pc.is_in(facts["id"], quarantine["id"])))


def _of_photos(outcome: "Outcome", rows: pa.Table) -> Failure:
    """A failed expectation about photos with its count and examples, or with what was observed."""
    rule = outcome.rule
    text = f"{rule.name} {limits_of(rule.kwargs)}: "
    if outcome.observed is not None:
        return Failure(key=rule.where, text=f"{text}observed {outcome.observed}", examples=[])
    chosen = rows.take(outcome.rows[:EXAMPLES])
    values = values_of(outcome, rows, EXAMPLES)
    examples = [f"{name} ({value})" for name, value in zip(chosen["file_name"].to_pylist(), values, strict=True)]
    return Failure(key=rule.where, text=f"{text}{len(outcome.rows)} photo(s)", examples=examples)


def limits_of(kwargs: Mapping[str, Any]) -> str:
    """An expectation's arguments but for the columns, which its name has."""
    return ", ".join(f"{key}={value}" for key, value in kwargs.items() if not key.startswith("column")) or "(no limits)"


def values_of(outcome: "Outcome", rows: pa.Table, count: int | None = None) -> list[str]:
    """What the first `count` failing rows hold in the expectation's columns, as text."""
    cells = rows.select(outcome.rule.columns).take(outcome.rows[:count])
    return [", ".join(_text(value) for value in row.values()) for row in cells.to_pylist()]


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _of_categories(outcome: "Outcome", version: Version) -> Failure:
    counts = category_counts(version.facts, version.profile, version.settings.categories.allowed)
    few = [counts[row] for row in outcome.rows.tolist()]
    least = version.settings.categories.min_photos
    return Failure(
        key=outcome.rule.where,
        text=f"{len(few)} of {len(counts)} categories have fewer than {least} accepted photos",
        examples=[f"{name} ({count})" for name, count in few[: 3 * EXAMPLES]],
    )


def category_counts(facts: pa.Table, profile: Profile, allowed: Sequence[str] | None) -> list[tuple[str, int]]:
    """Accepted photos of every category that is allowed, or, if any is, of every category in the data.

    One that has vanished altogether, or lost all its photos to quarantine, has none.
    """
    chosen = set(facts["category"].drop_null().unique().to_pylist()) if allowed is None else set(allowed)
    return [(name, profile.categories.get(name, 0)) for name in sorted(chosen)]


def _too_many_quarantined(key: str, version: Version) -> Failure:
    count, photos = version.quarantine.num_rows, version.facts.num_rows
    text = (
        f"{count} of {photos} photos ({count / photos:.2%}) are in quarantine, {version.settings.tolerance:.2%} may be"
    )
    return Failure(key=key, text=text, examples=[])


def _too_many_undecodable(key: str, version: Version) -> Failure:
    count = len(version.unreadable)
    text = (
        f"{count} of {version.files} files ({count / version.files:.2%}) are no readable photos, "
        f"{version.settings.undecodable:.2%} may be"
    )
    return Failure(key=key, text=text, examples=list(version.unreadable[:EXAMPLES]))


def _categories_drifted(key: str, version: Version) -> Failure:
    assert version.base is not None
    moved = category_shares(version.profile, version.base)[: 2 * EXAMPLES]
    examples = [f"{name or 'no category'} ({then:.1%} to {now:.1%})" for name, now, then in moved if now != then]
    return Failure(key=key, text=_drifted("categories are mixed", key, version), examples=examples)


def _brightness_drifted(key: str, version: Version) -> Failure:
    return Failure(key=key, text=_drifted("brightness is distributed", key, version), examples=[])


def _drifted(what: str, key: str, version: Version) -> str:
    assert version.base is not None
    column = key.rpartition(".")[2]
    (outcome,) = (each for each in version.outcomes if each.rule.table == "version" and column in each.rule.columns)
    return (
        f"{what} otherwise than in the last approved version, {version.base.digest}: KL divergence "
        f"{outcome.observed:.4g}, {outcome.rule.kwargs['max_value']:g} may be; if that is right, let "
        f"validate.drift.accept be {version.profile.digest}"
    )


_TELL = {
    "quarantined_share": _too_many_quarantined,
    "undecodable_share": _too_many_undecodable,
    "category_kl": _categories_drifted,
    "brightness_kl": _brightness_drifted,
}

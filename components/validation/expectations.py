"""The Great Expectations suite: built from params.yaml, section `validate`.

Every limit of that section becomes an expectation about one of some tables (TABLES), so that all of
them show in the Data Docs. The library takes seconds to import; only validate's main process imports
this module.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import great_expectations as gx
import pyarrow as pa
from great_expectations.exceptions.exceptions import ExpectationNotFoundError
from great_expectations.expectations.expectation import (
    ColumnMapExpectation,
    ColumnPairMapExpectation,
    Expectation,
    MulticolumnMapExpectation,
)
from great_expectations.expectations.registry import get_expectation_impl

from components.errors import InputError
from components.settings import ExpectationSettings, ValidateSettings
from components.validation.facts import COLOR, SCHEMA

ROW_EXPECTATIONS = (ColumnMapExpectation, ColumnPairMapExpectation, MulticolumnMapExpectation)
COLUMN_KEYS = ("column", "column_A", "column_B")

TABLES = {
    "columns": "the columns of the facts, without rows",
    "photos": "the facts of all photos: a photo that fails goes to quarantine",
    "accepted": "the facts of the photos that are left: a failure stops the stage",
    "categories": "category and photos, accepted ones, of every category in the data",
    "version": "one row: shares and divergences of the version as a whole",
}

CATEGORIES = pa.schema([("category", pa.string()), ("photos", pa.int64())])

Setting = tuple[str, str, str, dict[str, Any]]
"""Where in params.yaml, name of the table, type of the expectation, its kwargs."""

GUARDS: tuple[Setting, ...] = (
    ("guard", "photos", "expect_column_values_to_be_null", {"column": "decode_error"}),
    ("guard", "photos", "expect_column_pair_values_to_be_equal", {"column_A": "id", "column_B": "sha256"}),
    (
        "guard",
        "columns",
        "expect_table_columns_to_match_set",
        {"column_set": [*SCHEMA.names, COLOR], "exact_match": False},
    ),
)
"""Checked whatever the suite says: prepare relies on photos that decode, are what was recorded, and on all columns."""


@dataclass(frozen=True)
class Rule:
    """One expectation, ready to be checked.

    Attributes:
        index: its number, by which its result is found again.
        where: its place in params.yaml, for errors.
        table: what it is checked on, one of TABLES.
        name: its type and its columns; differs from the other rules' names.
        columns: the columns that it looks at.
    """

    index: int
    where: str
    table: str
    name: str
    columns: tuple[str, ...]
    kwargs: dict[str, Any]
    expectation: Expectation


def build_rules(settings: ValidateSettings) -> list[Rule]:
    """The guards, the suite, and what the other keys of the section ask for.

    Raises:
        InputError: a type is unknown, its kwargs are wrong, or a row-level rule cannot be told row by row.
    """
    rules: list[Rule] = []
    taken: Counter[str] = Counter()
    for index, (where, table, kind, kwargs) in enumerate([*GUARDS, *_suite(settings), *_limits(settings)]):
        columns = _columns(kwargs)
        name = f"{kind}({', '.join(columns)})" if columns else kind
        taken[name] += 1
        if taken[name] > 1:
            name = f"{name} #{taken[name]}"
        expectation = _expectation(where, kind, kwargs, index)
        rules.append(Rule(index, where, table, name, columns, kwargs, expectation))
    return rules


def _suite(settings: ValidateSettings) -> Iterable[Setting]:
    for index, entry in enumerate(settings.suite):
        where = f"params.yaml: validate.suite[{index}]"
        _check_level(where, entry)
        yield where, "photos" if entry.level == "row" else "accepted", entry.type, entry.kwargs


def _limits(settings: ValidateSettings) -> Iterable[Setting]:
    """The section's other keys as expectations."""
    section = "params.yaml: validate"
    if settings.categories.allowed is not None:
        yield f"{section}.categories.allowed", "photos", *_in_set("category", settings.categories.allowed)
    for name, values in sorted(settings.attributes.items()):
        yield f"{section}.attributes.{name}", "photos", *_in_set(name, values)
    if settings.licenses is not None:
        known = {"column": "license"}
        yield f"{section}.licenses", "photos", "expect_column_values_to_not_be_null", known
        yield f"{section}.licenses", "photos", *_in_set("license", settings.licenses)
    enough = {"column": "photos", "min_value": settings.categories.min_photos}
    yield f"{section}.categories.min_photos", "categories", "expect_column_values_to_be_between", enough
    limits = {
        ("quarantined_share", "tolerance"): settings.tolerance,
        ("undecodable_share", "undecodable"): settings.undecodable,
        ("category_kl", "drift.category_kl"): settings.drift.category_kl,
        ("brightness_kl", "drift.brightness_kl"): settings.drift.brightness_kl,
    }
    for (column, key), limit in limits.items():
        if limit is not None:
            at_most = {"column": column, "max_value": limit}
            yield f"{section}.{key}", "version", "expect_column_max_to_be_between", at_most


def _in_set(column: str, values: Sequence[str]) -> tuple[str, dict[str, Any]]:
    return "expect_column_values_to_be_in_set", {"column": column, "value_set": list(values)}


def _columns(kwargs: dict[str, Any]) -> tuple[str, ...]:
    columns = [kwargs[key] for key in COLUMN_KEYS if key in kwargs]
    listed = kwargs.get("column_list", [])
    return (*columns, *(listed if isinstance(listed, list) else [listed]))


def check_columns(rules: Sequence[Rule], found: Sequence[str]) -> None:
    """Compares the rules about photos with the columns that their facts have.

    Raises:
        InputError: a rule is about a column that is neither a fact nor an attribute of the photos.
    """
    for rule in rules:
        for column in rule.columns:
            if rule.table in ("photos", "accepted") and column not in found:
                attributes = [name for name in found if name not in SCHEMA.names]
                raise InputError(
                    f"{rule.where}: column {column!r} is none of the facts: {', '.join(SCHEMA.names)}; "
                    f"nor an attribute of the photos: {', '.join(attributes)}"
                )


def _check_level(where: str, entry: ExpectationSettings) -> None:
    if entry.level == "row" and "mostly" in entry.kwargs:
        raise InputError(
            f"{where}: 'mostly' has no meaning at level 'row': every photo that fails goes to quarantine, "
            "and validate.tolerance says how many may"
        )
    kind = _kind(where, entry.type)
    if entry.level == "row" and not issubclass(kind, ROW_EXPECTATIONS):
        raise InputError(f"{where}: {entry.type} says nothing of single photos; its level must be 'dataset'")


def _kind(where: str, name: str) -> type[Expectation]:
    try:
        return get_expectation_impl(name)
    except ExpectationNotFoundError:
        raise InputError(f"{where}: type {name!r} is no expectation of Great Expectations {gx.__version__}") from None


def _expectation(where: str, kind: str, kwargs: dict[str, Any], index: int) -> Expectation:
    """Great Expectations' object; `index` finds its result again: results come in another order."""
    try:
        expectation: Expectation = _kind(where, kind)(**{**kwargs, "meta": {"index": index, "where": where}})
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: {kind} cannot be made of kwargs {kwargs}: {error}") from None
    return expectation

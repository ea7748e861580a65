"""Reasons of the quarantine, in words and with examples."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

UNREADABLE = "expect_column_values_to_be_null(decode_error)"

WORDS = {
    UNREADABLE: "No readable photo",
    "expect_column_pair_values_to_be_equal(id, sha256)": "Not the bytes that were recorded",
}

FORMS = {
    "expect_column_values_to_be_between": "{}: outside its limits",
    "expect_column_values_to_be_in_set": "{}: not among the allowed values",
    "expect_column_values_to_not_be_null": "{}: missing",
    "expect_column_values_to_match_regex": "{}: of another form",
}


@dataclass(frozen=True)
class Reason:
    """An expectation with some photos that fail it: id, file_name and value each."""

    expectation: str
    limits: str
    words: str
    count: int
    photos: list[dict[str, Any]]

    @property
    def has_pictures(self) -> bool:
        return self.expectation != UNREADABLE


def by_reason(
    quarantine: pa.Table, expectations: Mapping[str, str], choose: Callable[[pa.Table], list[dict[str, Any]]]
) -> list[Reason]:
    """The quarantine per expectation, most frequent first.

    Args:
        quarantine: id, file_name, reasons, as validate writes them.
        expectations: names that reasons begin with, and their limits.
        choose: picks the photos to show from a table of id, file_name and value.
    """
    begins = re.compile("|".join(re.escape(f"{name}: ") for name in sorted(expectations, key=len, reverse=True)))
    rows: dict[str, list[tuple[str, str, str]]] = {}
    for row in quarantine.to_pylist():
        for name, value in _parted(row["reasons"], begins):
            rows.setdefault(name, []).append((row["id"], row["file_name"], value))
    reasons = []
    for name in sorted(rows, key=lambda name: (-len(rows[name]), name)):
        table = pa.table([list(column) for column in zip(*rows[name], strict=True)], ["id", "file_name", "value"])
        reasons.append(Reason(name, expectations[name], in_words(name), len(rows[name]), choose(table)))
    return reasons


def _parted(text: str, begins: re.Pattern[str]) -> list[tuple[str, str]]:
    """Expectation and value of each reason; a value may hold the separator itself."""
    parts: list[tuple[str, str]] = []
    for piece in text.split("; "):
        match = begins.match(piece)
        if match:
            parts.append((match[0][:-2], piece[match.end() :]))
        elif parts:
            name, value = parts[-1]
            parts[-1] = (name, f"{value}; {piece}")
    return parts


def in_words(expectation: str) -> str:
    """An expectation's name as a person would say it."""
    if expectation in WORDS:
        return WORDS[expectation]
    match = re.fullmatch(r"(\w+)\((.*)\)(?: #\d+)?", expectation)
    if match and match[1] in FORMS:
        return FORMS[match[1]].format(match[2].replace("_", " ")).capitalize()
    return expectation

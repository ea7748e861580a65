"""The Great Expectations suite: built from params.yaml, checked on the facts, shown as Data Docs.

The library takes seconds to import; only validate's main process imports this module.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import great_expectations as gx
import numpy as np
import pandas as pd
from great_expectations.core import ExpectationValidationResult
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.exceptions.exceptions import ExpectationNotFoundError
from great_expectations.expectations.expectation import (
    ColumnMapExpectation,
    ColumnPairMapExpectation,
    Expectation,
    MulticolumnMapExpectation,
)
from great_expectations.expectations.registry import get_expectation_impl
from numpy.typing import NDArray

from components.errors import InputError
from components.facts import SCHEMA
from components.settings import ExpectationSettings

ROW_EXPECTATIONS = (ColumnMapExpectation, ColumnPairMapExpectation, MulticolumnMapExpectation)
COLUMN_KEYS = ("column", "column_A", "column_B")

GUARDS = (
    ExpectationSettings(type="expect_column_values_to_be_null", level="row", kwargs={"column": "decode_error"}),
    ExpectationSettings(
        type="expect_column_pair_values_to_be_equal",
        level="row",
        kwargs={"column_A": "id", "column_B": "sha256"},
    ),
)
"""Checked whatever the suite says: prepare relies on photos that decode and are what was recorded."""


@dataclass(frozen=True)
class Rule:
    """One expectation, ready to be checked.

    Attributes:
        where: its place in params.yaml, for errors.
        name: its type and its columns; differs from the other rules' names.
        columns: the columns of the facts that it looks at.
    """

    where: str
    name: str
    level: Literal["row", "dataset"]
    columns: tuple[str, ...]
    kwargs: dict[str, Any]
    expectation: Expectation


@dataclass(frozen=True)
class Outcome:
    """What became of one rule.

    Attributes:
        rows: positions in the facts of the rows that fail it, (n,).
        observed: what was found, for rules about the data set as a whole, else None.
    """

    rule: Rule
    success: bool
    rows: NDArray[np.int64]
    observed: Any


def build_rules(suite: Sequence[ExpectationSettings]) -> list[Rule]:
    """The guards and the suite.

    Raises:
        InputError: a type is unknown, its kwargs are wrong, a column is none of the facts', or a
            row-level rule cannot be told row by row.
    """
    places = [("guard", guard) for guard in GUARDS]
    places += [(f"params.yaml: validate.suite[{index}]", entry) for index, entry in enumerate(suite)]
    rules: list[Rule] = []
    taken: Counter[str] = Counter()
    for index, (where, entry) in enumerate(places):
        columns = _columns(where, entry)
        name = f"{entry.type}({', '.join(columns)})" if columns else entry.type
        taken[name] += 1
        if taken[name] > 1:
            name = f"{name} #{taken[name]}"
        rules.append(Rule(where, name, entry.level, columns, entry.kwargs, _expectation(where, entry, index)))
    return rules


def _columns(where: str, entry: ExpectationSettings) -> tuple[str, ...]:
    columns = [entry.kwargs[key] for key in COLUMN_KEYS if key in entry.kwargs]
    listed = entry.kwargs.get("column_list", [])
    columns += listed if isinstance(listed, list) else [listed]
    for column in columns:
        if column not in SCHEMA.names:
            raise InputError(f"{where}: column {column!r} is none of the facts: {', '.join(SCHEMA.names)}")
    return tuple(columns)


def _expectation(where: str, entry: ExpectationSettings, index: int) -> Expectation:
    """Great Expectations' object; `index` finds its result again, which come in another order."""
    try:
        kind = get_expectation_impl(entry.type)
        expectation: Expectation = kind(**{**entry.kwargs, "meta": {"index": index, "where": where}})
    except ExpectationNotFoundError:
        raise InputError(
            f"{where}: type {entry.type!r} is no expectation of Great Expectations {gx.__version__}"
        ) from None
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: {entry.type} cannot be made of kwargs {entry.kwargs}: {error}") from None
    if entry.level == "row" and not issubclass(kind, ROW_EXPECTATIONS):
        raise InputError(f"{where}: {entry.type} says nothing of single photos; its level must be 'dataset'")
    if entry.level == "row" and "mostly" in entry.kwargs:
        raise InputError(
            f"{where}: 'mostly' has no meaning at level 'row': every photo that fails goes to quarantine, "
            "and validate.tolerance says how many may"
        )
    return expectation


def check_rules(rules: Sequence[Rule], facts: pd.DataFrame, docs_dir: Path) -> list[Outcome]:
    """Checks all rules on the facts, in their order, and builds the Data Docs.

    Raises:
        InputError: a rule cannot be evaluated on this data, such as a regex that is none.
    """
    # Without a docs site of its own, which would leave a temporary folder behind.
    stores = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)
    config = DataContextConfig(
        store_backend_defaults=stores,
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    suite = context.suites.add(gx.ExpectationSuite(name="photos", expectations=[rule.expectation for rule in rules]))
    asset = context.data_sources.add_pandas("facts").add_dataframe_asset("photos")
    validation = context.validation_definitions.add(
        gx.ValidationDefinition(name="facts", data=asset.add_batch_definition_whole_dataframe("all"), suite=suite)
    )
    # Positions, not names: with unexpected_index_column_names each failing row costs 2 ms.
    result = validation.run(
        batch_parameters={"dataframe": facts.reset_index(drop=True)},
        result_format={"result_format": "COMPLETE", "return_unexpected_index_query": False},
    )
    _build_docs(context, docs_dir)
    by_index = {entry.expectation_config.meta["index"]: entry for entry in result.results if entry.expectation_config}
    return [_outcome(rule, by_index[index]) for index, rule in enumerate(rules)]


def _build_docs(context: Any, docs_dir: Path) -> None:
    shutil.rmtree(docs_dir, ignore_errors=True)
    site = {
        "class_name": "SiteBuilder",
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(docs_dir.absolute()),
        },
    }
    context.add_data_docs_site("facts", site)
    context.build_data_docs(site_names=["facts"])


def _outcome(rule: Rule, entry: ExpectationValidationResult) -> Outcome:
    info = entry.exception_info or {}
    raised = [each for each in (info, *info.values()) if isinstance(each, dict) and each.get("raised_exception")]
    if raised:
        raise InputError(f"{rule.where}: {rule.name} cannot be evaluated: {raised[0]['exception_message']}")
    rows = np.array(entry.result.get("unexpected_index_list") or [], dtype=np.int64)
    return Outcome(rule, bool(entry.success), rows, entry.result.get("observed_value"))

"""Checks rules with Great Expectations and shows them as its Data Docs.

Only validate's main process imports this module, which takes seconds.
"""

import html
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import great_expectations as gx
import numpy as np
import pandas as pd
from great_expectations.core import ExpectationValidationResult
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from numpy.typing import NDArray

from components.errors import InputError
from components.validation.expectations import Rule


@dataclass(frozen=True)
class Outcome:
    """What became of one rule.

    Attributes:
        rows: positions in the table of the rows that fail it, (n,).
        observed: what was found, for rules about the table as a whole, else None.
    """

    rule: Rule
    success: bool
    rows: NDArray[np.int64]
    observed: Any


def new_context() -> Any:
    """Great Expectations' state, in memory; one per validation."""
    # Without a docs site of its own, which would leave a temporary folder behind.
    stores = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)
    config = DataContextConfig(
        store_backend_defaults=stores,
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    context.data_sources.add_pandas("facts")
    return context


def check_rules(context: Any, table: str, rules: Sequence[Rule], rows: pd.DataFrame) -> list[Outcome]:
    """Checks rules on a table, in their order.

    Raises:
        InputError: a rule cannot be evaluated on this data, such as a regex that is none.
    """
    if not rules:
        return []
    suite = context.suites.add(gx.ExpectationSuite(name=table, expectations=[rule.expectation for rule in rules]))
    asset = context.data_sources.get("facts").add_dataframe_asset(table)
    validation = context.validation_definitions.add(
        gx.ValidationDefinition(name=table, data=asset.add_batch_definition_whole_dataframe("all"), suite=suite)
    )
    # Positions, not names: with unexpected_index_column_names each failing row costs 2 ms.
    result = validation.run(
        batch_parameters={"dataframe": rows.reset_index(drop=True)},
        result_format={"result_format": "COMPLETE", "return_unexpected_index_query": False},
    )
    by_index = {entry.expectation_config.meta["index"]: entry for entry in result.results if entry.expectation_config}
    return [_outcome(rule, by_index[rule.index]) for rule in rules]


def build_docs(context: Any, docs_dir: Path) -> None:
    """Writes pages about all that was checked, in place of those that were there."""
    shutil.rmtree(docs_dir, ignore_errors=True)
    _escape_results(context.validation_results_store)
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


def _escape_results(store: Any) -> None:
    """Names and values come from strangers, and Great Expectations writes them into its pages as they are."""
    for key in store.list_keys():
        validation = store.get(key)
        for entry in validation.results:
            entry.result = _escaped(entry.result)
        store.set(key, validation)


def _escaped(value: Any) -> Any:
    """Texts within lists and dictionaries with <, > and & as HTML has them."""
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, dict):
        return {_escaped(key): _escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(item) for item in value]
    return value


def _outcome(rule: Rule, entry: ExpectationValidationResult) -> Outcome:
    info = entry.exception_info or {}
    raised = [each for each in (info, *info.values()) if isinstance(each, dict) and each.get("raised_exception")]
    if raised:
        raise InputError(f"{rule.where}: {rule.name} cannot be evaluated: {raised[0]['exception_message']}")
    rows = np.array(entry.result.get("unexpected_index_list") or [], dtype=np.int64)
    return Outcome(rule, bool(entry.success), rows, entry.result.get("observed_value"))

"""Gathers facts of small raw folders, runs prepare on them and reads what it made; all in this process."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from components.prepare import PrepareReport, prepare
from components.raw import Row, RowGroup, read_group
from components.settings import DecodingSettings, DuplicateSettings, OutlierSettings, PrepareSettings, SplitSettings
from components.tables import write_table
from components.validate import QUARANTINE_SCHEMA
from components.validation.facts import gather_facts

LIMITS = DecodingSettings(pixels=10**7, frames=10, seconds=20.0, memory_mb=1024)
SPLIT = SplitSettings(val=0.05, test=0.1, salt="vitrine")
SETTINGS = PrepareSettings(
    size=32, fit="pad", crop_margin=None, conditions=["category"], duplicates=None, outliers=None, split=SPLIT
)
DUPLICATES = DuplicateSettings(max_distance=8, min_similarity=0.9)
OUTLIERS = OutlierSettings(resolution=64, list_above=3.0, drop_above=6.0)


def here(
    work: Callable[..., Any],
    groups: Sequence[RowGroup],
    columns: Sequence[str],
    limits: DecodingSettings,
    *args: Any,
    more: Callable[[RowGroup], Any] | None = None,
) -> Iterator[tuple[Any, list[Any]]]:
    """over_groups, but for the guard, which has its own tests."""
    del limits
    for group in groups:
        rows: list[Row] = read_group(group, columns)
        if more is not None:
            rows = [{**row, **added} for row, added in zip(rows, more(group), strict=True)]
        yield work(rows, *args), []


def check(raw: Path, folder: Path, doubtful: Callable[[pd.DataFrame], Any] | None = None) -> Path:
    """data/validated: facts, and in quarantine what does not decode, and what is doubtful."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITRINE_CACHE", str(folder.parent / "cache"))
        patch.setattr("components.validation.facts.over_groups", here)
        facts = gather_facts(raw, LIMITS)
    frame = facts.to_pandas()
    bad = ~frame["decodable"].astype(bool)
    if doubtful is not None:
        bad |= doubtful(frame).fillna(False)
    rows = [{"id": row.id, "file_name": row.file_name, "reasons": "bad"} for row in frame[bad].itertuples()]
    write_table(facts, folder / "facts.parquet")
    write_table(pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA), folder / "quarantine.parquet")
    return folder


def run(
    raw: Path,
    out: Path,
    settings: PrepareSettings = SETTINGS,
    doubtful: Callable[[pd.DataFrame], Any] | None = None,
) -> PrepareReport:
    """Facts and prepare, into out/validated, out/prepared and out/cleaning."""
    return make(raw, check(raw, out / "validated", doubtful), out, settings)


def make(raw: Path, validated: Path, out: Path, settings: PrepareSettings = SETTINGS) -> PrepareReport:
    """prepare, into out/prepared and out/cleaning."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("components.prepare.over_groups", here)
        return prepare(settings, LIMITS, raw, validated, out / "prepared", out / "cleaning")


def manifest_of(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "prepared" / "manifest.parquet")


def cleaning_of(out: Path, name: str) -> pd.DataFrame:
    """left_out, pairs or outliers."""
    return pd.read_parquet(out / "cleaning" / f"{name}.parquet")


def images_by_id(out: Path) -> dict[str, np.ndarray[Any, np.dtype[np.uint8]]]:
    shards = {path.name: np.load(path) for path in (out / "prepared").glob("*.npy")}
    manifest = manifest_of(out)
    places = zip(manifest["id"], manifest["shard"], manifest["row"], strict=True)
    return {str(photo_id): shards[str(shard)][row] for photo_id, shard, row in places}

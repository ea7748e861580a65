"""Runs validate and prepare on small raw folders and reads what they made."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.prepare import PrepareReport, prepare
from components.settings import ExpectationSettings, PrepareSettings, SplitSettings, ValidateSettings
from components.validate import validate

SPLIT = SplitSettings(val=0.05, test=0.1, salt="vitrine")
SETTINGS = PrepareSettings(size=32, fit="pad", split=SPLIT)
LAX = ExpectationSettings(type="expect_column_values_to_not_be_null", level="row", kwargs={"column": "id"})


def run(
    raw: Path, out: Path, settings: PrepareSettings = SETTINGS, suite: list[ExpectationSettings] | None = None
) -> PrepareReport:
    """validate and prepare, into out/validated and out/prepared."""
    validation = ValidateSettings(tolerance=1.0, suite=suite or [LAX])
    validate(validation, raw, out / "validated", out / "docs", out / "validation.json")
    return prepare(settings, raw, out / "validated", out / "prepared")


def manifest_of(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "prepared" / "manifest.parquet")


def images_by_id(out: Path) -> dict[str, np.ndarray[Any, np.dtype[np.uint8]]]:
    shards = {path.name: np.load(path) for path in (out / "prepared").glob("*.npy")}
    manifest = manifest_of(out)
    places = zip(manifest["id"], manifest["shard"], manifest["row"], strict=True)
    return {str(photo_id): shards[str(shard)][row] for photo_id, shard, row in places}

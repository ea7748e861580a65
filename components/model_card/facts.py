"""What a model card tells, and where it is read from."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import safe_open

from components.dataset import load_info
from components.errors import InputError
from components.generative import WEIGHTS, ModelCard, load_card
from components.measurement import Measurement
from components.models import load_family
from components.sheets import category_attribute
from components.tables import read_table


@dataclass(frozen=True)
class DataFacts:
    """What a model was trained and judged on.

    Attributes:
        digest: SHA-256 of the prepared dataset.
        counts: images per split.
        by_category: per category its images per split; empty without conditions.
        derived: conditions told from the pixels for some photos.
        licenses, sources: photos per licence and per source, of all that were collected; None: unknown.
    """

    digest: str
    counts: dict[str, int]
    by_category: dict[str, dict[str, int]]
    derived: tuple[str, ...] = ()
    licenses: dict[str, int] | None = None
    sources: dict[str, int] | None = None


@dataclass(frozen=True)
class TrainingFacts:
    """How a model came about; None: unknown."""

    images_seen: int | None = None
    seed: int | None = None
    git_commit: str | None = None
    run_url: str | None = None
    flow_url: str | None = None


@dataclass(frozen=True)
class ModelFacts:
    """All that the card tells.

    Attributes:
        card: model.json.
        description: the family in words.
        numbers: how many numbers weights.safetensors holds.
        verdict: the content of verdict.json.
        name, version: in the registry.
        signature: of what kind, and by which key.
        pictures: files beside the card and what they show.
    """

    card: ModelCard
    description: str
    numbers: int
    training: TrainingFacts
    data: DataFacts | None = None
    measurement: Measurement | None = None
    verdict: Mapping[str, Any] | None = None
    champion: str | None = None
    name: str | None = None
    version: str | None = None
    signature: str | None = None
    pictures: Sequence[tuple[str, str]] = ()


def read_model_facts(folder: Path, training: TrainingFacts, **known: Any) -> ModelFacts:
    """Facts of the model in a folder that `train` made.

    Args:
        known: further fields of ModelFacts.

    Raises:
        InputError: model.json or the weights are missing or damaged.
    """
    card = load_card(folder)
    try:
        with safe_open(folder / WEIGHTS, framework="numpy") as weights:
            numbers = sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    except Exception as error:
        # Its own error or the system's, by what is wrong with the file.
        raise InputError(f"{folder / WEIGHTS}: cannot be read: {error}; run `dvc checkout` or train again") from None
    words = " ".join((load_family(card.family).__doc__ or "").split("\n\n")[0].split())
    return ModelFacts(card, words, numbers, training, **known)


def read_data_facts(prepared_dir: Path, ingest: Path | None = None, photos: Path | None = None) -> DataFacts:
    """Facts of the data: of data/prepared, and what is known of the photos that it was made from.

    Args:
        ingest: reports/ingest.json, for the licences.
        photos: data/validated/facts.parquet, for licences and sources.

    Raises:
        InputError: the dataset is missing, or one of the files is damaged.
    """
    info = load_info(prepared_dir)
    by_category: dict[str, dict[str, int]] = {}
    if info.attributes:
        name = category_attribute(info.attributes)
        manifest = read_table(prepared_dir / "manifest.parquet", "prepare").select([name, "split"])
        found = manifest.to_pandas().groupby([name, "split"]).size().to_dict()
        by_category = {
            value: {split: int(found.get((value, split), 0)) for split in info.counts}
            for value in info.attributes[name]
        }
    licenses = sources = None
    if ingest is not None and ingest.exists():
        licenses = _licenses(ingest)
    if photos is not None and photos.exists():
        table_of_photos = read_table(photos, "validate").select(["license", "source"]).to_pandas()
        licenses, sources = (_counts(table_of_photos[column]) for column in ("license", "source"))
    return DataFacts(info.digest, dict(info.counts), by_category, info.derived, licenses, sources)


def _licenses(ingest: Path) -> dict[str, int] | None:
    try:
        found: dict[str, int] | None = json.loads(ingest.read_text("utf-8")).get("licenses")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{ingest}: damaged ({error!r}); run `dvc checkout`, or `dvc repro` to make it again"
        ) from None
    return found


def _counts(values: "pd.Series[Any]") -> dict[str, int]:
    counted = values.fillna("(none)").value_counts()
    return {str(value): int(count) for value, count in counted.items()}

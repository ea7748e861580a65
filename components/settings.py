"""params.yaml as frozen, checked objects: what each number means, its unit and its range.

Only a stage's `main()` and the flows call `load_settings()`; everything below takes its own
section. A model family's own settings stand in its file under `components/models/` and are
checked by `components.models.family_settings`, so that this module needs no torch.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from zoneinfo import available_timezones

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from components.errors import InputError

PARAMS_FILE = Path("params.yaml")

T = TypeVar("T", bound=BaseModel)

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A part of params.yaml: unknown keys, wrong types, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class FashionMnistSettings(Section):
    origin: Literal["auto", "debian", "folder", "upstream"] = Field(
        description="auto: the Debian package's files if they can be had, else upstream"
    )
    folder: str | None = Field(description="folder with the four idx files, plain or .gz; for origin 'folder'")
    url: str = Field(pattern=r"^https?://", description="address under which upstream keeps the four .gz files")

    @model_validator(mode="after")
    def _has_its_folder(self) -> Self:
        if self.origin == "folder" and not self.folder:
            raise ValueError("origin is 'folder', so folder must name it; it is null")
        return self


class DataSettings(Section):
    source: Literal["fashion-mnist"]
    subset: Annotated[int, Field(ge=1)] | None = Field(description="number of photos to take; null: all of them")
    part_rows: int = Field(ge=1, description="photos in one Parquet part, at most")
    fashion_mnist: FashionMnistSettings


class ExpectationSettings(Section):
    """One expectation of the Great Expectations suite over the facts."""

    type: str = Field(pattern=r"^expect_[a-z_]+$", description="Great Expectations' name of it")
    level: Literal["row", "dataset"] = Field(
        description="row: rows that fail are put in quarantine; dataset: a failure stops the stage"
    )
    kwargs: dict[str, Any]


class ValidateSettings(Section):
    tolerance: Share = Field(description="share of photos that may go to quarantine before the stage fails")
    suite: list[ExpectationSettings] = Field(min_length=1)


class SplitSettings(Section):
    val: Share
    test: Share
    salt: str = Field(min_length=1, description="changing it deals all photos out anew")

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(f"val + test is {self.val + self.test:g}; it must be below 1, the rest is for training")
        return self


class PrepareSettings(Section):
    size: Literal[32, 64, 128, 256] = Field(description="height and width of the training images, pixels")
    fit: Literal["pad", "resize"] = Field(
        description="pad: keep the scale if the photo fits, fill with its border colour; resize: fill the square"
    )
    split: SplitSettings


class TrainCommonSettings(Section):
    seed: int = Field(ge=0, lt=2**32)
    accelerator: Literal["auto", "cpu", "gpu"]
    precision: Literal["auto", "bf16-mixed", "32-true"] = Field(
        description="auto: bf16-mixed where the processor computes in bf16, else 32-true"
    )
    log_every: int = Field(ge=1, description="optimiser steps that are averaged into one logged point")
    grids: int = Field(ge=1, description="sample grids in the course of a training, the last at its end")
    grid_columns: int = Field(ge=1, le=32, description="samples per category in a grid")


class FamilySettings(Section):
    """What all model families have; each adds its own in its file."""

    images: int = Field(ge=1, description="length of the training: images seen, repeats counted")
    batch_size: int = Field(ge=1)


class TrainSettings(Section):
    """`common`, and one entry per model family whose content the family's own file defines."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    common: TrainCommonSettings

    @property
    def families(self) -> dict[str, Any]:
        """Raw settings per model family."""
        return dict(self.model_extra or {})


class EvaluateSettings(Section):
    extractor: Literal["efflite0", "inception"]
    inception_weights: str | None = Field(
        description="path of the TorchScript file of the canonical Inception network; for extractor 'inception'"
    )
    resolution: int = Field(ge=32, le=512, description="images are resized to this before the features, pixels")
    split: Literal["val", "test"]
    samples: int = Field(ge=10, description="real images at most, and as many generated ones with their conditions")
    batch_size: int = Field(ge=1, description="images in one pass through the feature network; speed only")
    seed: int = Field(ge=0, description="of the choice of real images, the latents, and the KID's subsets")
    kid_subsets: int = Field(ge=2, description="random subsets whose mean and deviation the KID is")
    kid_subset_size: int = Field(ge=2, description="images of either kind in a subset")
    neighbours: int = Field(ge=1, description="k of the improved precision and recall")

    @model_validator(mode="after")
    def _can_be_measured(self) -> Self:
        if self.kid_subset_size > self.samples:
            found = f"kid_subset_size is {self.kid_subset_size}, samples is {self.samples}"
            raise ValueError(f"{found}; a subset cannot be larger than the whole")
        if self.extractor == "inception" and self.inception_weights is None:
            raise ValueError("extractor 'inception' needs inception_weights, the path of inception-2015-12-05.pt")
        return self


class GateCheck(Section):
    """One threshold; a value that equals it passes."""

    metric: str = Field(
        min_length=1, description="as in evaluation.json; groups with dots: by_category.dress.kd_efflite0"
    )
    at_most: float | None = None
    at_least: float | None = None

    @model_validator(mode="after")
    def _has_one_threshold(self) -> Self:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(f"check of '{self.metric}' needs exactly one of at_most and at_least")
        return self


class PromoteSettings(Section):
    registered_model: str = Field(pattern=r"^[\w .-]*\{model\}[\w .-]*$", description="name in the registry")
    metric: str = Field(min_length=1, description="decides between champion and challenger")
    direction: Literal["minimize", "maximize"]


class FlowSettings(Section):
    nightly_cron: str = Field(pattern=r"^[\d*/,-]+( [\d*/,A-Za-z-]+){4}$", description="when retrain/nightly runs")
    timezone: str = Field(description="IANA name, as in Europe/Berlin")
    retries: int = Field(ge=0, le=10, description="further tries of a stage that failed for no fault of its input")
    retry_delay: int = Field(ge=0, description="seconds before the first further try; doubles each time")

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError("no such time zone; give an IANA name, as in Europe/Berlin")
        return value


class Settings(Section):
    data: DataSettings
    validation: ValidateSettings = Field(alias="validate")
    prepare: PrepareSettings
    train: TrainSettings
    evaluate: EvaluateSettings
    gate: dict[str, list[GateCheck]] = Field(description="checks per model family")
    promote: PromoteSettings
    flow: FlowSettings


def load_settings(path: Path = PARAMS_FILE) -> Settings:
    """Reads and checks params.yaml.

    Raises:
        InputError: the file is missing or no YAML, or a key is unknown, missing, of the wrong type
            or out of range. All that is wrong is named at once.
    """
    try:
        # The parser that DVC reads it with; PyYAML takes 1e-4 for a text.
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        text = json.dumps(content, default=str)
    except FileNotFoundError:
        raise InputError(f"{path}: not found; start in the project's root or give --params") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as YAML: {error}") from None
    return check(Settings, text, str(path))


def check(model: type[T], text: str, where: str) -> T:
    """Validates JSON against a model, with errors that name the key, the value and what is allowed."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        lines = "\n".join(f"  {_describe(entry)}" for entry in error.errors())
        raise InputError(f"{where}: {error.error_count()} setting(s) cannot be used:\n{lines}") from None


def _describe(entry: Any) -> str:
    """One line for one of pydantic's errors: key, value found, what is allowed."""
    key = ".".join(str(part) for part in entry["loc"]) or "(the whole file)"
    if entry["type"] == "extra_forbidden":
        return f"{key}: unknown key, found {entry['input']!r}; remove it or correct its name"
    if entry["type"] == "missing":
        return f"{key}: missing; it must be given"
    said = entry["msg"].removeprefix("Value error, ")
    if isinstance(entry["input"], dict | list):  # a rule over several keys, which names those it means
        return f"{key}: {said}"
    return f"{key}: found {entry['input']!r}; {said[0].lower()}{said[1:]}"

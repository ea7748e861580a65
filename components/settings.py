"""params.yaml as frozen, checked objects: what each number means, its unit and its range.

Only a stage's `main()` and the flows call `load_settings()`; everything below takes its own
section. A model family's own settings stand in its file under `components/models/` and are
checked by `components.models.family_settings`, so that this module needs no torch.
"""

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from zoneinfo import available_timezones

from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from components.errors import InputError

PARAMS_FILE = Path("params.yaml")
REGISTRY = "models:/"
"""What the address of a registered model version begins with."""

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


class S3Settings(Section):
    """Where a bucket of photos is; the keys come from the environment or from a profile."""

    url: str | None = Field(pattern=r"^s3://[^/]+(/.*)?$", description="s3://bucket/prefix; for source 's3'")
    endpoint: str | None = Field(
        pattern=r"^https?://", description="of an S3-compatible store; null: as the environment says (AWS_ENDPOINT_URL)"
    )
    profile: str | None = Field(
        description="profile of ~/.aws/credentials; null: the keys of the environment, which `make run` sets to the "
        "project's own object store"
    )


class DataSettings(Section):
    source: Literal["fashion-mnist", "folder", "archive", "s3"]
    path: str | None = Field(description="the folder, or the zip or tar file; for sources 'folder' and 'archive'")
    s3: S3Settings
    license: str | None = Field(description="licence of photos for which the source names none; null: unknown")
    removals: str | None = Field(
        description="CSV of photos that must leave every later version (docs/data.md); null: there is none"
    )
    file_bytes: int = Field(ge=1, description="a larger file is refused without being read")
    subset: Annotated[int, Field(ge=1)] | None = Field(
        description="number of photos to take, the first of the source; null: all of them"
    )
    part_rows: int = Field(ge=1, description="photos in one Parquet part, at most")
    fashion_mnist: FashionMnistSettings

    @model_validator(mode="after")
    def _says_where_the_photos_are(self) -> Self:
        if self.source in ("folder", "archive") and not self.path:
            raise ValueError(f"source is '{self.source}', so path must name it; it is null")
        if self.source == "s3" and not self.s3.url:
            raise ValueError("source is 's3', so s3.url must name the bucket; it is null")
        return self


class DecodingSettings(Section):
    """What a photo may cost. What needs more goes to quarantine, whatever else it is."""

    pixels: int = Field(ge=1, description="width times height of one frame, at most; read from the header")
    frames: int = Field(ge=1, description="frames of an animated file, at most; only the first is used")
    seconds: float = Field(gt=0, description="for one photo")
    memory_mb: int = Field(ge=256, description="of a worker process beyond what it has when it starts, MiB")


class ExpectationSettings(Section):
    """One expectation of the Great Expectations suite over the facts."""

    type: str = Field(pattern=r"^expect_[a-z_]+$", description="Great Expectations' name of it")
    level: Literal["row", "dataset"] = Field(
        description="row: rows that fail are put in quarantine; dataset: a failure stops the stage"
    )
    kwargs: dict[str, Any]


class CategorySettings(Section):
    allowed: list[str] | None = Field(description="categories there may be; null: any")
    min_photos: int = Field(ge=1, description="accepted photos that each category must have")


class DriftSettings(Section):
    """Limits of the change against the last approved version, as KL divergences in nats (new from old)."""

    category_kl: float | None = Field(ge=0, description="of the category mix; null: not limited")
    brightness_kl: float | None = Field(ge=0, description="of the histogram of brightness; null: not limited")
    accept: str | None = Field(
        description="digest of a version that is right in spite of its drift; the error and the report name it"
    )


class ValidateSettings(Section):
    tolerance: Share = Field(description="share of photos that may go to quarantine before the stage fails")
    undecodable: Share = Field(description="share of files, refused ones included, that may be no readable photo")
    categories: CategorySettings
    attributes: dict[str, list[str]] = Field(description="values there may be, per attribute; others: any value")
    licenses: list[str] | None = Field(description="licences that photos may have; null: any, unknown ones too")
    drift: DriftSettings
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


class DuplicateSettings(Section):
    """Near-duplicates: a perceptual hash proposes pairs, a comparison of their pixels decides."""

    max_distance: int = Field(ge=0, le=32, description="bits of 64 in which the hashes of a pair may differ")
    min_similarity: float = Field(
        ge=0, le=1, description="of the aligned pixels, 1 for the same picture; below it a pair is no duplicate"
    )


class OutlierSettings(Section):
    """Photos unlike their category, by their distance in the features of EfficientNet-Lite0."""

    resolution: int = Field(ge=32, le=256, description="images are resized to this before the features, pixels")
    list_above: float = Field(gt=0, description="score from which a photo is listed in the report")
    drop_above: float | None = Field(gt=0, description="score from which it is left out; null: never")

    @model_validator(mode="after")
    def _lists_what_it_drops(self) -> Self:
        if self.drop_above is not None and self.drop_above < self.list_above:
            raise ValueError(f"drop_above is {self.drop_above:g}, below list_above, {self.list_above:g}")
        return self


class PrepareSettings(Section):
    size: Literal[32, 64, 128, 256] = Field(description="height and width of the training images, pixels")
    fit: Literal["pad", "resize"] = Field(
        description="pad: keep the scale if the photo fits, fill with its border colour; resize: fill the square"
    )
    crop_margin: Annotated[float, Field(ge=0, le=1)] | None = Field(
        description="cut a plain background away but for this share of the product's longer side; null: no cropping"
    )
    conditions: list[str] = Field(
        description="what the models are conditioned on: category, color or further attributes of the photos; "
        "empty: nothing, unconditional models"
    )
    duplicates: DuplicateSettings | None = Field(description="null: only photos with the very same pixels")
    outliers: OutlierSettings | None = Field(description="null: they are not looked for")
    split: SplitSettings

    @field_validator("conditions")
    @classmethod
    def _are_different(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("a condition is named twice")
        return value


class AugmentSettings(Section):
    """Random changes of training images, drawn anew at every step; zeros change nothing."""

    flip: Share = Field(description="share of images that are mirrored, left to right")
    flip_not: dict[str, list[str]] = Field(
        description="conditions whose images are never mirrored, since their orientation means something, as in "
        "{category: [shoes]}"
    )
    translate: Annotated[float, Field(ge=0, le=0.5)] = Field(description="shift in x and y, at most; share of the side")
    scale: Annotated[float, Field(ge=0, le=0.5)] = Field(description="0.1: between 0.9 and 1.1 times the size")
    rotate: Annotated[float, Field(ge=0, le=180)] = Field(description="degrees either way, at most")
    crop: Annotated[float, Field(ge=0, le=0.5)] = Field(description="share of the side that is cut away, at most")
    brightness: Annotated[float, Field(ge=0, le=1)] = Field(description="added to values in [-1, 1], at most")
    contrast: Annotated[float, Field(ge=0, lt=1)] = Field(description="0.1: between 0.9 and 1.1 times")
    saturation: Annotated[float, Field(ge=0, le=1)] = Field(description="0.1: between 0.9 and 1.1 times")
    noise: Annotated[float, Field(ge=0, le=1)] = Field(description="deviation of Gaussian noise, on values in [-1, 1]")
    cutout: Annotated[float, Field(ge=0, le=1)] = Field(description="side of a square that is painted over, share")


class CheckpointSettings(Section):
    """What a training that was killed goes on from."""

    every: int = Field(ge=1, description="images from one to the next; rounded up to blocks of log_every steps")
    keep: int = Field(ge=1, description="newest ones that are kept; two: a damaged one has another before it")


class QualitySettings(Section):
    """Samples judged in the course of a training, against the split val; the best weights become the model."""

    every: int = Field(ge=1, description="images from one check to the next; rounded up to blocks of log_every steps")
    samples: int = Field(ge=10, description="generated images, and real ones of the split val at most")
    resolution: int = Field(ge=32, le=512, description="images are resized to this before the features, pixels")
    patience: int | None = Field(
        ge=1, description="checks in a row without a better one after which the training ends; null: never"
    )


class WatchSettings(Section):
    """Thresholds of a watched quantity; null: none."""

    warn: float | None = Field(ge=0)
    stop: float | None = Field(ge=0)


class WatchdogSettings(Section):
    """Quantities that tell of a training gone wrong. NaN and infinity always end it."""

    patience: int = Field(ge=1, description="images over which a quantity must be past a threshold without a break")
    discriminator_accuracy: WatchSettings = Field(
        description="share of pairs in which the discriminator rates the real image above the generated one; "
        "bad above the thresholds"
    )
    diversity: WatchSettings = Field(
        description="mean distance between generated images of one category over that between real ones; "
        "bad below the thresholds"
    )
    active_units: WatchSettings = Field(
        description="latents of an encoder that depend on the image; bad below the thresholds"
    )

    @field_validator("discriminator_accuracy")
    @classmethod
    def _is_a_share(cls, value: WatchSettings) -> WatchSettings:
        if max(value.warn or 0.0, value.stop or 0.0) > 1:
            raise ValueError(f"warn is {value.warn}, stop {value.stop}; a share of pairs is never above 1")
        if value.warn is not None and value.stop is not None and value.stop < value.warn:
            raise ValueError(f"stop is {value.stop:g}, below warn, {value.warn:g}; what is bad lies above both")
        return value

    @field_validator("diversity", "active_units")
    @classmethod
    def _stops_below_the_warning(cls, value: WatchSettings) -> WatchSettings:
        if value.warn is not None and value.stop is not None and value.stop > value.warn:
            raise ValueError(f"stop is {value.stop:g}, above warn, {value.warn:g}; what is bad lies below both")
        return value


class TrainCommonSettings(Section):
    seed: int = Field(ge=0, lt=2**32)
    accelerator: Literal["auto", "cpu", "gpu"]
    devices: int = Field(ge=1, description="processes per machine, one GPU each; batch_size is shared among them all")
    nodes: int = Field(ge=1, description="machines; more than one: started by torchrun or SLURM on each")
    precision: Literal["auto", "bf16-mixed", "32-true"] = Field(
        description="auto: bf16-mixed where the processor computes in bf16, else 32-true"
    )
    compile: Literal["auto", "on", "off"] = Field(
        description="networks through torch.compile, losses as they are; auto: on a GPU"
    )
    keep_images: Literal["auto", "device", "disk"] = Field(
        description="training images in the device's memory as uint8, or read from the disk; auto: there if they fit"
    )
    sampler: Literal["uniform", "balanced"] = Field(
        description="uniform: every image once an epoch; balanced: by the manifest's weights, categories alike"
    )
    augment: AugmentSettings
    log_every: int = Field(ge=1, description="optimiser steps that are averaged into one logged point")
    grids: int = Field(ge=1, description="sample grids in the course of a training, the last at its end")
    grid_columns: int = Field(ge=1, le=32, description="samples per category in a grid")
    checkpoint: CheckpointSettings
    quality: QualitySettings | None = Field(description="null: samples are not judged, the last weights are the model")
    watchdogs: WatchdogSettings


class Cosine(Section):
    """A value that goes from `start` to `end` along half a cosine, and stays there."""

    start: float = Field(ge=0)
    end: float = Field(ge=0)
    share: float = Field(gt=0, le=1, description="of the training, after which `end` is reached")


Scheduled = Annotated[float, Field(ge=0)] | Cosine
"""A setting that is constant, or changes in the course of a training."""


class OptimizerSettings(Section):
    """Adam with decoupled weight decay."""

    lr: Scheduled
    beta1: Annotated[float, Field(ge=0, lt=1)]
    beta2: Scheduled = Field(description="below 1")
    weight_decay: float = Field(ge=0)
    warmup: int = Field(ge=0, description="images over which the learning rate rises from 0 to what lr says")

    @field_validator("beta2")
    @classmethod
    def _is_below_one(cls, value: Scheduled) -> Scheduled:
        if max((value.start, value.end) if isinstance(value, Cosine) else (value,)) >= 1:
            raise ValueError("a decay rate must be below 1")
        return value


class InitFrom(Section):
    """Trained weights to start from, instead of random ones."""

    source: str = Field(
        min_length=1,
        description="models:/NAME/VERSION or models:/NAME@ALIAS of the registry, or the path of a folder with a model "
        "or of a checkpoint",
    )
    allow: list[Annotated[str, Field(min_length=1)]] = Field(
        description="beginnings of names of weights that may be missing or of another shape"
    )

    @field_validator("source")
    @classmethod
    def _names_a_version(cls, value: str) -> str:
        if value.startswith(REGISTRY) and not re.fullmatch(rf"{REGISTRY}[^/@]+(/[0-9]+|@[^/@]+)", value):
            raise ValueError(f"a registered version is given as {REGISTRY}NAME/VERSION or {REGISTRY}NAME@ALIAS")
        return value


class FamilySettings(Section):
    """What all model families have; each adds its own in its file."""

    images: int = Field(ge=1, description="length of the training: images seen, repeats counted")
    batch_size: int = Field(ge=1, description="images per optimiser step, of all processes together")
    accumulate: int = Field(ge=1, description="micro-batches that a process divides its part of a batch into")
    gradient_clip: Annotated[float, Field(gt=0)] | None = Field(description="largest norm of a step's gradient")
    ema_half_life: Scheduled = Field(description="images after which old weights count half; 0: no averaging")
    init_from: InitFrom | None


class TrainSettings(Section):
    """`common`, and one entry per model family whose content the family's own file defines.

    An entry that `models` does not name waits there, checked like the others.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    models: list[str] = Field(min_length=1, description="the entries below that are trained, measured and gated")
    common: TrainCommonSettings

    @property
    def families(self) -> dict[str, Any]:
        """Raw settings per model family."""
        return dict(self.model_extra or {})


class CopyingSettings(Section):
    samples: int = Field(ge=40, description="generated images that are looked up among the training photos, at most")
    quantile: float = Field(
        gt=0,
        lt=0.5,
        description="a sample counts as a copy if it is nearer to a training photo than this share of held-out photos",
    )


class EvaluateSettings(Section):
    extractor: Literal["efflite0", "inception", "dinov2"]
    weights: str | None = Field(
        description="of extractor 'inception' (inception-2015-12-05.pt) or 'dinov2' (folder of a model): path or URL"
    )
    resolution: int = Field(ge=32, le=512, description="images are resized to this before the features, pixels")
    split: Literal["val", "test"]
    samples: int = Field(ge=20, description="real images at most, and as many generated ones with their conditions")
    per_category: int = Field(
        ge=0,
        description="generated images of each category at least, by which its condition is judged; those that held-out "
        "photos are too few for are generated besides",
    )
    batch_size: int = Field(ge=1, description="images in one pass through the feature network; speed only")
    seed: int = Field(ge=0, description="of the choice of images, the latents, and the groups of the jackknife")
    neighbours: int = Field(ge=1, description="k of precision, recall, density and coverage")
    train_photos: int = Field(
        ge=20,
        description="training photos at most whose features are computed: for the nearest ones, for the classifier "
        "that judges conditions, and for the floors",
    )
    copying: CopyingSettings

    @model_validator(mode="after")
    def _has_its_weights(self) -> Self:
        if self.extractor != "efflite0" and self.weights is None:
            raise ValueError(f"extractor '{self.extractor}' needs weights: their path or URL")
        return self


class GateCheck(Section):
    """One threshold; the whole interval must lie on its right side, or end on it."""

    metric: str = Field(min_length=1, description="as in measurement.json")
    at_most: float | None = Field(default=None, allow_inf_nan=False)
    at_least: float | None = Field(default=None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _has_one_threshold(self) -> Self:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(f"check of '{self.metric}' needs exactly one of at_most and at_least")
        return self


class ChampionCheck(Section):
    """One comparison with the champion, decided on the interval of the difference.

    `better_by` asks for superiority: the candidate is surely better by more than the margin.
    `worse_by_at_most` asks for non-inferiority: it is surely not worse by more than that.
    """

    metric: str = Field(min_length=1, description="as in measurement.json")
    direction: Literal["minimize", "maximize"] = Field(description="what is better: less or more of it")
    better_by: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    worse_by_at_most: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    relative: bool = Field(default=False, description="the margin is a share of the champion's value")

    @model_validator(mode="after")
    def _has_one_margin(self) -> Self:
        if (self.better_by is None) == (self.worse_by_at_most is None):
            raise ValueError(f"comparison of '{self.metric}' needs exactly one of better_by and worse_by_at_most")
        return self


class GatePolicy(Section):
    """What a model must reach before it may be promoted."""

    required: list[str] = Field(description="metrics that must be there, finite and with an interval, checked or not")
    thresholds: list[GateCheck] = Field(description="on metrics over all images")
    by_category: list[GateCheck] = Field(description="on each category's metrics; the worst is named")
    memorisation: list[GateCheck] = Field(
        min_length=1, description="against copies of training photos; never empty, and no override lifts it silently"
    )
    champion: list[ChampionCheck] = Field(
        min_length=1, description="against the champion, measured again on the same photos"
    )
    first_model: Literal["promote", "hold"] = Field(
        description="without a champion to compare with: promote what passes the rest, or leave it to somebody"
    )


class PromoteSettings(Section):
    registered_model: str = Field(pattern=r"^[\w .-]*\{model\}[\w .-]*$", description="name in the registry")
    approval: Literal["auto", "human"] = Field(
        description="human: the flow waits at the gate until somebody resumes it on Prefect's page"
    )
    approval_timeout: int = Field(ge=60, description="seconds that it waits; after that nothing is promoted")


class FlowSettings(Section):
    nightly_cron: str = Field(pattern=r"^[\d*/,-]+( [\d*/,A-Za-z-]+){4}$", description="when retrain/nightly runs")
    timezone: str = Field(description="IANA name, as in Europe/Berlin")
    retries: int = Field(ge=0, le=10, description="further tries of a stage that failed for no fault of its input")
    retry_delay: int = Field(ge=0, description="seconds before the first further try; doubles each time")

    @field_validator("nightly_cron")
    @classmethod
    def _is_a_schedule(cls, value: str) -> str:
        try:
            CronSim(value, datetime(2000, 1, 1))
        except CronSimError as error:
            raise ValueError(f"no schedule: {error}; five fields: minute hour day month weekday") from None
        return value

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError("no such time zone; give an IANA name, as in Europe/Berlin")
        return value


class Settings(Section):
    data: DataSettings
    decoding: DecodingSettings
    validation: ValidateSettings = Field(alias="validate")
    prepare: PrepareSettings
    train: TrainSettings
    evaluate: EvaluateSettings
    gate: dict[str, GatePolicy] = Field(description="policy per model family")
    promote: PromoteSettings
    flow: FlowSettings


def load_settings(path: Path = PARAMS_FILE) -> Settings:
    """Reads and checks params.yaml.

    Raises:
        InputError: the file is missing or no YAML, or a key is unknown, missing, of the wrong type
            or out of range. All that is wrong is named at once.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: not found; start in the project's root or give --params") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read as YAML: {error}") from None
    return parse_settings(text, str(path))


def parse_settings(text: str, where: str) -> Settings:
    """Checks the content of a params.yaml; see `load_settings`.

    Args:
        where: the file, for the errors.
    """
    try:
        # The parser that DVC reads it with; PyYAML takes 1e-4 for a text.
        content = json.dumps(YAML(typ="safe", pure=True).load(text), default=str)
    except YAMLError as error:
        raise InputError(f"{where}: cannot be read as YAML: {error}") from None
    return check(Settings, content, where)


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

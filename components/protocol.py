"""The conditions under which metrics were measured: results are compared only where these agree.

Needs no torch, so that the flows can compare results without it.
"""

from dataclasses import dataclass

from components.errors import InputError
from components.measurement import GROUPS

VERSION = 3
"""Raised when the code changes so that the same settings give other numbers."""

FIELDS = (
    *("version", "features", "weights", "resolution", "resize", "split", "samples", "per_category", "seed", "k"),
    *("train", "copies", "groups", "model", "dataset"),
)
"""Names in `Protocol.text`."""

_FIELD, _VALUE = "; ", "="


@dataclass(frozen=True)
class Protocol:
    """Everything that a metric's value depends on besides the model.

    Attributes:
        features: name of the feature network.
        weights: SHA-256 of the feature network's weights.
        resolution: side of the square that images are resized to before the network, pixels.
        resize: the filter that does it.
        split: where the real images come from.
        n_real: number of real images.
        n_fake: number of generated images, with the conditions of the real ones.
        per_category: generated images of each category at least, by which its condition is judged.
        seed: of the choice of images, the latents, and the groups of the jackknife.
        neighbours: k of precision, recall, density and coverage.
        train_photos: training photos whose features were computed.
        copy_samples: generated images that were looked up among the training photos.
        copy_quantile: of held-out photos' distances, below which a sample counts as a copy.
        dataset: SHA-256 of the prepared dataset.
    """

    features: str
    weights: str
    resolution: int
    resize: str
    split: str
    n_real: int
    n_fake: int
    per_category: int
    seed: int
    neighbours: int
    train_photos: int
    copy_samples: int
    copy_quantile: float
    dataset: str

    @property
    def text(self) -> str:
        """The protocol as one line for JSON, tags and tables; digests shortened to 12 digits."""
        values = {
            "version": VERSION,
            "features": self.features,
            "weights": self.weights[:12],
            "resolution": self.resolution,
            "resize": self.resize,
            "split": self.split,
            "samples": f"{self.n_real}x{self.n_fake}",
            "per_category": self.per_category,
            "seed": self.seed,
            "k": self.neighbours,
            "train": self.train_photos,
            "copies": f"{self.copy_samples}@{self.copy_quantile:g}",
            "groups": GROUPS,
            # The weights that are served, never the raw ones of the last step.
            "model": "ema-if-kept",
            "dataset": self.dataset[:12],
        }
        return _FIELD.join(f"{name}{_VALUE}{value}" for name, value in values.items())


def assert_comparable(first: str, second: str) -> None:
    """Refuses to compare results that were measured under different protocols.

    Args:
        first: `Protocol.text` of one result.
        second: that of the other.

    Raises:
        InputError: they differ, or one of them is no protocol; the parts that differ are named.
    """
    for text in (first, second):
        _parsed(text)
    if found := differences(first, second):
        raise InputError(
            f"the results cannot be compared, their protocols differ in {found}; "
            "evaluate both models again with the same `evaluate:` section of params.yaml and the same dataset"
        )


def differences(first: str, second: str) -> str:
    """In which parts two protocols differ, and how, in words; empty where they do not."""
    one, other = _fields(first), _fields(second)
    return ", ".join(
        f"{name} ({one.get(name, 'missing')} and {other.get(name, 'missing')})"
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name)
    )


def is_current(text: str) -> bool:
    """Whether a protocol is of this version of the code."""
    return _fields(text).get("version") == str(VERSION)


def assert_known(text: str) -> None:
    """Refuses what is no protocol, or that of another version of this code.

    Raises:
        InputError: it is.
    """
    found = _parsed(text)
    version = found["version"]
    if version != str(VERSION):
        raise InputError(f"measured under protocol version {version}, this code knows {VERSION}; run `dvc repro`")
    if found.keys() != set(FIELDS):
        raise InputError(
            f"{text!r} is no protocol: it has {sorted(found)}, known are {sorted(FIELDS)}; run `dvc repro`"
        )


def _parsed(text: str) -> dict[str, str]:
    values = _fields(text)
    if len(values) != len(text.split(_FIELD)) or "version" not in values:
        raise InputError(f"{text!r} is no evaluation's protocol; run `dvc repro` to measure the model again")
    return values


def _fields(text: str) -> dict[str, str]:
    """Values by name; what is not of that form is left out."""
    pairs = (field.partition(_VALUE) for field in text.split(_FIELD))
    return {name: value for name, separator, value in pairs if separator}

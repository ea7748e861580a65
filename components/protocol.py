"""The conditions under which metrics were measured: results are compared only where these agree.

Needs no torch, so that the flows can compare results without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.errors import InputError

VERSION = 1
"""Raised when the code changes so that the same settings give other numbers."""

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
        seed: of the choice of real images, the latents, and the KID's subsets.
        kid_subsets: subsets whose mean is the kernel distance.
        kid_subset_size: images of either kind in each subset.
        neighbours: k of precision and recall.
        dataset: SHA-256 of the prepared dataset.
    """

    features: str
    weights: str
    resolution: int
    resize: str
    split: str
    n_real: int
    n_fake: int
    seed: int
    kid_subsets: int
    kid_subset_size: int
    neighbours: int
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
            "seed": self.seed,
            "kid": f"{self.kid_subsets}x{self.kid_subset_size}",
            "k": self.neighbours,
            # The weights that are served, never the raw ones of the last step.
            "model": "ema-if-kept",
            "dataset": self.dataset[:12],
        }
        return _FIELD.join(f"{name}{_VALUE}{value}" for name, value in values.items())


def assert_comparable(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Refuses to compare results that were measured under different protocols.

    Args:
        first: content of an evaluation.json, whose `protocol` is a `Protocol.text`.
        second: that of the other.

    Raises:
        InputError: they differ, or one of them has no protocol; the parts that differ are named.
    """
    one, other = _parsed(first.get("protocol")), _parsed(second.get("protocol"))
    differing = [
        f"{name} ({one.get(name, 'missing')} and {other.get(name, 'missing')})"
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name)
    ]
    if differing:
        raise InputError(
            f"the results cannot be compared, their protocols differ in {', '.join(differing)}; "
            "evaluate both models again with the same `evaluate:` section of params.yaml and the same dataset"
        )


def _parsed(text: object) -> dict[str, str]:
    pairs = [field.partition(_VALUE) for field in str(text).split(_FIELD)]
    values = {name: value for name, separator, value in pairs if separator}
    if len(values) != len(pairs) or "version" not in values:
        raise InputError(f"{text!r} is no evaluation's protocol; run `dvc repro` to make evaluation.json again")
    return values

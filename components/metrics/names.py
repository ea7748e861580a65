"""The published names of all that an evaluation measures."""

from collections.abc import Sequence
from dataclasses import dataclass

KINDS = {
    "frechet": "fd",
    "frechet_limit": "fd_inf",
    "kernel": "kd",
    "score": "is",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}
# FID, KID and Inception Score are names for Inception's features alone.
OF_INCEPTION = {"frechet": "fid", "frechet_limit": "fid_inf", "kernel": "kid", "score": "inception_score"}
OF_PAIRS = ("kernel", "precision", "recall", "density", "coverage")
EVERYWHERE = ("diversity", "diversity_ratio", "sharpness_ratio")
OVER_ALL = (
    "copies_by_features",
    "copies_by_pixels",
    "copying_ct",
    "duplicates",
    "nonfinite_samples",
)
OF_RECONSTRUCTION = ("reconstruction_psnr", "reconstruction_ssim")
FIDELITY = "condition_fidelity"
MARGIN = "condition_margin"


def metric_names(extractor: str) -> dict[str, str]:
    """The published name of each kind of metric on an extractor's features."""
    names = {kind: f"{short}_{extractor}" for kind, short in KINDS.items()}
    return {**names, **OF_INCEPTION} if extractor == "inception" else names


@dataclass(frozen=True)
class Known:
    """Names of metrics.

    Attributes:
        over_all: of all images.
        by_category: of each category; none without conditions.

    Those of reconstructions are measured only of models that reconstruct.
    """

    over_all: tuple[str, ...]
    by_category: tuple[str, ...]


def known_metrics(extractor: str, conditions: Sequence[str]) -> Known:
    """What an evaluation on this extractor's features can measure of a model with these conditions."""
    names = metric_names(extractor)
    fidelity = [FIDELITY] if conditions else []
    if len(conditions) > 1:
        fidelity += [f"{FIDELITY}_{name}" for name in conditions]
    of_pairs = [names[kind] for kind in OF_PAIRS]
    return Known(
        (*names.values(), *EVERYWHERE, *fidelity, *OVER_ALL, *OF_RECONSTRUCTION),
        (*of_pairs, *EVERYWHERE, *fidelity, MARGIN, *OF_RECONSTRUCTION) if conditions else (),
    )

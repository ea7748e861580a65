"""What each metric says, in words for people: for reports, model cards and descriptions."""

import math
import re
from dataclasses import dataclass, replace
from typing import Literal

Better = Literal["lower", "higher", "near 0", "near 1"]

GROUPS = ("Likeness", "Variety", "Conditions", "Copying", "Reconstruction", "Other")


@dataclass(frozen=True)
class Told:
    """A metric in words.

    Attributes:
        title: its name in words.
        group: one of GROUPS.
        better: what a better model has; None if it cannot be said.
        sentence: what it measures.
        bounded: it is drawn on a scale from 0 to 1.
        least, most: what it can be at all.
    """

    title: str
    group: str
    better: Better | None
    sentence: str
    bounded: bool = False
    least: float = -math.inf
    most: float = math.inf


_TOLD: tuple[tuple[str, Told], ...] = (
    (
        r"fd_inf_\w+|fid_inf",
        Told(
            "Fréchet distance, infinite samples",
            "Likeness",
            "lower",
            "The Fréchet distance extrapolated to infinitely many generated images, which takes most of its bias away.",
        ),
    ),
    (
        r"fd_\w+|fid",
        Told(
            "Fréchet distance",
            "Likeness",
            "lower",
            "How far the features of generated images lie from those of real ones, as two normal distributions. "
            "Few images push it up, so only equal numbers of images can be compared.",
            least=0,
        ),
    ),
    (
        r"kd_\w+|kid",
        Told(
            "Kernel distance",
            "Likeness",
            "lower",
            "The same question without assuming normal distributions, and unbiased: a perfect model gives 0, "
            "or by chance a little less.",
        ),
    ),
    (
        r"is_\w+|inception_score",
        Told(
            "Inception-like score",
            "Likeness",
            "higher",
            "Whether a classifier is sure of each image and sees many classes over all; it never looks at real photos.",
            least=1,
        ),
    ),
    (
        r"precision_\w+",
        Told(
            "Precision",
            "Likeness",
            "higher",
            "Share of generated images that lie where real photos lie.",
            bounded=True,
            least=0,
            most=1,
        ),
    ),
    (
        r"density_\w+",
        Told(
            "Density",
            "Likeness",
            "higher",
            "How many real photos' neighbourhoods a generated image lies in, less easily fooled by outliers than "
            "precision; about 1 for real photos, and it may be more.",
            least=0,
        ),
    ),
    (
        r"sharpness_ratio",
        Told(
            "Sharpness",
            "Likeness",
            "near 1",
            "Fine detail of generated images over that of real photos: below 1 they are blurred, above 1 noisy.",
            least=0,
        ),
    ),
    (
        r"nonfinite_samples",
        Told(
            "Broken images",
            "Likeness",
            "lower",
            "Generated images that hold NaN or infinity; one is too many.",
            least=0,
        ),
    ),
    (
        r"recall_\w+",
        Told(
            "Recall",
            "Variety",
            "higher",
            "Share of real photos that lie where generated images lie.",
            bounded=True,
            least=0,
            most=1,
        ),
    ),
    (
        r"coverage_\w+",
        Told(
            "Coverage",
            "Variety",
            "higher",
            "Share of real photos with a generated image in their neighbourhood: what is never made lowers it.",
            bounded=True,
            least=0,
            most=1,
        ),
    ),
    (
        r"diversity_ratio",
        Told(
            "Relative diversity",
            "Variety",
            "near 1",
            "How much images of one condition differ from each other, over how much real photos do: near 0 they "
            "are all the same.",
            least=0,
        ),
    ),
    (
        r"diversity",
        Told(
            "Diversity",
            "Variety",
            "higher",
            "How much two images of one condition differ to a feature network.",
            least=0,
        ),
    ),
    (
        r"condition_fidelity(_\w[\w ]*)?",
        Told(
            "Condition fidelity",
            "Conditions",
            "higher",
            "Share of generated images in which a classifier trained on real photos finds what was asked for; what "
            "real photos reach is how often it is right on those.",
            bounded=True,
            least=0,
            most=1,
        ),
    ),
    (
        r"condition_margin",
        Told(
            "Condition margin",
            "Conditions",
            "higher",
            "How much more often that classifier finds a category in images of it than in those of the other category "
            "where it finds it most: 0 or less where it is not made, whatever else comes in its place.",
            least=-1,
            most=1,
        ),
    ),
    (
        r"copies_by_features",
        Told(
            "Copies by features",
            "Copying",
            "lower",
            "Share of generated images nearer to a training photo, to a feature network, than nearly all held-out "
            "photos are.",
            least=0,
            most=1,
        ),
    ),
    (
        r"copies_by_pixels",
        Told(
            "Copies by pixels",
            "Copying",
            "lower",
            "The same by pixels, also where a photo was flipped, shifted or recoloured.",
            least=0,
            most=1,
        ),
    ),
    (
        r"copying_ct\w*",
        Told(
            "Data-copying test",
            "Copying",
            "near 0",
            "Whether generated images are nearer to training photos than held-out photos are, as a z value: about 0 "
            "is what held-out photos give, far below 0 means copies, far above 0 images unlike any photo.",
        ),
    ),
    (
        r"duplicates",
        Told(
            "Duplicates",
            "Copying",
            "lower",
            "Share of generated images that have a near twin among the others.",
            least=0,
            most=1,
        ),
    ),
    (
        r"reconstruction_psnr",
        Told(
            "Reconstruction PSNR",
            "Reconstruction",
            "higher",
            "How exactly photos come back from encoder and decoder, in dB.",
            least=0,
        ),
    ),
    (
        r"reconstruction_ssim",
        Told(
            "Reconstruction SSIM",
            "Reconstruction",
            "higher",
            "How well the structure of photos comes back from encoder and decoder; 1 is perfect.",
            bounded=True,
            least=-1,
            most=1,
        ),
    ),
)


def told(metric: str) -> Told:
    """A metric in words; of one that is not known, its own name."""
    for pattern, found in _TOLD:
        if re.fullmatch(pattern, metric):
            attribute = metric.removeprefix("condition_fidelity_")
            return found if attribute == metric else replace(found, title=f"{found.title}, {attribute}")
    return Told(metric, "Other", None, "")


def badness(metric: str, value: float) -> float | None:
    """What grows as a metric gets worse; None if it cannot be said which way that is."""
    wanted = told(metric).better
    if wanted is None:
        return None
    return {"lower": value, "higher": -value, "near 0": abs(value), "near 1": abs(value - 1)}[wanted]


def shown_interval(metric: str, ends: tuple[float, float] | None) -> str:
    """An interval for people, no end beyond what the metric can be; decisions are made on the ends as they are."""
    if ends is None:
        return "none"
    low, high = possible(metric, ends)
    return f"{shown(low)} to {shown(high)}"


def possible(metric: str, ends: tuple[float, float]) -> tuple[float, float]:
    """The same interval, cut where the metric ends: a share of 0 is no less than 0."""
    words = told(metric)
    low, high = (min(max(end, words.least), words.most) for end in ends)
    return low, high


def shown(value: float | None) -> str:
    """A number for people, to three digits; what is no finite number by name."""
    if value is None:
        return "none"
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinity"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value + 0.0:.3g}"  # no minus before a zero
    return text.replace("-", "−", 1) if text.startswith("-") else text

"""Where a model is weak, told from its numbers alone."""

import math
from collections.abc import Iterator, Mapping

from components.glossary import badness, shown, shown_interval, told
from components.measurement import Estimate, Measurement

SMALL_SPLIT, FEW_PHOTOS = 1000, 50
"""Held-out photos below which intervals are wide, of all and of a category."""
LOW_SHARE = 0.5
"""Of what real photos reach: recall and coverage that are surely below leave out much."""
SHARP = (0.9, 1.1)
"""Sharpness within which images are as sharp as real ones."""
VARIED = 0.8
"""Diversity, relative to real photos, below which images of a condition are surely too much alike."""
COPIED = -3.0
"""Score of the three-sample test below which images are nearer to training photos than chance allows."""
WEAKEST = 3


def limits_of(measurement: Measurement | None, counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Sentences about what the numbers warn of; never none.

    Args:
        counts: per category its images per split, where they are known.
    """
    if measurement is None:
        return ["Nothing is known of its quality: there is no measurement."]
    return [
        *_of_the_data(measurement, counts),
        *_of_all(measurement.metrics),
        *_of_categories(measurement),
    ] or ["The numbers warn of nothing in particular."]


def _of_the_data(measurement: Measurement, counts: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    parts = dict(part.partition("=")[::2] for part in measurement.protocol.split("; "))
    real = parts.get("samples", "").partition("x")[0]
    if real.isdecimal() and int(real) < SMALL_SPLIT:
        yield f"Measured on no more than {int(real):,} held-out photos: intervals are wide, distances biased upwards."
    untrained = [category for category, of_split in counts.items() if not of_split.get("train")]
    if untrained:
        yield f"Never trained on a photo of: {', '.join(untrained)}."
    split = parts.get("split", "test")
    few = [f"{category} ({n})" for category, of_split in counts.items() if (n := of_split.get(split, 0)) < FEW_PHOTOS]
    if few:
        yield f"Few held-out photos, so little is known of: {', '.join(few)}."


def _of_all(metrics: Mapping[str, Estimate]) -> Iterator[str]:
    for name, found in metrics.items():
        if not math.isfinite(found.value):
            yield f"{told(name).title} ({name}) could not be computed: {shown(found.value)}."
        if (fault := _fault(name, found)) is not None:
            floor = "" if found.floor is None else f"; real photos reach {shown(found.floor)}"
            yield f"It {fault}: {told(name).title.lower()} is {_with_interval(name, found)}{floor}."
    unsure = [name for name, found in metrics.items() if math.isfinite(found.value) and found.interval is None]
    if unsure:
        yield f"Without an interval, so only a hint: {', '.join(unsure)}."


def _of_categories(measurement: Measurement) -> Iterator[str]:
    """Per fault the categories that have it, the worst first; and those whose condition is met less than elsewhere."""
    faulty: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for category, metrics in measurement.by_category.items():
        for name, found in metrics.items():
            fault = _fault(name, found) or _missed_condition(name, found, measurement.metrics.get(name))
            if fault is not None:
                bad = badness(name, found.value) or 0.0
                faulty.setdefault((fault, name), []).append((bad, f"{category} ({shown(found.value)})"))
    for (fault, name), places in faulty.items():
        worst = [text for _, text in sorted(places, reverse=True)]
        more = f" and {len(worst) - WEAKEST} more" if len(worst) > WEAKEST else ""
        yield f"By {told(name).title.lower()}, it {fault} in: {', '.join(worst[:WEAKEST])}{more}."


def _fault(name: str, found: Estimate) -> str | None:
    """What the whole interval says against a model; None if it does not, or if there is none."""
    ends, words = found.interval, told(name)
    if ends is None:
        return None
    low, high = ends
    floor = math.nan if found.floor is None else found.floor  # nothing is more or less than that
    said = {
        "leaves out much of what real photos show": words.title in ("Recall", "Coverage") and high < LOW_SHARE * floor,
        "makes blurred images": name == "sharpness_ratio" and high < SHARP[0],
        "makes images noisier than photos": name == "sharpness_ratio" and low > SHARP[1],
        "makes images of one condition that are too much alike": name == "diversity_ratio" and high < VARIED,
        "comes too near to photos or to itself": (words.group == "Copying" and words.better == "lower" and low > floor)
        or (name == "copying_ct" and high < COPIED),
    }
    return next((text for text, holds in said.items() if holds), None)


def _missed_condition(name: str, found: Estimate, overall: Estimate | None) -> str | None:
    """Only shares of images can be held against the same share of all; distances and neighbourhoods cannot."""
    ends = found.interval
    less = ends is not None and overall is not None and ends[1] < overall.value
    return (
        "makes what was asked for surely less often than over all"
        if told(name).group == "Conditions" and less
        else None
    )


def _with_interval(name: str, found: Estimate) -> str:
    return f"{shown(found.value)}, 95% interval {shown_interval(name, found.interval)}"

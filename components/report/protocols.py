"""A protocol in words, for people who read a number and ask how it was taken."""

from collections.abc import Callable

_WORDS: dict[str, tuple[str, Callable[[str], str]]] = {
    "features": ("Feature network", str),
    "weights": ("Its weights", "SHA-256 {}…".format),
    "resolution": ("Images are resized for it", "to {0} x {0} pixels".format),
    "resize": ("Filter", str),
    "split": ("Real photos", "held-out ones of split {}".format),
    "samples": (
        "Images compared",
        lambda value: "{} real and {} generated, under the same conditions".format(*value.split("x")),
    ),
    "per_category": ("Conditions, by category", "judged by {} generated images of each at least".format),
    "seed": ("Seed", "{}: of the choice of images, the latents and the groups left out".format),
    "k": ("Neighbours", "{}: k of precision, recall, density and coverage".format),
    "train": ("Training photos", "{} at most whose features were computed".format),
    "copies": (
        "Copies",
        lambda value: "{} samples looked up; one counts if it is nearer than a share of {} of held-out photos".format(
            *value.split("@")
        ),
    ),
    "groups": ("Intervals", "95%, by a jackknife that leaves out each of {} groups of images".format),
    "model": (
        "Weights of the model",
        lambda value: "averaged ones where it keeps them" if value == "ema-if-kept" else value,
    ),
    "dataset": ("Data set", "version {}…".format),
    "version": ("Version of the protocol", str),
}


def in_words(protocol: str) -> list[tuple[str, str]]:
    """What each part of a `Protocol.text` says; a part that is not known, as it stands."""
    told = []
    for part in protocol.split("; "):
        name, _, value = part.partition("=")
        label, words = _WORDS.get(name, (name, str))
        try:
            told.append((label, words(value)))
        except IndexError:  # a value of another form than this version writes
            told.append((label, value))
    return told

"""Fashion-MNIST: 70,000 photos of Zalando's articles, 28x28 grey, 10 categories.

Xiao, Rasul, Vollgraf, 2017, arXiv:1708.07747. MIT licence.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.errors import InputError
from components.settings import DataSettings
from components.sources.fashion_mnist_files import SHA256, read_files
from components.sources.listing import Content, Entry, Listing

CATEGORIES = (
    "tshirt-top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
)
"""Names of the labels 0..9."""

UBYTE = 0x08
"""The idx format's code for unsigned bytes."""

PNG_BYTES = 880
"""Size of each photo as `png` writes it."""


@contextmanager
def opened(settings: DataSettings) -> Iterator[Listing]:
    """Upstream's order: train, then t10k; a subset is the beginning of each, in proportion.

    Raises:
        InputError: the files cannot be had or are damaged, or the subset is larger than the data.
    """
    files = read_files(settings.fashion_mnist)
    images = {split: read_idx(files[f"{split}-images-idx3-ubyte"], 3) for split in ("train", "t10k")}
    labels = {split: read_idx(files[f"{split}-labels-idx1-ubyte"], 1) for split in ("train", "t10k")}
    counts = share(settings.subset, len(images["train"]), len(images["t10k"]))

    def read(entry: Entry) -> Content:
        split, number = entry.where
        return Content(png(images[split][number]), entry.fingerprint)

    entries = [
        _entry(split, number, label)
        for split, count in zip(("train", "t10k"), counts, strict=True)
        for number, label in enumerate(labels[split][:count].tolist())
    ]
    yield Listing("fashion-mnist", entries, [], read)


def _entry(split: str, number: int, label: int) -> Entry:
    return Entry(
        file_name=f"{split}/{number:05}.png",
        source="fashion-mnist",
        category=CATEGORIES[label],
        split_hint=split,
        license="MIT",
        size=PNG_BYTES,
        fingerprint=SHA256[f"{split}-images-idx3-ubyte"],
        where=(split, number),
    )


def share(subset: int | None, train: int, t10k: int) -> tuple[int, int]:
    """How many photos of each split make the subset; a larger subset contains every smaller one.

    Raises:
        InputError: there are not that many.
    """
    total = train + t10k
    if subset is None:
        return train, t10k
    if subset > total:
        raise InputError(
            f"params.yaml: data.subset: found {subset}; Fashion-MNIST has {total} photos, null takes them all"
        )
    of_t10k = subset * t10k // total
    return subset - of_t10k, of_t10k


def read_idx(content: bytes, dimensions: int) -> NDArray[np.uint8]:
    """Content of an idx file of unsigned bytes, in the shape that its header gives.

    Raises:
        InputError: the header is another, or the size does not fit it.
    """
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes((0, 0, UBYTE, dimensions)):
        raise InputError(
            f"no idx file of unsigned bytes in {dimensions} dimensions: it begins with {content[:4].hex() or 'nothing'}"
        )
    shape = tuple(np.frombuffer(content, dtype=">u4", count=dimensions, offset=4).tolist())
    if len(content) - header != np.prod(shape):
        raise InputError(f"idx file of shape {shape}: it must hold {np.prod(shape)} bytes, has {len(content) - header}")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def png(pixels_HW: NDArray[np.uint8]) -> bytes:
    """8-bit grey PNG, not compressed: a photo's id must not hang on the version of zlib."""
    buffer = io.BytesIO()
    Image.fromarray(pixels_HW).save(buffer, format="PNG", compress_level=0)
    return buffer.getvalue()

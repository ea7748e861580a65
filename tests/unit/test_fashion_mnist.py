import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import InputError
from components.photos.decoding import decode
from components.raw import id_of
from components.settings import DataSettings, DecodingSettings
from components.sources import fashion_mnist as source
from components.sources.listing import Entry

LIMITS = DecodingSettings(pixels=10**6, frames=1, seconds=10.0, memory_mb=512)


def photos(settings: DataSettings) -> list[tuple[Entry, bytes]]:
    with source.opened(settings) as listing:
        return [(entry, listing.read(entry).image) for entry in listing.entries]


def first_labels(folder: Path, split: str, count: int) -> list[int]:
    return list((folder / f"{split}-labels-idx1-ubyte").read_bytes()[8 : 8 + count])


def test_photos_are_those_of_the_files(fashion_mnist: Path, data_settings: Callable[..., DataSettings]) -> None:
    entries, images = zip(*photos(data_settings(140)), strict=True)
    names = [f"train/{number:05}.png" for number in range(120)] + [f"t10k/{number:05}.png" for number in range(20)]
    assert [entry.file_name for entry in entries] == names
    labels = first_labels(fashion_mnist, "train", 120) + first_labels(fashion_mnist, "t10k", 20)
    assert [entry.category for entry in entries] == [source.CATEGORIES[label] for label in labels]
    pixels = (fashion_mnist / "train-images-idx3-ubyte").read_bytes()[16 + 7 * 784 : 16 + 8 * 784]
    assert decode(images[7], LIMITS).image.tobytes() == pixels


def test_labels_mean_what_upstream_says(data_settings: Callable[..., DataSettings]) -> None:
    categories = [entry.category for entry, _ in photos(data_settings(140))[:6]]
    assert categories == ["ankle-boot", "tshirt-top", "tshirt-top", "dress", "tshirt-top", "pullover"]


def test_ids_do_not_hang_on_the_libraries_at_hand(data_settings: Callable[..., DataSettings]) -> None:
    """If this fails, the ids of all users have changed."""
    entry, image = photos(data_settings(140))[0]
    compressed = image[41 : 41 + int.from_bytes(image[33:37], "big")]
    assert image[37:41] == b"IDAT"
    assert zlib.compress(zlib.decompress(compressed), level=0) == compressed, "Python's zlib is not Pillow's"
    assert id_of(image) == "320ab32bfec52378eafe3bdf8371e84f9927a4d4838c56326ad0f33d9f717fd5"
    assert entry.size == len(image)


@given(st.integers(1, 69_999))
def test_larger_subsets_contain_smaller_ones(subset: int) -> None:
    train, t10k = source.share(subset, 60_000, 10_000)
    more_train, more_t10k = source.share(subset + 1, 60_000, 10_000)
    assert train + t10k == subset
    assert (more_train - train, more_t10k - t10k) in [(1, 0), (0, 1)]
    assert abs(t10k - subset / 7) < 1


def test_no_subset_is_everything() -> None:
    assert source.share(None, 60_000, 10_000) == (60_000, 10_000) == source.share(70_000, 60_000, 10_000)


def test_too_large_a_subset_is_refused() -> None:
    with pytest.raises(InputError, match=r"data\.subset: found 70001; Fashion-MNIST has 70000"):
        source.share(70_001, 60_000, 10_000)


def test_idx_is_read_in_its_shape() -> None:
    content = bytes((0, 0, 8, 2)) + struct.pack(">II", 2, 3) + bytes(range(6))
    assert source.read_idx(content, 2).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing"),
        (bytes((0, 0, 8, 3)) + bytes(8), "begins with 00000803"),
        (bytes((0, 0, 9, 2)) + struct.pack(">II", 1, 1) + b"x", "begins with 00000902"),
        (bytes((0, 0, 8, 2)) + struct.pack(">II", 2, 3) + bytes(5), "must hold 6 bytes, has 5"),
        (bytes((0, 0, 8, 2)) + struct.pack(">II", 2, 3) + bytes(7), "must hold 6 bytes, has 7"),
    ],
)
def test_other_idx_files_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        source.read_idx(content, 2)


def test_compressed_files_are_the_same(
    fashion_mnist: Path, tmp_path: Path, data_settings: Callable[..., DataSettings]
) -> None:
    for path in fashion_mnist.iterdir():
        (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), compresslevel=1))
    plain = data_settings(20)
    compressed = plain.model_copy(
        update={"fashion_mnist": plain.fashion_mnist.model_copy(update={"folder": str(tmp_path)})}
    )
    assert photos(compressed) == photos(plain)

"""Profiles are built byte by byte (ICC.1:2022, sections 7 to 10), so that what they mean is known."""

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageCms

from components.photos.decoding import decode
from tests.fuzzing import LIMITS

Encode = Callable[..., bytes]

LEVELS = np.arange(256, dtype=np.uint8)
COLOURS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
D50 = struct.pack(">4s4x3i", b"XYZ ", 63190, 65536, 54061)


def profile(kind: bytes, space: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of version 2."""
    offset = 128 + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += struct.pack(">4sII", name, offset + len(data), len(content))
        data += content
    size = offset + len(data)
    header = struct.pack(">I4sI4s4s4s12x4s", size, bytes(4), 0x02100000, kind, space, pcs, b"acsp")
    header = header.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + data


GREY = profile(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": D50, b"kTRC": struct.pack(">4s4xIH", b"curv", 1, 0x01CD)})
"""Grey of gamma 1.8, as that of old printers."""

SWAPPED = SRGB.replace(b"rXYZ", b"temp").replace(b"bXYZ", b"rXYZ").replace(b"temp", b"bXYZ")
"""sRGB, but that its red is blue and its blue is red."""


def nearly_srgb() -> bytes:
    """sRGB with a red that is 0.8 % brighter."""
    content = bytearray(SRGB)
    position = struct.unpack_from(">I", content, content.index(b"rXYZ") + 4)[0] + 8
    red = [round(value * 1.008) for value in struct.unpack_from(">3i", content, position)]
    struct.pack_into(">3i", content, position, *red)
    return bytes(content)


NEARLY_SRGB = nearly_srgb()


def ink_profile() -> bytes:
    """CMYK of which only black counts: lightness is 100 without and 0 with it."""
    ramp = bytes(range(256))
    nodes = b"".join(bytes([0 if black else 255, 128, 128]) for _ in range(8) for black in (0, 1))
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = struct.pack(">4s4xBBBx", b"mft1", 4, 3, 2) + matrix + ramp * 4 + nodes + ramp * 3
    return profile(b"prtr", b"CMYK", b"Lab ", {b"wtpt": D50, b"A2B0": table, b"A2B1": table})


def as_srgb(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(decode(content, LIMITS).image)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_colours_are_taken_to_srgb(kind: str, encoded: Encode) -> None:
    options: dict[str, object] = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    found = pixels(encoded(COLOURS, kind, icc_profile=SWAPPED, **options))
    plain = pixels(encoded(COLOURS, kind, **options))
    np.testing.assert_allclose(found.astype(int), plain[..., ::-1], atol=2)
    assert np.abs(found.astype(int) - plain).max() > 100


def test_alpha_and_palettes_are_too(encoded: Encode) -> None:
    alpha = np.dstack([COLOURS, COLOURS[..., 0]])
    found = pixels(encoded(alpha, icc_profile=SWAPPED))
    np.testing.assert_allclose(found[..., :3].astype(int), COLOURS[..., ::-1], atol=2)
    assert np.array_equal(found[..., 3], alpha[..., 3])
    palette = Image.new("P", (2, 1))
    palette.putdata([0, 1])
    palette.putpalette([200, 0, 0, 0, 0, 100])
    found = pixels(encoded(palette, icc_profile=SWAPPED))
    np.testing.assert_allclose(found.astype(int), [[[0, 0, 200], [100, 0, 0]]], atol=2)


def test_grey_keeps_its_one_channel(encoded: Encode) -> None:
    photo = decode(encoded(LEVELS[None], icc_profile=GREY), LIMITS)
    assert photo.image.mode == "L"
    expected = as_srgb((LEVELS / 255) ** (0x01CD / 256))
    np.testing.assert_allclose(np.asarray(photo.image)[0].astype(int), expected, atol=2)
    assert np.abs(expected - LEVELS).max() > 10
    transparent = decode(encoded(np.dstack([LEVELS[None], LEVELS[None]]), icc_profile=GREY), LIMITS)
    assert transparent.image.mode == "LA"
    assert np.array_equal(np.asarray(transparent.image)[0, :, 0], np.asarray(photo.image)[0])
    assert np.array_equal(np.asarray(transparent.image)[0, :, 1], LEVELS)


def test_inks_are_mixed_as_their_profile_says(encoded: Encode) -> None:
    """The naive way would make 200 of cyan 55 of red."""
    inks = np.zeros((1, 256, 4), dtype=np.uint8)
    inks[..., 0] = 200
    inks[..., 3] = LEVELS
    content = encoded(Image.frombytes("CMYK", (256, 1), inks.tobytes()), "TIFF", icc_profile=ink_profile())
    found = pixels(content)[0].astype(int)
    lightness = 100 * (1 - LEVELS / 255)
    luminance = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    np.testing.assert_allclose(found, np.repeat(as_srgb(luminance)[:, None], 3, axis=1), atol=3)
    assert pixels(encoded(Image.frombytes("CMYK", (256, 1), inks.tobytes()), "TIFF"))[0, 0].tolist() == [55, 255, 255]


def test_srgb_itself_changes_nothing(encoded: Encode) -> None:
    """Not even by rounding, in one of its many versions."""
    assert np.array_equal(pixels(encoded(COLOURS, icc_profile=SRGB)), COLOURS)
    assert np.array_equal(pixels(encoded(COLOURS, icc_profile=NEARLY_SRGB)), COLOURS)
    # Applied, it would.
    applied = ImageCms.profileToProfile(
        Image.fromarray(COLOURS), io.BytesIO(NEARLY_SRGB), ImageCms.createProfile("sRGB")
    )
    assert 0 < np.abs(np.asarray(applied).astype(int) - COLOURS).max() <= 1


@pytest.mark.parametrize(
    "broken",
    [
        b"no profile",
        bytes(1000),
        SRGB[:200],
        SRGB[:-300],
        GREY,
        ink_profile(),
        SWAPPED + bytes(5 * 2**20),
        SWAPPED[:128] + b"\xff\xff\xff\xff" + SWAPPED[132:],
    ],
)
def test_a_profile_that_cannot_be_used_costs_no_photo(broken: bytes, encoded: Encode) -> None:
    """Damaged, of other pixels, or too large."""
    assert np.array_equal(pixels(encoded(COLOURS, "TIFF", icc_profile=broken)), COLOURS)

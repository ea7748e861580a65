import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from components.decoding import COLOUR_MODES, UndecodableError, decode, flatten

Encode = Callable[..., bytes]

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)


@pytest.mark.parametrize(
    ("image", "kind", "stored", "worked_on"),
    [
        (Image.fromarray(GREY), "PNG", "L", "L"),
        (Image.fromarray(GREY), "JPEG", "L", "L"),
        (Image.fromarray(GREY > 100), "PNG", "1", "L"),
        (Image.fromarray(GREY).convert("LA"), "PNG", "LA", "LA"),
        (Image.fromarray(COLOUR), "PNG", "RGB", "RGB"),
        (Image.fromarray(COLOUR), "WEBP", "RGB", "RGB"),
        (Image.fromarray(COLOUR).convert("RGBA"), "PNG", "RGBA", "RGBA"),
        (Image.fromarray(COLOUR).convert("P"), "GIF", "P", "RGB"),
        (Image.fromarray(COLOUR).convert("CMYK"), "JPEG", "CMYK", "RGB"),
        (Image.fromarray(COLOUR).convert("CMYK"), "TIFF", "CMYK", "RGB"),
    ],
)
def test_modes(image: Image.Image, kind: str, stored: str, worked_on: str, encoded: Encode) -> None:
    photo = decode(encoded(image, kind))
    assert (photo.format, photo.mode, photo.image.mode) == (kind, stored, worked_on)
    assert COLOUR_MODES[stored].startswith(worked_on[:1])
    assert photo.image.size == (4, 3)


def test_pixels_are_kept(encoded: Encode) -> None:
    assert np.array_equal(np.asarray(decode(encoded(COLOUR)).image), COLOUR)


def test_sixteen_bits_become_eight(encoded: Encode) -> None:
    deep = np.array([[0, 255, 256, 0x1234, 0xFFFF]], dtype=np.uint16)
    assert np.asarray(decode(encoded(deep)).image).tolist() == [[0, 0, 1, 0x12, 0xFF]]


def test_a_palette_gives_its_colours(encoded: Encode) -> None:
    """The same indices, other colours."""
    pictures = []
    for palette in ([10, 20, 30, 40, 50, 60], [40, 50, 60, 10, 20, 30]):
        image = Image.new("P", (2, 1))
        image.putdata([0, 1])
        image.putpalette(palette)
        pictures.append(np.asarray(decode(encoded(image)).image).tolist())
    assert pictures == [[[[10, 20, 30], [40, 50, 60]]], [[[40, 50, 60], [10, 20, 30]]]]


def test_a_transparent_colour_counts_as_alpha(encoded: Encode) -> None:
    photo = decode(encoded(Image.fromarray(np.array([[7, 9]], dtype=np.uint8)), transparency=7))
    assert photo.image.mode == "LA"
    assert np.asarray(photo.image)[0].tolist() == [[7, 0], [9, 255]]


def test_photos_are_turned_upright(encoded: Encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright = decode(encoded(COLOUR, exif=exif)).image
    assert np.array_equal(np.asarray(upright), np.rot90(COLOUR, k=-1))


def test_alpha_is_laid_on_white() -> None:
    pixels = np.array([[[200, 0, 100, 255], [200, 0, 100, 0], [200, 0, 100, 128]]], dtype=np.uint8)
    flat = np.asarray(flatten(Image.fromarray(pixels), 3))
    assert flat[0, :2].tolist() == [[200, 0, 100], [255, 255, 255]]
    np.testing.assert_allclose(flat[0, 2], np.array([200, 0, 100]) * 128 / 255 + 127, atol=1)


def test_grey_alpha_stays_exact_where_opaque() -> None:
    levels = np.arange(256, dtype=np.uint8)[None]
    opaque = np.stack([levels, np.full_like(levels, 255)], axis=-1)
    assert np.array_equal(np.asarray(flatten(Image.fromarray(opaque), 1)), levels)
    assert np.array_equal(np.asarray(flatten(Image.fromarray(opaque), 3)), np.repeat(levels[..., None], 3, axis=-1))


def png_of(width: int, height: int, pixels: bytes) -> bytes:
    """A grey PNG whose header may promise more than it holds."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(pixels)),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [*chunks, (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + body


def test_decompression_bombs_are_refused() -> None:
    with pytest.raises(UndecodableError, match="DecompressionBombWarning"):
        decode(png_of(10_000, 10_000, b""))
    with pytest.raises(UndecodableError, match="DecompressionBombError"):
        decode(png_of(60_000, 60_000, b""))


@pytest.mark.parametrize("keep", [0, 4, 20, 300, -30])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_truncated_files_are_refused(kind: str, keep: int, encoded: Encode) -> None:
    rng = np.random.default_rng(0)
    content = encoded(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), kind)
    with pytest.raises(UndecodableError):
        decode(content[:keep])


def test_a_flipped_bit_in_the_pixels_is_noticed(encoded: Encode) -> None:
    content = bytearray(encoded(GREY))
    content[45] ^= 1
    with pytest.raises(UndecodableError):
        decode(bytes(content))


def test_formats_that_start_programs_are_not_opened(encoded: Encode) -> None:
    content = encoded(COLOUR, "EPS")
    Image.open(io.BytesIO(content))  # Pillow itself knows it
    with pytest.raises(UndecodableError, match="no image of PNG"):
        decode(content)


def test_modes_without_eight_bit_colours_are_refused(encoded: Encode) -> None:
    with pytest.raises(UndecodableError, match="mode F is none of"):
        decode(encoded(GREY.astype(np.float32), "TIFF"))


def test_errors_are_the_same_on_every_run() -> None:
    texts = set()
    for _ in range(3):
        with pytest.raises(UndecodableError) as caught:
            decode(b"no image" * 50)
        texts.add(str(caught.value))
    assert len(texts) == 1
    assert "0x" not in texts.pop()
